//! A watcher for files that change while the gateway runs: certificates, keys and passwords.
//!
//! Every change is reported once. Only a digest of the contents is kept, and a file that cannot be read at the moment
//! counts as unchanged.

use std::{path::PathBuf, time::Duration};

use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep_until};
use zeroize::Zeroizing;

/// How often the files are read.
const INTERVAL: Duration = Duration::from_secs(5);

/// Files, with a digest of their contents when they were last read.
#[derive(Debug)]
pub struct Watched {
    paths: Vec<PathBuf>,
    seen: Option<[u8; 32]>,
    next: Instant,
}

impl Watched {
    /// Watches from now on. To miss no change, call this before the files are read for use.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let paths: Vec<_> = paths.into_iter().collect();
        let seen = digest(&paths);
        Self { paths, seen, next: Instant::now() + INTERVAL }
    }

    /// Waits for a change, reading the files every 5 s. Cancel safe.
    pub async fn changed(&mut self) {
        loop {
            sleep_until(self.next).await;
            self.next = Instant::now() + INTERVAL;
            if self.check().await {
                return;
            }
        }
    }

    /// Reads the files now, and returns whether they have changed since they were last read.
    pub async fn check(&mut self) -> bool {
        let paths = self.paths.clone();
        let Ok(Some(now)) = tokio::task::spawn_blocking(move || digest(&paths)).await else { return false };
        self.seen.replace(now) != Some(now)
    }
}

/// `None` if one of the files cannot be read.
fn digest(paths: &[PathBuf]) -> Option<[u8; 32]> {
    let mut digest = Sha256::new();
    for path in paths {
        let content = Zeroizing::new(std::fs::read(path).ok()?);
        digest.update(Sha256::digest(&content));
    }
    Some(digest.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_change_is_reported_once_and_a_missing_file_is_unchanged() {
        let folder = tempfile::tempdir().expect("folder");
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&a, "1").expect("written");
        fs::write(&b, "1").expect("written");
        let mut watched = Watched::new([a.clone(), b.clone()]);
        assert!(!watched.check().await);
        fs::write(&b, "2").expect("written");
        watched.next = Instant::now();
        watched.changed().await;
        assert!(!watched.check().await);
        fs::remove_file(&a).expect("removed");
        assert!(!watched.check().await);
        fs::write(&a, "1").expect("written");
        assert!(!watched.check().await, "its content is the same again");
        fs::write(&a, "3").expect("written");
        assert!(watched.check().await);
    }
}
