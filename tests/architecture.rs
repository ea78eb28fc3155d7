//! The module structure of docs/architecture.md: a module imports only from modules listed before it in `src/lib.rs`,
//! and each large dependency is used by the modules that need it only.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The modules that may use a crate. A crate that is not listed may be used anywhere.
const USERS: &[(&str, &[&str])] = &[
    // Metrics are exported over HTTP; administration caches encoded responses.
    // The console keeps a binding in the form that removes it.
    ("prost", &["telemetry", "stream", "service", "console", "fuzzing"]),
    ("tonic", &["telemetry", "audit", "auth", "service", "transport", "console", "cli"]),
    ("tonic_types", &["service", "transport", "console"]),
    ("toml", &["config"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("opentelemetry_otlp", &["telemetry"]),
    ("opentelemetry_semantic_conventions", &["telemetry"]),
    ("tracing_subscriber", &["telemetry"]),
    ("procfs", &["telemetry"]),
    ("rcgen", &["pki"]),
    ("x509_parser", &["pki"]),
    ("sqlx", &["store"]),
    // The store encrypts private keys, the console its sessions.
    ("aws_lc_rs", &["store", "auth", "console"]),
    ("jsonwebtoken", &["auth"]),
    ("argon2", &["auth"]),
    ("governor", &["auth", "tenant", "service"]),
    ("lapin", &["broker"]),
    ("async_compat", &["broker"]),
    ("async_rs", &["broker"]),
    // For metrics over HTTP, the keys of external issuers, the management API, and Jaeger's API in
    // the command line, and the readiness of another process.
    ("reqwest", &["telemetry", "auth", "provision", "transport", "cli"]),
    // Provisioning and the composition root use its error type only.
    ("rustls", &["broker", "provision", "transport", "gateway"]),
    // `doctor` inspects the broker's certificate.
    ("tokio_rustls", &["broker", "transport"]),
    ("axum", &["transport", "console"]),
    ("maud", &["console"]),
    ("http_body", &["transport", "console"]),
    ("tonic_health", &["transport"]),
    ("tonic_reflection", &["transport"]),
    ("tonic_web", &["transport"]),
    ("tower", &["transport"]),
    ("tower_http", &["transport"]),
    ("opentelemetry_proto", &["telemetry"]),
    ("warrengate_testkit", &["stack", "cli"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("comfy_table", &["cli"]),
    ("anyhow", &["cli"]),
];

struct File {
    path: PathBuf,
    module: String,
    text: String,
    /// Without comments and unit tests.
    code: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The top-level modules in the order of `lib.rs`.
fn modules() -> Vec<String> {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let names = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    names.map(str::to_owned).collect()
}

fn files() -> Vec<File> {
    let mut paths = Vec::new();
    collect(&root().join("src"), &mut paths);
    let files = paths.into_iter().map(|path| {
        let inside = path.strip_prefix(root().join("src")).unwrap();
        let first = inside.iter().next().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap().to_owned();
        let code: String =
            code.lines().filter(|line| !line.trim_start().starts_with("//")).fold(String::new(), |mut code, line| {
                code.push_str(line);
                code.push('\n');
                code
            });
        File { module: first.trim_end_matches(".rs").to_owned(), path, text, code }
    });
    files.collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Unit tests in separate files may import from any module.
fn is_test(file: &File) -> bool {
    let inside = file.path.strip_prefix(root().join("src")).unwrap();
    inside.iter().any(|part| part == "tests.rs" || part == "tests" || part == "peer.rs")
}

/// The modules that a text names: in `crate::module::…` and in `use crate::{module::…, …}`.
fn named(code: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => {
                modules.extend(identifier(rest));
            }
            Some(list) => {
                let mut depth = 1;
                let mut expects = true;
                for (at, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 1 => expects = true,
                        c if depth == 1 && expects && c.is_alphabetic() => {
                            modules.extend(identifier(&list[at..]));
                            expects = false;
                        }
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
        }
    }
    modules
}

fn identifier(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

fn uses(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}::")).any(|(at, _)| {
        !code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '"')
    })
}

#[test]
fn a_module_imports_only_from_modules_listed_before_it() {
    let modules = modules();
    let order: BTreeMap<_, _> = modules.iter().enumerate().map(|(place, module)| (module.as_str(), place)).collect();
    let mut wrong = Vec::new();
    for file in files().iter().filter(|file| !is_test(file)) {
        let Some(own) = order.get(file.module.as_str()) else { continue };
        for module in named(&file.code) {
            if order.get(module.as_str()).is_some_and(|place| place > own) {
                wrong.push(format!("{} imports from {module}, which is later in src/lib.rs", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_belongs_to_a_module_of_lib_rs() {
    let modules = modules();
    assert!(modules.len() > 10, "{modules:?}");
    for file in files() {
        let known = modules.contains(&file.module) || ["lib", "main"].contains(&file.module.as_str());
        assert!(known, "{} belongs to no module", file.path.display());
        assert!(!file.path.ends_with("mod.rs"), "{}: foo.rs next to foo/", file.path.display());
    }
}

#[test]
fn each_large_dependency_is_used_by_its_modules_only() {
    let mut wrong = Vec::new();
    for file in files().iter().filter(|file| !is_test(file)) {
        for (name, users) in USERS {
            if uses(&file.code, name) && !users.contains(&file.module.as_str()) {
                wrong.push(format!("{} uses {name}, which only {users:?} may use", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_begins_with_its_documentation() {
    for file in files() {
        assert!(file.text.starts_with("//!"), "{} does not begin with //!", file.path.display());
    }
}

#[test]
fn imports_are_recognised() {
    let modules =
        named("use crate::{\n    broker::{self, Broker},\n    names::X,\n};\nlet x = crate::pki::Y; $crate::z::A;");
    assert_eq!(modules.into_iter().collect::<Vec<_>>(), ["broker", "names", "pki"]);
    assert!(uses("use lapin::Channel;", "lapin") && !uses("use my_lapin::Channel; a::lapin::b", "lapin"));
}

/// The files that a file of `src/broker` imports from, by the module that each path begins with.
fn broker_imports(file: &Path, code: &str) -> BTreeSet<PathBuf> {
    let inside = file.strip_prefix(root().join("src")).unwrap().with_extension("");
    let own: Vec<_> = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    let statements = code.split(';').filter_map(|statement| {
        let start = statement.rfind("\nuse ").or_else(|| statement.rfind("\npub use "))?;
        Some(statement[start..].split_once("use ")?.1.split_whitespace().collect::<String>())
    });
    let paths = statements.flat_map(|tree| expand(&tree)).map(|path| {
        let mut module = own.clone();
        for (index, part) in path.split("::").enumerate() {
            match (index, part) {
                (0, "crate") => module.clear(),
                (_, "self") => {}
                (_, "super") => drop(module.pop()),
                (0, _) => return Vec::new(),
                _ => module.push(part.to_owned()),
            }
        }
        module
    });
    let file_of = |mut module: Vec<String>| {
        while !module.is_empty() {
            let path = root().join("src").join(module.join("/")).with_extension("rs");
            if path.is_file() {
                return Some(path);
            }
            module.pop();
        }
        None
    };
    let in_broker = |path: &PathBuf| path.starts_with(root().join("src/broker")) || path.ends_with("src/broker.rs");
    paths.filter_map(file_of).filter(|path| path != file && in_broker(path)).collect()
}

/// `a::{b, c::{d}}` as `a::b` and `a::c::d`.
fn expand(tree: &str) -> Vec<String> {
    let Some((prefix, rest)) = tree.split_once('{') else { return vec![tree.to_owned()] };
    let inner = rest.strip_suffix('}').unwrap_or(rest);
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    parts.flat_map(expand).map(|path| format!("{prefix}{path}")).collect()
}

#[test]
fn the_files_of_broker_do_not_import_each_other_in_a_cycle() {
    let in_broker = |path: &Path| path.starts_with(root().join("src/broker")) || path.ends_with("src/broker.rs");
    let broker: Vec<_> = files().into_iter().filter(|file| in_broker(&file.path)).collect();
    let mut open: BTreeMap<_, _> = broker
        .iter()
        .filter(|file| !is_test(file))
        .map(|file| (file.path.clone(), broker_imports(&file.path, &file.code)))
        .collect();
    assert!(open.values().map(BTreeSet::len).sum::<usize>() > 40, "too few imports were found: {open:?}");
    // Files that import from none of the rest are removed until none is left; the remaining ones are on a cycle or
    // import from one.
    loop {
        let done: Vec<_> = open.iter().filter(|(_, from)| from.is_empty()).map(|(file, _)| file.clone()).collect();
        if done.is_empty() {
            break;
        }
        open.retain(|file, _| !done.contains(file));
        open.values_mut().for_each(|from| from.retain(|file| !done.contains(file)));
    }
    assert!(open.is_empty(), "these files import each other in a cycle: {open:#?}");
}
