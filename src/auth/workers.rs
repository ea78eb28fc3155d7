//! A small pool of low-priority threads for hashing secrets. Where the system allows it they run below the priority of all others, so
//! that open streams come first under a flood of secrets to check.

use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads, which end with the last clone.
#[derive(Debug, Clone)]
pub(super) struct Workers(mpsc::Sender<Job>);

impl Workers {
    pub(super) fn start(threads: usize) -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            let thread = std::thread::Builder::new().name("secret-check".to_owned()).spawn(move || {
                give_way();
                loop {
                    // Locked while waiting for a job, not while doing it.
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    job();
                }
            });
            if let Err(error) = thread {
                tracing::error!(%error, "no thread for checking secrets");
            }
        }
        Self(jobs)
    }

    /// Runs it there; none when there is no thread, or it panicked.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, result) = oneshot::channel();
        let job = move || {
            // The caller may be gone, and a panic must not end the thread.
            if let Ok(result) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
                let _ = done.send(result);
            }
        };
        self.0.send(Box::new(job)).ok()?;
        result.await.ok()
    }
}

/// On Linux a thread has a niceness of its own. At 10 it has a tenth of a core beside one busy thread, so that it gets on
/// even where all cores are full.
#[cfg(target_os = "linux")]
fn give_way() {
    if let Err(error) = rustix::process::nice(10) {
        tracing::debug!(%error, "secrets are checked at the usual priority");
    }
}

/// Elsewhere it would be the whole process's.
#[cfg(not(target_os = "linux"))]
fn give_way() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_beside_and_a_panic_is_the_works_own() {
        let workers = Workers::start(1);
        assert_eq!(workers.run(|| 1 + 1).await, Some(2));
        assert_eq!(
            workers
                .run(|| if true {
                    panic!("on purpose")
                })
                .await,
            None
        );
        assert_eq!(
            workers.run(|| std::thread::current().name().map(str::to_owned)).await,
            Some(Some("secret-check".into()))
        );
    }
}
