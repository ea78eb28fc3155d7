//! Locks and call limits of each tenant.
//!
//! Invariant: no tenant waits for another one, and a tenant without calls in flight uses no memory.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, Weak},
};

use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::Error;
use crate::names::TenantId;

/// One value for each tenant that is in use. Unused ones are removed when their number has doubled.
struct InUse<T> {
    entries: HashMap<TenantId, Weak<T>>,
    remove_unused_at: usize,
}

impl<T> Default for InUse<T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), remove_unused_at: 64 }
    }
}

impl<T> InUse<T> {
    fn get_or_insert(&mut self, tenant: &TenantId, new: impl FnOnce() -> T) -> Arc<T> {
        if let Some(found) = self.entries.get(tenant).and_then(Weak::upgrade) {
            return found;
        }
        if self.entries.len() >= self.remove_unused_at {
            self.entries.retain(|_, entry| entry.strong_count() > 0);
            self.remove_unused_at = 64.max(2 * self.entries.len());
        }
        let new = Arc::new(new());
        self.entries.insert(tenant.clone(), Arc::downgrade(&new));
        new
    }
}

/// A lock for each tenant. A task that has locked one must not wait for another of the same `TenantLocks`.
#[derive(Default)]
pub struct TenantLocks(std::sync::Mutex<InUse<Mutex<()>>>);

impl fmt::Debug for TenantLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantLocks").finish_non_exhaustive()
    }
}

impl TenantLocks {
    /// Waits for the lock of this tenant, in order of arrival. Dropping the guard releases it.
    pub async fn lock(&self, tenant: &TenantId) -> OwnedMutexGuard<()> {
        let lock = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(tenant, Mutex::default);
        lock.lock_owned().await
    }
}

/// Calls of one tenant that may be processed at the same time; others wait.
const CONCURRENT_CALLS: usize = 16;
/// Calls of one tenant that may wait; more are refused.
const WAITING_CALLS: usize = 500;

/// Limits the calls of each tenant that are in flight.
#[derive(Default)]
pub struct TenantCalls(std::sync::Mutex<InUse<Calls>>);

struct Calls {
    /// The number of calls that are processed or waiting.
    admitted: Arc<Semaphore>,
    processed: Arc<Semaphore>,
}

/// The right to process one call; dropping it lets the next one proceed.
#[must_use = "the call counts until it is dropped"]
pub struct CallPermit {
    _admitted: OwnedSemaphorePermit,
    _processed: OwnedSemaphorePermit,
    _calls: Arc<Calls>,
}

impl fmt::Debug for TenantCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantCalls").finish_non_exhaustive()
    }
}

impl TenantCalls {
    /// Waits until one more call of this tenant may be processed, in order of arrival.
    ///
    /// # Errors
    /// [`Error::TooManyCalls`] when too many wait already.
    pub async fn permit(&self, tenant: &TenantId) -> Result<CallPermit, Error> {
        let new = || Calls {
            admitted: Arc::new(Semaphore::new(CONCURRENT_CALLS + WAITING_CALLS)),
            processed: Arc::new(Semaphore::new(CONCURRENT_CALLS)),
        };
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(tenant, new);
        let admitted = Arc::clone(&calls.admitted).try_acquire_owned().map_err(|_| Error::TooManyCalls)?;
        // The semaphore is never closed, so this does not fail.
        let processed = Arc::clone(&calls.processed).acquire_owned().await.map_err(|_| Error::TooManyCalls)?;
        Ok(CallPermit { _admitted: admitted, _processed: processed, _calls: calls })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn tenants() -> impl Iterator<Item = TenantId> {
        (0..200).map(|number| TenantId::parse(&format!("t{number}")).expect("a tenant's name"))
    }

    #[tokio::test]
    async fn a_tenant_waits_for_its_own_lock_and_for_no_other() {
        let locks = TenantLocks::default();
        // Without tokio's limit of operations between two yields, which would make a free lock look busy.
        let lock = |tenant: TenantId| tokio::task::unconstrained(locks.lock(&tenant)).now_or_never();
        let mut guards: Vec<_> =
            tenants().map(|tenant| lock(tenant).expect("no other tenant's lock is waited for")).collect();
        for tenant in tenants() {
            assert!(lock(tenant.clone()).is_none(), "{tenant} is locked already");
        }
        guards.clear();
        assert!(tenants().all(|tenant| lock(tenant).is_some()));
    }

    #[tokio::test]
    async fn unused_locks_are_removed() {
        let locks = TenantLocks::default();
        for tenant in tenants() {
            drop(locks.lock(&tenant).await);
        }
        assert!(locks.0.lock().expect("not poisoned").entries.len() <= 64);
    }

    #[tokio::test]
    async fn calls_beyond_the_limit_wait_and_beyond_the_queue_are_refused() {
        let (calls, mut tenants) = (TenantCalls::default(), tenants());
        let (busy, other) = (tenants.next().expect("one"), tenants.next().expect("two"));
        let mut permits = Vec::new();
        for _ in 0..CONCURRENT_CALLS {
            permits.push(calls.permit(&busy).now_or_never().expect("processed at once").expect("admitted"));
        }
        let mut waiting: Vec<_> = (0..WAITING_CALLS).map(|_| Box::pin(calls.permit(&busy))).collect();
        for call in &mut waiting {
            assert!(call.as_mut().now_or_never().is_none(), "it waits");
        }
        assert!(matches!(calls.permit(&busy).now_or_never(), Some(Err(Error::TooManyCalls))));
        assert!(matches!(calls.permit(&other).now_or_never(), Some(Ok(_))));
        permits.pop();
        assert!(matches!(waiting[0].as_mut().now_or_never(), Some(Ok(_))), "the first in order of arrival");
    }
}
