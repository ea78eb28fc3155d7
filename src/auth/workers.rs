//! A small pool of low-priority threads for hashing secrets. Where the operating system allows it, they run below the
//! priority of all other threads, so that open streams have precedence over secret checks.

use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads, which end when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Workers(mpsc::Sender<Job>);

impl Workers {
    pub(super) fn start(threads: usize) -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            let thread = std::thread::Builder::new().name("secret-check".to_owned()).spawn(move || {
                lower_priority();
                loop {
                    // The lock is held while waiting for a job, not while running it.
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    job();
                }
            });
            if let Err(error) = thread {
                tracing::error!(%error, "cannot start a thread for checking secrets");
            }
        }
        Self(jobs)
    }

    /// Runs the work on a pool thread; `None` if there is no thread or the work panicked.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, result) = oneshot::channel();
        let job = move || {
            // The caller may have been cancelled, and a panic must not end the thread.
            if let Ok(result) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
                let _ = done.send(result);
            }
        };
        self.0.send(Box::new(job)).ok()?;
        result.await.ok()
    }
}

/// On Linux, a thread has a niceness of its own. At 10, it gets a tenth of a core beside one busy thread, so it makes
/// progress even if all cores are busy.
#[cfg(target_os = "linux")]
fn lower_priority() {
    if let Err(error) = rustix::process::nice(10) {
        tracing::debug!(%error, "secret checks run at normal priority");
    }
}

/// Other systems only have a niceness of the whole process.
#[cfg(not(target_os = "linux"))]
fn lower_priority() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_runs_on_another_thread_and_a_panic_does_not_end_it() {
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
