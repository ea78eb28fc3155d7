//! The house stays as docs/architecture.md draws it: rooms import only from rooms above them, each large dependency lives
//! in its room, files stay small and say what they are for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Which rooms may name which crates. A crate that is not here may be used anywhere.
const HOMES: &[(&str, &[&str])] = &[
    // Metrics go out by HTTP, too; administration remembers encoded answers.
    ("prost", &["telemetry", "service"]),
    ("tonic", &["telemetry", "audit", "auth", "service", "transport", "bench", "cli"]),
    ("tonic_types", &["service"]),
    ("toml", &["config"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("opentelemetry_otlp", &["telemetry"]),
    ("opentelemetry_semantic_conventions", &["telemetry"]),
    ("tracing_subscriber", &["telemetry"]),
    ("prometheus_client", &["telemetry"]),
    ("procfs", &["telemetry"]),
    ("rcgen", &["pki"]),
    ("x509_parser", &["pki"]),
    ("sqlx", &["store"]),
    // The store seals private keys with it.
    ("aws_lc_rs", &["store", "auth"]),
    ("jsonwebtoken", &["auth"]),
    ("argon2", &["auth"]),
    ("governor", &["auth", "tenant"]),
    // The bench measures the gateway against direct clients, which must be lapin's own.
    ("lapin", &["broker", "bench"]),
    ("async_compat", &["broker"]),
    ("rabbitmq_http_client", &["provision"]),
    // Metrics are posted; keys of other issuers are fetched; the command line asks Jaeger.
    ("reqwest", &["telemetry", "auth", "provision", "cli"]),
    // Provisioning and the composition root name its error type only.
    ("rustls", &["broker", "provision", "transport", "gateway"]),
    // The doctor looks at the broker's certificate.
    ("tokio_rustls", &["broker", "transport"]),
    ("axum", &["transport"]),
    ("http_body", &["transport"]),
    ("tonic_health", &["transport"]),
    ("tonic_reflection", &["transport"]),
    ("tonic_web", &["transport"]),
    ("tower", &["transport"]),
    ("tower_http", &["transport"]),
    ("hdrhistogram", &["bench"]),
    ("opentelemetry_proto", &["telemetry", "bench"]),
    ("sysinfo", &["bench"]),
    ("plotters", &["bench"]),
    ("clap", &["cli"]),
    ("comfy_table", &["cli"]),
    ("anyhow", &["cli"]),
];

const MOST_LINES: usize = 400;
const MOST_LINES_IN_MAIN: usize = 60;
const MOST_LINES_IN_THE_MIDDLE: usize = 200;

struct File {
    path: PathBuf,
    room: String,
    text: String,
    /// Without its unit tests.
    code: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// In the order of `lib.rs`.
fn rooms() -> Vec<String> {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    modules.map(str::to_owned).collect()
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
        File { room: first.trim_end_matches(".rs").to_owned(), path, text, code }
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

/// Unit tests in files of their own may look anywhere.
fn is_test(file: &File) -> bool {
    let inside = file.path.strip_prefix(root().join("src")).unwrap();
    inside.iter().any(|part| part == "tests.rs" || part == "tests" || part == "peer.rs")
}

/// The rooms that a text names: in `crate::room::…` and in `use crate::{room::…, …}`.
fn named(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => {
                rooms.extend(identifier(rest));
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
                            rooms.extend(identifier(&list[at..]));
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
    rooms
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
fn a_room_imports_only_from_rooms_above_it() {
    let rooms = rooms();
    let order: BTreeMap<_, _> = rooms.iter().enumerate().map(|(place, room)| (room.as_str(), place)).collect();
    let mut wrong = Vec::new();
    for file in files().iter().filter(|file| !is_test(file)) {
        let Some(own) = order.get(file.room.as_str()) else { continue };
        for room in named(&file.code) {
            if order.get(room.as_str()).is_some_and(|place| place > own) {
                wrong.push(format!("{} imports from {room}, which is below it", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_is_in_a_room_that_lib_rs_names() {
    let rooms = rooms();
    assert!(rooms.len() > 10, "{rooms:?}");
    for file in files() {
        let known = rooms.contains(&file.room) || ["lib", "main"].contains(&file.room.as_str());
        assert!(known, "{} is in no room", file.path.display());
        assert!(!file.path.ends_with("mod.rs"), "{}: foo.rs beside foo/", file.path.display());
    }
}

#[test]
fn each_large_dependency_lives_in_its_rooms() {
    let mut wrong = Vec::new();
    for file in files().iter().filter(|file| !is_test(file)) {
        for (name, homes) in HOMES {
            if uses(&file.code, name) && !homes.contains(&file.room.as_str()) {
                wrong.push(format!("{} uses {name}, which lives in {homes:?}", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let files = files();
    let mut lengths: Vec<_> = files.iter().map(|file| file.text.lines().count()).collect();
    for (file, length) in files.iter().zip(&lengths) {
        let most = if file.path.ends_with("main.rs") { MOST_LINES_IN_MAIN } else { MOST_LINES };
        assert!(*length <= most, "{} has {length} lines; at most {most}", file.path.display());
        assert!(file.text.starts_with("//!"), "{} does not begin with //!", file.path.display());
    }
    lengths.sort_unstable();
    let middle = lengths[lengths.len() / 2];
    assert!(middle <= MOST_LINES_IN_THE_MIDDLE, "the median file has {middle} lines");
}

#[test]
fn the_reading_of_imports_sees_what_it_should() {
    let rooms =
        named("use crate::{\n    broker::{self, Broker},\n    names::X,\n};\nlet x = crate::pki::Y; $crate::z::A;");
    assert_eq!(rooms.into_iter().collect::<Vec<_>>(), ["broker", "names", "pki"]);
    assert!(uses("use lapin::Channel;", "lapin") && !uses("use my_lapin::Channel; a::lapin::b", "lapin"));
}
