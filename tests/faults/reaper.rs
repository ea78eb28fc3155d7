//! Signals for process groups, and a guard that kills the groups when this process ends, even by `kill -9`.
//!
//! The guard is a shell that reads from a pipe, which the kernel closes when this process ends.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, Command, Stdio},
    sync::Mutex,
};

use anyhow::Context as _;

const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
groups=
while read -r sign group; do
  case $sign in
    +) groups="$groups $group" ;;
    -) rest=; for other in $groups; do [ "$other" = "$group" ] || rest="$rest $other"; done; groups=$rest ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group"; done
"#;

/// Watches process groups. Dropping it kills the groups that it still watches.
pub struct Reaper {
    shell: Child,
    pipe: Mutex<Option<ChildStdin>>,
}

impl Reaper {
    pub fn start() -> anyhow::Result<Self> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "warrengate-faults"])
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start a shell")?;
        let pipe = Mutex::new(shell.stdin.take());
        Ok(Self { shell, pipe })
    }

    /// Adds a group, which is killed at the end.
    pub fn watch(&self, group: u32) {
        self.send('+', group);
    }

    /// Removes a group that has ended.
    pub fn forget(&self, group: u32) {
        self.send('-', group);
    }

    fn send(&self, sign: char, group: u32) {
        if let Some(pipe) = &mut *self.pipe.lock().unwrap() {
            let _ = writeln!(pipe, "{sign} {group}").and_then(|()| pipe.flush());
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.pipe.lock().unwrap().take());
        let _ = self.shell.wait();
    }
}

/// Sends a signal ("TERM", "KILL" …) to every process of the group; a group that has ended is not an error.
pub fn signal(group: u32, signal: &str) {
    // With the shell's own `kill`: the standard library can only send KILL, and not every system has /bin/kill.
    let _ = Command::new("/bin/sh")
        .args(["-c", r#"kill -s "$1" -- "-$2""#, "sh", signal, &group.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}
