//! Files that others change while the gateway runs: certificates, keys, passwords. Their paths enter; word of a change leaves,
//! once for each. Only a digest of what they held is kept. A file that cannot be read just now has not changed.

use std::{path::PathBuf, time::Duration};

use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep_until};
use zeroize::Zeroizing;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Files, and what they held when they were last looked at.
#[derive(Debug)]
pub struct Watched {
    paths: Vec<PathBuf>,
    seen: Option<[u8; 32]>,
    next: Instant,
}

impl Watched {
    /// From now on: to be made before the files are read for use, so that no change is missed.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let paths: Vec<_> = paths.into_iter().collect();
        let seen = digest(&paths);
        Self { paths, seen, next: Instant::now() + LOOK }
    }

    /// Waits for a change, looking every 5 s. Nothing is lost when this is given up and called again.
    pub async fn changed(&mut self) {
        loop {
            sleep_until(self.next).await;
            self.next = Instant::now() + LOOK;
            if self.look().await {
                return;
            }
        }
    }

    /// Looks now: whether they are other than when they were last looked at.
    pub async fn look(&mut self) -> bool {
        let paths = self.paths.clone();
        let Ok(Some(now)) = tokio::task::spawn_blocking(move || digest(&paths)).await else { return false };
        self.seen.replace(now) != Some(now)
    }
}

/// None when one of them cannot be read.
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
    async fn a_change_is_told_once_and_a_file_that_is_away_is_none() {
        let folder = tempfile::tempdir().expect("folder");
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&a, "1").expect("written");
        fs::write(&b, "1").expect("written");
        let mut watched = Watched::new([a.clone(), b.clone()]);
        assert!(!watched.look().await);
        fs::write(&b, "2").expect("written");
        watched.next = Instant::now();
        watched.changed().await;
        assert!(!watched.look().await);
        fs::remove_file(&a).expect("removed");
        assert!(!watched.look().await);
        fs::write(&a, "1").expect("written");
        assert!(!watched.look().await, "it is back as it was");
        fs::write(&a, "3").expect("written");
        assert!(watched.look().await);
    }
}
