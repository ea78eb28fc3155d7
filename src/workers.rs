//! Small pools of low-priority threads for hashing secrets and for decoding large requests. Where the operating system
//! allows it, they run below the priority of all other threads, so that these have precedence.

use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::oneshot;

/// The work of a thread.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads, which end when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Workers(mpsc::Sender<Job>);

impl Workers {
    /// Starts threads of this name; `niceness` is how much lower their priority is, from 0 to 19.
    pub(crate) fn start(name: &'static str, threads: usize, niceness: i32) -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                lower_priority(name, niceness);
                loop {
                    // The lock is held while waiting for a job, not while running it.
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    // A panic must not end the thread; it has been logged.
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                }
            });
            if let Err(error) = thread {
                tracing::error!(%error, name, "cannot start a thread");
            }
        }
        Self(jobs)
    }

    /// Runs the work on a pool thread; `None` if there is no thread or the work panicked.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, result) = oneshot::channel();
        // The caller may have been cancelled.
        self.submit(Box::new(move || drop(done.send(work()))));
        result.await.ok()
    }

    /// Passes a job to the pool; without threads, it is dropped.
    pub(crate) fn submit(&self, job: Job) {
        let _ = self.0.send(job);
    }
}

/// On Linux, a thread has a niceness of its own.
#[cfg(target_os = "linux")]
fn lower_priority(name: &str, niceness: i32) {
    if let Err(error) = rustix::process::nice(niceness) {
        tracing::debug!(%error, name, "the thread runs at normal priority");
    }
}

/// Other systems only have a niceness of the whole process.
#[cfg(not(target_os = "linux"))]
fn lower_priority(_: &str, _: i32) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_runs_on_another_thread_and_a_panic_does_not_end_it() {
        let workers = Workers::start("secret-check", 1, 10);
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
