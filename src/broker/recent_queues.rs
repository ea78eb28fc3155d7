//! The queues that this gateway declared or deleted a moment ago, so that no deletion meets a new queue whose worker
//! for dead letters is only starting.
//!
//! A deletion that arrives before the worker of a quorum queue is registered leaves the worker behind; it fails, is
//! started again without its queue, and its supervisor ends. From then on the node of RabbitMQ moves no dead letters of
//! any tenant and declares no quorum queue. Before 4.1 the worker may start after the answer to the declaration.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use moka::sync::Cache;
use tokio::{
    sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock},
    time::Instant,
};

use crate::names::{QueueName, TenantId};

/// A worker is registered within this time after the declaration of its queue, also on a busy node.
pub const WORKER_START: Duration = Duration::from_secs(1);
/// Entries are removed this long after their last use, which is longer than a declaration takes.
const IDLE: Duration = Duration::from_secs(30);
const MAX_ENTRIES: u64 = 20_000;

/// The recent queues of all tenants.
pub(in crate::broker) struct RecentQueues(Cache<(TenantId, QueueName), Arc<Entry>>);

#[derive(Default)]
struct Entry {
    /// Shared by declarations, exclusive for a deletion.
    lock: Arc<RwLock<()>>,
    /// When the last of them ended.
    ended: Mutex<Option<Instant>>,
}

/// Exists while a queue is declared or deleted. A cancelled call ends here, but perhaps not yet at the broker, so the
/// time counts from here.
#[must_use = "the operation ends when it is dropped"]
pub(in crate::broker) struct Operation<G> {
    entry: Arc<Entry>,
    /// Whether the broker may have received it.
    is_sent: bool,
    _lock: G,
}

impl<G> Drop for Operation<G> {
    fn drop(&mut self) {
        if !self.is_sent {
            return;
        }
        *self.entry.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

impl Default for RecentQueues {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_ENTRIES).time_to_idle(IDLE).build())
    }
}

impl RecentQueues {
    /// Waits until no deletion of the queue is in progress.
    pub(in crate::broker) async fn declare(
        &self,
        tenant: &TenantId,
        queue: &QueueName,
    ) -> Operation<OwnedRwLockReadGuard<()>> {
        let entry = self.entry(tenant, queue);
        let _lock = Arc::clone(&entry.lock).read_owned().await;
        Operation { entry, is_sent: true, _lock }
    }

    /// Waits until no declaration and no other deletion of the queue is in progress.
    pub(in crate::broker) async fn delete(
        &self,
        tenant: &TenantId,
        queue: &QueueName,
    ) -> Operation<OwnedRwLockWriteGuard<()>> {
        let entry = self.entry(tenant, queue);
        let _lock = Arc::clone(&entry.lock).write_owned().await;
        Operation { entry, is_sent: false, _lock }
    }

    fn entry(&self, tenant: &TenantId, queue: &QueueName) -> Arc<Entry> {
        self.0.get_with((tenant.clone(), queue.clone()), Arc::default)
    }
}

impl Operation<OwnedRwLockWriteGuard<()>> {
    /// Call this before the deletion is sent. Waits until the queue's worker is registered, or the broker turns out to
    /// need no wait; returns whether it waited to the end.
    pub(in crate::broker) async fn worker_started(&mut self, needs_wait: impl Future<Output = bool>) -> bool {
        self.is_sent = true;
        let ended = *self.entry.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let remaining = ended.map_or(Duration::ZERO, |ended| WORKER_START.saturating_sub(ended.elapsed()));
        if remaining.is_zero() {
            return false;
        }
        let no_wait = async {
            if needs_wait.await {
                std::future::pending::<()>().await;
            }
        };
        tokio::time::timeout(remaining, no_wait).await.is_err()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn names() -> (TenantId, QueueName) {
        (TenantId::parse("acme").expect("a tenant"), QueueName::parse("jobs").expect("a queue"))
    }

    /// Makes the last operation of the queue end this long ago.
    fn ended(queues: &RecentQueues, ago: Duration) {
        let (tenant, queue) = names();
        *queues.entry(&tenant, &queue).ended.lock().expect("not poisoned") = Instant::now().checked_sub(ago);
    }

    /// Whether a deletion waits to the end, on a broker that needs it or not.
    async fn waits(queues: &RecentQueues, needs_wait: bool) -> bool {
        let (tenant, queue) = names();
        queues.delete(&tenant, &queue).await.worker_started(async { needs_wait }).await
    }

    #[tokio::test]
    async fn only_a_new_queue_waits_and_only_for_a_broker_that_needs_it() {
        let (queues, (tenant, queue)) = (RecentQueues::default(), names());
        assert!(!waits(&queues, true).await, "this gateway did not declare it");
        ended(&queues, WORKER_START);
        assert!(!waits(&queues, true).await, "its worker is registered");
        drop(queues.declare(&tenant, &queue).await);
        assert!(!waits(&queues, false).await, "the broker needs no wait");
        ended(&queues, WORKER_START * 9 / 10);
        assert!(waits(&queues, true).await);
    }

    #[tokio::test]
    async fn declarations_share_the_queue_and_a_deletion_does_not() {
        let (queues, (tenant, queue)) = (RecentQueues::default(), names());
        let first = queues.declare(&tenant, &queue).await;
        let second = queues.declare(&tenant, &queue).now_or_never().expect("declarations share it");
        assert!(queues.delete(&tenant, &queue).now_or_never().is_none());
        drop((first, second));
        let deletion = queues.delete(&tenant, &queue).now_or_never().expect("no declaration is in progress");
        assert!(queues.declare(&tenant, &queue).now_or_never().is_none());
        drop(deletion);
        assert!(queues.declare(&tenant, &queue).now_or_never().is_some());
    }
}
