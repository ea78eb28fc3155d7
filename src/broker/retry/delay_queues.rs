//! The state of the tenants' delay queues as seen by this gateway: since when each exists, and whether it confirms
//! messages. Losing an entry costs a declaration, but never a message.

use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;

use crate::{broker::message::delay_bucket::DelayBucket, names::TenantId};

/// RabbitMQ (3.10 and 4.0) loses a quorum queue's messages when it is killed in the first seconds after the
/// declaration. A queue that existed already may be as new, because another gateway may have declared it.
const NEW_QUEUE: Duration = Duration::from_secs(5);
/// How long a delay queue that confirms no messages (for lack of a leader) is not used.
const UNRESPONSIVE_BACKOFF: Duration = Duration::from_secs(60);
/// Entries are removed this long after their last use.
const IDLE: Duration = Duration::from_secs(600);
const MAX_ENTRIES: u64 = 100_000;

/// The delay queues of all tenants, by tenant and bucket.
pub(in crate::broker) struct DelayQueues(Cache<(TenantId, DelayBucket), Entry>);

#[derive(Clone, Copy)]
struct Entry {
    first_seen: Instant,
    unresponsive_until: Option<Instant>,
}

impl Default for DelayQueues {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_ENTRIES).time_to_idle(IDLE).build())
    }
}

impl DelayQueues {
    /// Records that the queue exists.
    pub(super) fn record_existing(&self, tenant: &TenantId, bucket: DelayBucket) {
        let entry = || Entry { first_seen: Instant::now(), unresponsive_until: None };
        self.0.get_with((tenant.clone(), bucket), entry);
    }

    /// Records that the queue does not exist.
    pub(super) fn record_missing(&self, tenant: &TenantId, bucket: DelayBucket) {
        self.0.invalidate(&(tenant.clone(), bucket));
    }

    /// Records that the queue did not confirm a message in time.
    pub(super) fn record_unresponsive(&self, tenant: &TenantId, bucket: DelayBucket) {
        let key = (tenant.clone(), bucket);
        if let Some(entry) = self.0.get(&key) {
            let unresponsive_until = Some(Instant::now() + UNRESPONSIVE_BACKOFF);
            self.0.insert(key, Entry { unresponsive_until, ..entry });
        }
    }

    /// Whether the queue recently failed to confirm a message in time.
    pub(super) fn was_unresponsive(&self, tenant: &TenantId, bucket: DelayBucket) -> bool {
        let entry = self.0.get(&(tenant.clone(), bucket));
        entry.and_then(|entry| entry.unresponsive_until).is_some_and(|until| until > Instant::now())
    }

    /// Until when the broker may still lose the queue's messages; `None` when it is old enough.
    pub(super) fn new_until(&self, tenant: &TenantId, bucket: DelayBucket) -> Option<Instant> {
        let first_seen = self.0.get(&(tenant.clone(), bucket)).map_or_else(Instant::now, |entry| entry.first_seen);
        let until = first_seen + NEW_QUEUE;
        (until > Instant::now()).then_some(until)
    }
}
