//! What queues say about retries, read from the broker's management API when a message has failed, and remembered for a
//! short while for all streams of the gateway. A tenant's queue enters; its policy leaves, or nothing when nobody can be
//! asked. A queue's policy never changes; a queue of the same name that was made anew may have another.

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
const PATIENCE: Duration = Duration::from_secs(3);
/// Beyond it what is too old is swept out.
const MANY: usize = 1_024;

type Known = HashMap<(TenantId, QueueName), (Instant, RetryPolicy)>;

/// The queues' policies. Cheap to clone.
#[derive(Clone)]
pub struct Policies {
    inspector: Arc<Inspector>,
    known: Arc<Mutex<Known>>,
}

impl Policies {
    /// Knows nothing yet.
    pub fn new(inspector: Arc<Inspector>) -> Self {
        Self { inspector, known: Arc::default() }
    }

    /// A queue's policy. While the management API does not answer, what it said last, however old; none when that is nothing.
    pub async fn of(&self, scope: &TenantScope, queue: &QueueName) -> Option<RetryPolicy> {
        let key = (scope.tenant().clone(), queue.clone());
        let found = self.lock().get(&key).filter(|(read, _)| read.elapsed() < REMEMBERED).map(|(_, policy)| *policy);
        if found.is_some() {
            return found;
        }
        let asked = tokio::time::timeout(PATIENCE, self.inspector.queue(scope, queue)).await;
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

    /// A queue was made or deleted.
    pub fn forget(&self, scope: &TenantScope, queue: &QueueName) {
        self.lock().remove(&(scope.tenant().clone(), queue.clone()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
