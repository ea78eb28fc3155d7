//! Computations of tens of milliseconds, such as decoding the largest requests: they run beside the workers of the runtime
//! instead of stalling one of them.
//!
//! Invariant: at most half of the processors are busy with them, so that they do not delay everything else together.

use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use tokio::runtime::{Handle, RuntimeFlavor};

/// The places for computations that run at the same time.
struct Slots {
    free: Mutex<usize>,
    freed: Condvar,
}

struct Slot<'a>(&'a Slots);

impl Slots {
    fn new(count: usize) -> Self {
        Self { free: Mutex::new(count), freed: Condvar::new() }
    }

    /// Blocks the thread until a slot is free.
    fn take(&self) -> Slot<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Slot(self)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

fn slots() -> &'static Slots {
    static SLOTS: OnceLock<Slots> = OnceLock::new();
    SLOTS.get_or_init(|| Slots::new((std::thread::available_parallelism().map_or(1, usize::from) / 2).max(1)))
}

/// Runs a long computation. The other tasks of this thread's worker continue on another thread.
pub fn run<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(|| {
            let _slot = slots().take();
            work()
        }),
        // Only unit tests have no such runtime.
        _ => work(),
    }
}

/// [`run`] for requests that are decoded.
pub fn use_for_decoding() {
    crate::pb::set_long_decoding(|work| run(work));
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        time::{Duration, Instant},
    };

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_go_on_beside_a_long_computation() {
        let (done, is_done) = mpsc::channel();
        let computing = tokio::spawn(async move {
            // Ends only when the other task has run, which needs the only worker.
            run(move || is_done.recv_timeout(Duration::from_secs(10)).is_ok())
        });
        tokio::spawn(async move { done.send(()) });
        let began = Instant::now();
        assert!(computing.await.expect("no panic"), "after {:?}", began.elapsed());
    }

    #[test]
    fn no_more_run_at_the_same_time_than_there_are_slots() {
        let slots = Slots::new(2);
        let first = slots.take();
        let _second = slots.take();
        std::thread::scope(|scope| {
            let (taken, is_taken) = mpsc::channel();
            scope.spawn(|| {
                let _third = slots.take();
                taken.send(()).expect("awaited");
                drop(taken);
            });
            is_taken.recv_timeout(Duration::from_millis(50)).expect_err("both are taken");
            drop(first);
            is_taken.recv_timeout(Duration::from_secs(10)).expect("free again");
        });
    }
}
