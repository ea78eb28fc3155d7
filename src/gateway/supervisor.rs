//! Supervision of a gateway's background tasks, by name.
//!
//! Invariant: no task ends unnoticed. One that ends or panics before it is requested to stop makes the gateway not
//! ready at once, is logged by name, and is returned by [`Supervisor::failed`].

use std::{
    any::Any,
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    telemetry::{named_task, panic_text},
    transport::ops::{Block, Readiness},
};

/// Cheap to clone; clones own the same tasks.
#[derive(Clone)]
pub(super) struct Supervisor(Arc<Inner>);

struct Inner {
    readiness: Readiness,
    /// The name of the first task that failed.
    failed: watch::Sender<Option<&'static str>>,
    /// Keeps the gateway from becoming ready again.
    block: Mutex<Option<Block>>,
    /// For tests: cancels a task by name as if it had failed.
    ends: Mutex<BTreeMap<&'static str, CancellationToken>>,
}

/// Tasks that are stopped at the same time.
#[derive(Clone)]
pub(super) struct TaskGroup {
    supervisor: Supervisor,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Supervisor {
    pub(super) fn new(readiness: Readiness) -> Self {
        let (failed, _) = watch::channel(None);
        Self(Arc::new(Inner { readiness, failed, block: Mutex::default(), ends: Mutex::default() }))
    }

    /// Creates a group of tasks that are stopped together.
    pub(super) fn group(&self) -> TaskGroup {
        TaskGroup { supervisor: self.clone(), stop: CancellationToken::new(), tasks: TaskTracker::new() }
    }

    /// Waits for the first task that fails, and returns its name.
    pub(super) async fn failed(&self) -> &'static str {
        let mut failed = self.0.failed.subscribe();
        loop {
            if let Some(name) = *failed.borrow_and_update() {
                return name;
            }
            // `self` owns the sender, so the channel is not closed.
            let _ = failed.changed().await;
        }
    }

    /// The names of all tasks.
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.0.ends.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Makes a task panic.
    pub(super) fn kill(&self, name: &str) {
        if let Some(end) = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            end.cancel();
        }
    }

    fn fail(&self, name: &'static str, panic: Option<Box<dyn Any + Send>>) {
        let mut block = self.0.block.lock().unwrap_or_else(PoisonError::into_inner);
        block.get_or_insert_with(|| self.0.readiness.block("failed task"));
        drop(block);
        match panic {
            Some(panic) => {
                tracing::error!(task = name, panic = panic_text(&*panic), "background task panicked");
            }
            None => tracing::error!(task = name, "background task ended unexpectedly"),
        }
        self.0.failed.send_if_modified(|failed| {
            let is_first = failed.is_none();
            failed.get_or_insert(name);
            is_first
        });
    }
}

impl TaskGroup {
    /// Starts a task. It may end only after the group is requested to stop.
    pub(super) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (supervisor, stop, end) = (self.supervisor.clone(), self.stop.clone(), CancellationToken::new());
        let ends = &self.supervisor.0.ends;
        ends.lock().unwrap_or_else(PoisonError::into_inner).insert(name, end.clone());
        self.tasks.spawn(async move {
            let task = async move {
                tokio::select! {
                    () = task => {}
                    () = end.cancelled() => panic!("killed by a test"),
                }
            };
            let ended = AssertUnwindSafe(Box::pin(named_task(name, task))).catch_unwind().await;
            if ended.is_err() || !stop.is_cancelled() {
                supervisor.fail(name, ended.err());
            }
        });
    }

    /// Cancelled when the tasks are to end.
    pub(super) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Waits until all tasks have ended.
    pub(super) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_unexpectedly_or_panics_is_reported_and_a_stopped_task_is_not() {
        let readiness = Readiness::new();
        let supervisor = Supervisor::new(readiness.clone());
        let group = supervisor.group();
        group.spawn("patient", group.stop().cancelled_owned());
        assert!(readiness.waiting().is_empty());
        group.spawn("hasty", async {});
        assert_eq!(supervisor.failed().await, "hasty");
        assert_eq!(readiness.waiting(), ["failed task"]);
        group.stop().cancel();
        group.ended().await;
        assert_eq!(supervisor.names(), ["hasty", "patient"]);

        let supervisor = Supervisor::new(Readiness::new());
        let group = supervisor.group();
        group.spawn("panicking", async { panic!("on purpose") });
        assert_eq!(supervisor.failed().await, "panicking");
        let supervisor = Supervisor::new(Readiness::new());
        let group = supervisor.group();
        group.stop().cancel();
        group.spawn("late", async { panic!("while it stops") });
        assert_eq!(supervisor.failed().await, "late", "a panic is a failure at any time");
    }
}
