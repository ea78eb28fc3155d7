//! Who cleans up when this process cannot. The groups to watch enter; when this process ends in whatever way, `kill -9`
//! included, those groups are killed. The guard is a shell that waits at the other end of a pipe: the kernel closes the
//! pipe with us, and nobody can forget to.

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
    /// One that watches nothing yet.
    ///
    /// # Errors
    /// When there is no shell.
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

    /// From now on these groups, and no others.
    ///
    /// # Errors
    /// When the guard is gone.
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
