//! How the gateway says that it stops: once, to every stream, with the time by which they will be cut.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// Begun once, seen by all. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Drain {
    begun: CancellationToken,
    cut: CancellationToken,
    limit: Duration,
    deadline: Arc<OnceLock<SystemTime>>,
    streams: TaskTracker,
}

impl Drain {
    /// Not begun; `limit` is how long streams have from its beginning.
    pub fn new(limit: Duration) -> Self {
        let streams = TaskTracker::new();
        // Else it would wait for ever; it counts all the same.
        streams.close();
        let (begun, cut) = (CancellationToken::new(), CancellationToken::new());
        Self { begun, cut, limit, deadline: Arc::default(), streams }
    }

    /// Counts a stream for as long as this is held.
    pub fn count(&self) -> TaskTrackerToken {
        self.streams.token()
    }

    /// Waits until no stream is counted: all have answered what they had taken, and handed back the rest.
    pub async fn streams_ended(&self) {
        self.streams.wait().await;
    }

    /// Tells every stream.
    pub fn begin(&self) {
        self.deadline.get_or_init(|| SystemTime::now() + self.limit);
        self.begun.cancel();
    }

    /// Cuts every stream now.
    pub fn cut(&self) {
        self.begin();
        self.cut.cancel();
    }

    /// Waits for the beginning.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Whether it has begun.
    pub fn is_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Whether streams were cut.
    pub fn is_over(&self) -> bool {
        self.cut.is_cancelled()
    }

    /// Waits for the cut.
    pub async fn over(&self) {
        self.cut.cancelled().await;
    }

    /// When streams are cut; now, when it has not begun.
    pub fn deadline(&self) -> SystemTime {
        self.deadline.get().copied().unwrap_or_else(SystemTime::now)
    }
}
