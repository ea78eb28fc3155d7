//! Checks of the documentation: links have targets, named files and tests exist, and every error code is documented.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot continue has failed")]

#[path = "documents/reference.rs"]
mod reference;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Modules whose reasons are shown to operators only, at a terminal.
const OPERATORS: [&str; 3] = ["pki", "config", "telemetry"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_installed = path.file_name().is_some_and(|name| name == "node_modules" || name == ".venv");
        if path.is_dir() && !is_installed {
            collect(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

fn all(folders: &[&str], extension: &str) -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    folders.iter().for_each(|folder| collect(&root().join(folder), extension, &mut paths));
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The Markdown files of this repository.
fn documents() -> Vec<(PathBuf, String)> {
    let folders = ["docs", "broker-config", "certs", "clients", "examples", "proto"];
    let mut documents = all(&folders, "md");
    for entry in fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "md") {
            documents.push((path.clone(), fs::read_to_string(path).unwrap()));
        }
    }
    documents
}

/// The texts between an opening and a closing delimiter.
fn between<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    text.split(open).skip(1).filter_map(|rest| rest.split_once(close)).map(|(inside, _)| inside).collect()
}

/// The texts between two delimiters of the same kind: every second part.
fn quoted(text: &str, delimiter: char) -> impl Iterator<Item = &str> {
    text.split(delimiter).skip(1).step_by(2)
}

/// The anchors of a page's headings.
fn sections(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let name = |heading: &str| -> String {
        let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
    };
    headings.map(name).collect()
}

#[test]
fn every_link_has_a_target() {
    let mut broken = Vec::new();
    for (path, text) in documents() {
        // Code is not Markdown: `function[T](argument)` is not a link.
        let prose: String = text.split("```").step_by(2).collect();
        for link in between(&prose, "](", ")") {
            let (file, section) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let is_page = target.extension().is_some_and(|e| e == "md");
            let is_there = |target: &Path| {
                let is_section = || sections(&fs::read_to_string(target).unwrap()).contains(section);
                target.exists() && (section.is_empty() || !is_page || is_section())
            };
            if !link.contains("://") && !is_there(&target) {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_file_named_in_the_documentation_exists() {
    let sources: Vec<PathBuf> = all(&["src", "tests", "examples", "clients/rust", "crates", "proto"], "rs")
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    let (mut missing, mut seen) = (Vec::new(), 0);
    for (path, text) in documents() {
        for word in quoted(&text, '`').filter(|word| word.ends_with(".rs") && !word.contains(' ')) {
            seen += 1;
            // "foo.rs beside foo/" is a rule of CONTRIBUTING.md, not a file.
            if word != "foo.rs" && !sources.iter().any(|source| source.ends_with(word)) {
                missing.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert!(seen > 20, "only {seen} files are named");
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_test_named_in_the_documentation_exists() {
    let tests: String = all(&["tests/it"], "rs").into_iter().map(|(_, text)| text).collect();
    let text = fs::read_to_string(root().join("docs/reliability.md")).unwrap();
    let named = quoted(&text, '`').filter_map(|word| {
        let name = word.rsplit_once("::").map(|(_, name)| name).or(word.strip_prefix('…'))?;
        (!name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')).then_some(name)
    });
    let named: Vec<_> = named.collect();
    assert!(named.len() > 30, "only {named:?}");
    let missing: Vec<_> = named.into_iter().filter(|name| !tests.contains(&format!("{name}("))).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_error_code_that_a_caller_can_receive_is_documented() {
    let page = fs::read_to_string(root().join("docs/reference/errors.md")).unwrap();
    let (mut unexplained, mut seen) = (BTreeSet::new(), 0);
    for (path, text) in all(&["src"], "rs") {
        let inside = path.strip_prefix(root().join("src")).unwrap();
        let module = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if OPERATORS.contains(&module) || module == "cli" {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
        // Reasons are defined in `fn reason`, and as the second argument of a failure.
        let made = between(code, "fn reason(&self) -> &'static str {", "\n    }").join(" ");
        let failures = between(code, "Failure::new(", ";").join(" ");
        for word in quoted(&made, '"').chain(quoted(&failures, '"')) {
            let is_reason = word.len() > 3 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
            seen += usize::from(is_reason);
            if is_reason && !page.contains(&format!("`{word}`")) {
                unexplained.insert(word.to_owned());
            }
        }
    }
    assert!(seen > 50, "only {seen} reasons were found");
    assert!(unexplained.is_empty(), "docs/reference/errors.md does not explain: {unexplained:?}");
}
