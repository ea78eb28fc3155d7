//! The shutdown signal of a gateway for all its streams: when it begins, and when the remaining streams are ended.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// The state of a shutdown. It begins once, and every clone sees it.
#[derive(Debug, Clone)]
pub struct Drain {
    begun: CancellationToken,
    cut: CancellationToken,
    limit: Duration,
    deadline: Arc<OnceLock<SystemTime>>,
    streams: TaskTracker,
}

impl Drain {
    /// A shutdown that has not begun. Streams may take `limit` from its beginning.
    pub fn new(limit: Duration) -> Self {
        let streams = TaskTracker::new();
        // A tracker that is not closed never becomes empty; it counts in both states.
        streams.close();
        let (begun, cut) = (CancellationToken::new(), CancellationToken::new());
        Self { begun, cut, limit, deadline: Arc::default(), streams }
    }

    /// Counts a stream until the token is dropped.
    pub fn count(&self) -> TaskTrackerToken {
        self.streams.token()
    }

    /// Waits until no stream is counted: all have reported their outcomes and returned unsettled deliveries.
    pub async fn streams_ended(&self) {
        self.streams.wait().await;
    }

    /// Begins the shutdown and notifies every stream.
    pub fn begin(&self) {
        self.deadline.get_or_init(|| SystemTime::now() + self.limit);
        self.begun.cancel();
    }

    /// Ends every stream now.
    pub fn cut(&self) {
        self.begin();
        self.cut.cancel();
    }

    /// Waits until it has begun.
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

    /// Waits until streams are cut.
    pub async fn over(&self) {
        self.cut.cancelled().await;
    }

    /// When streams are cut; the present time if it has not begun.
    pub fn deadline(&self) -> SystemTime {
        self.deadline.get().copied().unwrap_or_else(SystemTime::now)
    }
}
