//! The broker of a run of cargo-nextest, which runs every test in a process of its own.
//!
//! The first process starts `warrengate dev` in a folder for the run. All processes use its broker and certificates,
//! and each has its own gateway and store. It ends with the run.

use std::{
    fs::{self, File},
    os::unix::process::{CommandExt as _, parent_id},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// How long the stack may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// Runs the stack until nextest ($2) ends, and deletes the folder.
const KEEPER: &str = r#"
trap '' HUP INT
"$1" dev --ports auto --json ${3:+--broker "$3"} >ready.json 2>log &
stack=$!
while kill -s 0 "$2" 2>/dev/null && kill -s 0 "$stack" 2>/dev/null; do sleep 1; done
kill -s TERM "$stack" 2>/dev/null
wait "$stack"
: >ended
kill -s 0 "$2" 2>/dev/null || rm -rf "$PWD"
"#;

/// The folder of the run's stack; `None` if nextest does not run this process.
pub fn stack() -> Option<PathBuf> {
    let run = std::env::var("NEXTEST_RUN_ID").ok()?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("run-{run}"));
    fs::create_dir_all(&folder).unwrap();
    let starting = File::create(folder.join("starting")).unwrap();
    starting.lock().unwrap();
    let ready = folder.join("ready.json");
    if !ready.exists() {
        start(&folder);
    }
    let deadline = Instant::now() + START_TIMEOUT;
    while !fs::read_to_string(&ready).is_ok_and(|line| line.ends_with('\n')) {
        let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
        let has_ended = Instant::now() >= deadline || folder.join("ended").exists();
        assert!(!has_ended, "the broker of this run did not start:\n{}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(folder.join(".warrengate"))
}

#[expect(clippy::zombie_processes, reason = "it outlives this process")]
fn start(folder: &Path) {
    let nextest = parent_id().to_string();
    let mut keeper = Command::new("/bin/sh");
    keeper.args(["-c", KEEPER, "warrengate-keeper", env!("CARGO_BIN_EXE_warrengate"), &nextest]);
    keeper.args(super::installation()).current_dir(folder).process_group(0);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WARRENGATE_")) {
        keeper.env_remove(name);
    }
    keeper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
}
