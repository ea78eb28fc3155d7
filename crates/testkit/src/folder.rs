//! Folders for test runs: one for each process, so that runs do not disturb each other.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

const LOCK: &str = "lock";

/// A folder of this process. It is kept after the process has ended, for its logs, and deleted by a later run.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// The system releases the lock when this process ends.
    _lock: File,
}

impl RunFolder {
    /// Creates `parent/name-PID`, and deletes the folders of this name whose processes have ended.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn create(parent: &Path, name: &str) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        for entry in fs::read_dir(parent)?.flatten() {
            if is_of_a_run(&entry.file_name().to_string_lossy(), name) && has_ended(&entry.path()) {
                // A concurrent run may be deleting it, too.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let path = parent.join(format!("{name}-{}", std::process::id()));
        // A process that ended may have had the same id.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path)?;
        // Locked before it has its name, so that no other run considers this one ended.
        let new = path.join("lock.new");
        let lock = File::create(&new)?;
        lock.lock()?;
        fs::rename(&new, path.join(LOCK))?;
        Ok(Self { path, _lock: lock })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn is_of_a_run(file: &str, name: &str) -> bool {
    let id = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
    id.is_some_and(|id| id.parse::<u32>().is_ok())
}

fn has_ended(path: &Path) -> bool {
    File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_ended_runs_are_deleted_and_those_of_running_ones_are_kept() {
        let parent = tempfile::tempdir().expect("a folder");
        let others =
            ["it-4000000001", "it-4000000002", "it-own", "other-4000000001"].map(|name| parent.path().join(name));
        for other in &others {
            fs::create_dir(other).expect("created");
            File::create(other.join(LOCK)).expect("created");
        }
        let running = File::open(others[1].join(LOCK)).expect("opened");
        running.lock().expect("locked");
        let own = RunFolder::create(parent.path(), "it").expect("created");
        assert!(own.path().is_dir() && !has_ended(own.path()));
        assert_eq!(others.map(|other| other.exists()), [false, true, true, true]);
    }
}
