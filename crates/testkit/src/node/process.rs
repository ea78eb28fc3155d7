//! Process groups: signals, and lists of processes.
//!
//! Every child of a node leads its own process group, so that Ctrl-C in the terminal does not reach it and its own
//! children can be found.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::Error;

/// A running process; zombies are left out.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) group: u32,
    pub(super) command: String,
}

/// Sends a signal ("TERM", "KILL", "STOP" …) to every process of the group; a group that has ended is not an error.
pub(super) fn signal(group: u32, signal: &str) -> Result<(), Error> {
    // With the shell's own `kill`: the standard library can only send KILL, and not every system has /bin/kill.
    Command::new("/bin/sh")
        .args(["-c", r#"kill -s "$1" -- "-$2""#, "sh", signal, &group.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(Error::process("signal the broker"))?;
    Ok(())
}

/// Waits until the child has ended; false after the time limit.
pub(super) async fn ended(child: &mut Child, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while !matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(20)).await;
    }
    true
}

/// Kills the remaining processes of the group and waits, for at most 5 s, until they have ended.
pub(super) async fn finish(group: u32) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while all().iter().any(|process| process.group == group) && Instant::now() < deadline {
        signal(group, "KILL")?;
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// All running processes.
pub(super) fn all() -> Vec<Process> {
    if cfg!(target_os = "linux") { from_proc() } else { from_ps() }
}

/// Without `ps`, which small images do not have.
fn from_proc() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let read = |entry: std::fs::DirEntry| {
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // proc(5): pid (comm) state ppid pgrp …; comm may contain any characters, parentheses included.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        let group = fields.nth(1)?.parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        (!state.starts_with(['Z', 'X']))
            .then(|| Process { group, command: String::from_utf8_lossy(&command).replace('\0', " ") })
    };
    entries.filter_map(Result::ok).filter_map(read).collect()
}

fn from_ps() -> Vec<Process> {
    let Ok(output) = Command::new("ps").args(["-A", "-o", "pgid=,stat=,args="]).output() else { return Vec::new() };
    let read = |line: &str| {
        let (group, rest) = line.trim_start().split_once(' ')?;
        let (state, command) = rest.trim_start().split_once(' ')?;
        (!state.starts_with('Z')).then_some(())?;
        Some(Process { group: group.parse().ok()?, command: command.trim().to_owned() })
    };
    String::from_utf8_lossy(&output.stdout).lines().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;

    use super::*;

    #[tokio::test]
    async fn a_group_is_listed_signalled_and_ended() {
        let mut child = Command::new("sleep").arg("600").process_group(0).spawn().expect("started");
        let group = child.id();
        let listed = |list: Vec<Process>| list.iter().any(|p| p.group == group && p.command.contains("sleep"));
        // The child may still be this program for a moment: between fork and exec.
        let deadline = Instant::now() + Duration::from_secs(5);
        while !listed(all()) && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        assert!(listed(from_proc()) || !cfg!(target_os = "linux"));
        signal(group, "TERM").expect("sent");
        assert!(ended(&mut child, Duration::from_secs(5)).await);
        finish(group).await.expect("ended");
        assert!(!all().iter().any(|process| process.group == group));
        signal(group, "TERM").expect("a group that has ended is not an error");
    }
}
