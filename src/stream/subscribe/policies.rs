//! The retry policies of queues, read from the broker's management API when a message has failed and cached for a short
//! time for all streams of the gateway. The policy of a queue never changes, but a queue that is deleted and declared
//! again may have another one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moka::sync::Cache;

use crate::{
    broker::RetryPolicy,
    names::{QueueName, TenantId},
    provision::Inspector,
    tenant::TenantScope,
};

const TTL: Duration = Duration::from_secs(10);
/// How long a failed message waits for the response.
const TIMEOUT: Duration = Duration::from_secs(3);
const MAX_ENTRIES: u64 = 1_024;

/// The retry policies. Cheap to clone.
#[derive(Clone)]
pub struct Policies {
    inspector: Arc<Inspector>,
    /// Entries are kept after their time to live, and used when the management API does not respond.
    cache: Cache<(TenantId, QueueName), (Instant, RetryPolicy)>,
}

impl Policies {
    /// An empty cache.
    pub fn new(inspector: Arc<Inspector>) -> Self {
        Self { inspector, cache: Cache::new(MAX_ENTRIES) }
    }

    /// The policy of a queue. While the management API does not respond, the last known one of any age, or `None`.
    pub async fn of(&self, scope: &TenantScope, queue: &QueueName) -> Option<RetryPolicy> {
        let key = (scope.tenant().clone(), queue.clone());
        let cached = self.cache.get(&key);
        if let Some((read, policy)) = cached
            && read.elapsed() < TTL
        {
            return Some(policy);
        }
        match tokio::time::timeout(TIMEOUT, self.inspector.queue(scope, queue)).await {
            Ok(Ok(Some(info))) => {
                let policy = info.retry_policy();
                self.cache.insert(key, (Instant::now(), policy));
                Some(policy)
            }
            other => {
                let answer = other.map(|answer| answer.map(|_| ()));
                let (tenant, queue, is_cached) = (scope.tenant(), queue.as_str(), cached.is_some());
                tracing::warn!(%tenant, queue, ?answer, is_cached, "cannot read the retry policy");
                cached.map(|(_, policy)| policy)
            }
        }
    }

    /// Removes the entry of a queue that was declared or deleted.
    pub fn forget(&self, scope: &TenantScope, queue: &QueueName) {
        self.cache.invalidate(&(scope.tenant().clone(), queue.clone()));
    }
}
