//! The retry policies of queues, read from the broker's management API when a message has failed, and cached for a short time
//! for all streams of the gateway. The policy of a queue never changes, but a queue that was deleted and declared again may have
//! another one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    broker::RetryPolicy,
    names::{QueueName, TenantId},
    provision::Inspector,
    tenant::TenantScope,
};

const REMEMBERED: Duration = Duration::from_secs(10);
/// A failed message waits for the answer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// With more entries than this, those that are too old are removed.
const MANY: usize = 1_024;

type Known = HashMap<(TenantId, QueueName), (Instant, RetryPolicy)>;

/// The policies of queues. Cheap to clone.
#[derive(Clone)]
pub struct Policies {
    inspector: Arc<Inspector>,
    known: Arc<Mutex<Known>>,
}

impl Policies {
    /// An empty cache.
    pub fn new(inspector: Arc<Inspector>) -> Self {
        Self { inspector, known: Arc::default() }
    }

    /// The policy of a queue; while the management API does not answer, the one that was read last, however old, if there is one.
    pub async fn of(&self, scope: &TenantScope, queue: &QueueName) -> Option<RetryPolicy> {
        let key = (scope.tenant().clone(), queue.clone());
        let found = self.lock().get(&key).filter(|(read, _)| read.elapsed() < REMEMBERED).map(|(_, policy)| *policy);
        if found.is_some() {
            return found;
        }
        let asked = tokio::time::timeout(TIMEOUT, self.inspector.queue(scope, queue)).await;
        let policy = match asked {
            Ok(Ok(Some(info))) => info.retry_policy(),
            other => {
                let old = self.lock().get(&key).map(|(_, policy)| *policy);
                let answer = other.map(|answer| answer.map(|_| ()));
                tracing::warn!(tenant = %scope.tenant(), queue = queue.as_str(), ?answer, is_known = old.is_some(), "the retry policy cannot be read");
                return old;
            }
        };
        let mut known = self.lock();
        if known.len() >= MANY {
            known.retain(|_, (read, _)| read.elapsed() < REMEMBERED);
        }
        known.insert(key, (Instant::now(), policy));
        Some(policy)
    }

    /// Removes a queue that was declared or deleted.
    pub fn forget(&self, scope: &TenantScope, queue: &QueueName) {
        self.lock().remove(&(scope.tenant().clone(), queue.clone()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
