//! A guard process that kills process groups when this process ends, even by `kill -9`.
//!
//! The guard is a shell that reads from a pipe. The kernel closes the pipe when this process ends.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, Command, Stdio},
};

use super::Error;

const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
groups=
while read -r line; do groups=$line; done
for group in $groups; do kill -s KILL -- "-$group"; done
"#;

/// A guard over process groups; dropping it kills them and returns when that is done.
#[derive(Debug)]
pub struct Guard {
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Starts a guard that watches nothing yet.
    ///
    /// # Errors
    /// When no shell can be started.
    pub fn start() -> Result<Self, Error> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "warrengate-guard"])
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Error::process("start the broker's guard"))?;
        let pipe = shell.stdin.take();
        Ok(Self { shell, pipe })
    }

    /// Watches these groups, and no others, from now on.
    ///
    /// # Errors
    /// When the guard has ended.
    pub fn watch(&mut self, groups: &[u32]) -> Result<(), Error> {
        let line = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        writeln!(pipe, "{line}").and_then(|()| pipe.flush()).map_err(Error::process("reach the broker's guard"))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.shell.wait();
    }
}
