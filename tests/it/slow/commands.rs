//! Runs every command block and every Python program of README.md and docs/guides/ unchanged, in the order of the page,
//! in a shell in a folder like that of `warrengate dev`. Lines that are not run are listed with their reasons; a
//! missing toolchain is reported.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use secrecy::ExposeSecret as _;

use crate::{
    harness::{SharedStack, Tenant, missing_toolchain, wait::within_minutes},
    slow::python,
};

/// Lines that are not run, with their reasons.
const NOT_RUN: &[(&str, &str)] = &[
    ("./scripts/up ", "needs the usual ports and runs until Ctrl-C; it is tested by tests/it/slow/development.rs"),
    ("./scripts/test ", "runs the test that is running"),
    ("mvn -q -f clients/java install", "builds in the library's folder; ./scripts/clients java runs it"),
    ("examples/java/run.sh", "as the Java library"),
    ("examples/rust/run.sh", "builds in this repository's target folder; ./scripts/clients runs it"),
    ("WARRENGATE_GRPC__CORS_ORIGINS=http://127.0.0.1:8000 ./scripts/up", "as ./scripts/up"),
];

/// Lines that run until Ctrl-C, with the port on which they listen; they run until the end of their page.
const UNTIL_CTRL_C: &[(&str, u16)] =
    &[("python3 -m http.server --directory examples/browser/page --bind 127.0.0.1 8000", 8000)];

/// Lines that need a toolchain: their beginning, and the program that must be installed.
const TOOLCHAINS: &[(&str, &str)] =
    &[("examples/go/", "go"), ("examples/typescript/", "npm"), ("(cd examples/browser ", "npm")];

/// Commands that are expected to fail.
const REFUSED: &[&str] = &["warrengate subscribe orders --count 1 --as globex"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let guides = fs::read_dir(root().join("docs/guides")).unwrap().map(|entry| entry.unwrap().path());
    guides.filter(|path| path.extension().is_some_and(|e| e == "md")).chain([root().join("README.md")]).collect()
}

fn has(program: &str) -> bool {
    let places = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&places).any(|place| place.join(program).is_file())
}

/// The page with its Python programs as shell commands. A program marked `py` runs until it is interrupted; it is left
/// to `clients/conformance/resilient.py`.
fn with_programs(text: &str) -> String {
    let (first, programs) = text.split_once("```python\n").map_or((text, None), |(first, rest)| (first, Some(rest)));
    let programs = programs.into_iter().flat_map(|programs| programs.split("```python\n")).map(|program| {
        let (code, rest) = program.split_once("```").unwrap();
        format!("```sh\npython - <<'PYTHON'\n{code}PYTHON\n```{rest}")
    });
    std::iter::once(first.to_owned()).chain(programs).collect()
}

/// The page's commands as one script, and the number of its lines.
#[allow(clippy::print_stderr, reason = "a skipped line is reported")]
fn script(page: &Path) -> (String, usize) {
    let text = with_programs(&fs::read_to_string(page).unwrap());
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let (mut script, mut lines) = (String::from("set -euo pipefail; shopt -s expand_aliases\n"), 0);
    for line in blocks.flat_map(str::lines) {
        if line.trim().is_empty() || NOT_RUN.iter().any(|(start, _)| line.starts_with(start)) {
            continue;
        }
        let needs = TOOLCHAINS.iter().find(|(start, _)| line.starts_with(start)).map(|(_, program)| *program);
        if let Some(program) = needs.filter(|program| !has(program)) {
            missing_toolchain(program);
            continue;
        }
        if let Some((_, port)) = UNTIL_CTRL_C.iter().find(|(start, _)| line.starts_with(start)) {
            if std::net::TcpListener::bind(("127.0.0.1", *port)).is_err() {
                eprintln!("skipped: port {port} is in use: {line}");
                continue;
            }
            script.push_str(&format!(
                "{line} & background=$!; trap 'kill $background' EXIT\n\
                 until (: >/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do kill -0 $background; sleep 0.1; done\n"
            ));
            lines += 1;
            continue;
        }
        lines += 1;
        match REFUSED.contains(&line.trim()) {
            true => script.push_str(&format!("if {line}; then exit 1; fi\n")),
            false => script.push_str(&format!("{line}\n")),
        }
    }
    (script, lines)
}

/// A folder as `warrengate dev` leaves it, with two new tenants.
async fn folder() -> tempfile::TempDir {
    let shared = SharedStack::get();
    let folder = tempfile::Builder::new().prefix("page").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut settings = format!(
        "WARRENGATE_ENDPOINT={}\nWARRENGATE_CA={}\n",
        shared.stack.endpoint(),
        shared.stack.gateway_ca().display()
    );
    for name in ["ACME", "GLOBEX"] {
        let tenant = Tenant::fresh().await;
        let secret = tenant.secret.expose_secret();
        settings.push_str(&format!("WARRENGATE_{name}_CLIENT_ID={}\n", tenant.client_id));
        settings.push_str(&format!("WARRENGATE_{name}_CLIENT_SECRET={secret}\n"));
    }
    fs::create_dir(folder.path().join(".warrengate")).unwrap();
    fs::write(folder.path().join(".warrengate/dev.env"), settings).unwrap();
    let link = |from: PathBuf, to: &str| std::os::unix::fs::symlink(from, folder.path().join(to)).unwrap();
    link(root().join("examples"), "examples");
    link(root().join("clients"), "clients");
    fs::create_dir_all(folder.path().join("target/debug")).unwrap();
    link(PathBuf::from(env!("CARGO_BIN_EXE_warrengate")), "target/debug/warrengate");
    folder
}

async fn run(page: PathBuf) -> Result<usize, String> {
    let (script, lines) = script(&page);
    let folder = folder().await;
    let binaries = Path::new(env!("CARGO_BIN_EXE_warrengate")).parent().unwrap();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
    let mut shell = tokio::process::Command::new("bash");
    shell.arg("-c").arg(&script).current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
    shell.env("PATH", path).env("HOME", folder.path()).env("VENV", python::environment());
    // Caches of toolchains are shared with other runs.
    if let Some(home) = std::env::var_os("HOME").map(PathBuf::from) {
        for (name, place) in [("GOPATH", "go"), ("GOCACHE", ".cache/go-build"), ("npm_config_cache", ".npm")] {
            shell.env(name, std::env::var_os(name).unwrap_or_else(|| home.join(place).into()));
        }
    }
    for name in ["ENDPOINT", "CA", "CLIENT_ID", "CLIENT_SECRET", "TOKEN"] {
        shell.env_remove(format!("WARRENGATE_{name}"));
    }
    let turn = match script.contains("examples/python") {
        true => Some(python::TURN.lock().await),
        false => None,
    };
    let output = within_minutes("a page's commands", 10, shell.output()).await.unwrap();
    drop(turn);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match output.status.success() {
        true => Ok(lines),
        false => Err(format!("{}: {}\n{script}\n{out}\n{err}", page.display(), output.status)),
    }
}

#[tokio::test]
async fn every_command_of_the_readme_and_the_guides_succeeds() {
    let pages = pages();
    assert!(pages.len() > 10, "{pages:?}");
    let ran: Vec<usize> =
        stream::iter(pages).map(run).buffer_unordered(3).try_collect().await.unwrap_or_else(|e| panic!("{e}"));
    let all: usize = ran.iter().sum();
    assert!(all > 50, "only {all} lines of commands were run");
}
