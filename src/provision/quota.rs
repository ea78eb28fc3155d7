//! The limits on a tenant's queues, exchanges and bindings, enforced when one is declared. An existing object can be
//! declared again even if the limit is reached.
//!
//! The broker's count is cached for a short time as an upper bound: objects declared through this gateway are added to
//! it, and a deletion discards it. Declaring ten thousand bindings therefore does not list them ten thousand times. A
//! count may be too large but never too small, except for objects that other gateways declared in the last seconds.
//!
//! At the limit the names are cached, too, so that refusing a queue or an exchange does not ask the broker each time
//! whether it exists already. What was deleted or declared elsewhere is noticed after [`FULL_COUNT_TTL`].

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moka::sync::Cache;
use tokio::sync::OwnedMutexGuard;

use super::{Inspector, client::Names, usage};
use crate::{
    error::Failure,
    names::TenantId,
    tenant::{self, TenantLocks, TenantScope},
};

/// How long a count below the limit is used, which bounds what other gateways can add unnoticed.
const COUNT_TTL: Duration = Duration::from_secs(5);
/// How long a count at the limit is used: a caller that is refused and repeats its call must not keep the broker
/// counting.
const FULL_COUNT_TTL: Duration = Duration::from_millis(500);
/// The maximum number of cached counts and names together.
const MAX_CACHED: u64 = 200_000;

/// Enforces the limits in one gateway.
#[derive(Debug)]
pub struct Quota {
    inspector: Arc<Inspector>,
    locks: TenantLocks,
    counts: Cache<(TenantId, Names), Arc<Count>>,
}

#[derive(Debug)]
struct Count {
    /// The broker's number.
    read: u64,
    /// The broker's names if they were at the limit, unless they have none.
    names: Option<HashSet<Box<str>>>,
    /// The number of objects declared through this gateway since.
    added: AtomicU64,
    at: Instant,
}

/// The right to declare one object. While it exists, no other object of the tenant is declared through this gateway.
/// For a tenant without that limit it has no effect.
#[must_use = "it counts until it is dropped"]
#[derive(Debug)]
pub struct Slot(#[allow(dead_code, reason = "locked until it is dropped")] Option<OwnedMutexGuard<()>>);

impl Quota {
    /// Creates the limits of one gateway.
    pub fn new(inspector: Arc<Inspector>) -> Self {
        let weight = |_: &_, count: &Arc<Count>| count.names.as_ref().map_or(0, HashSet::len) as u32 + 1;
        let counts = Cache::builder().max_capacity(MAX_CACHED).weigher(weight).time_to_live(COUNT_TTL).build();
        Self { inspector, locks: TenantLocks::default(), counts }
    }

    /// A slot for a queue of this name. `exists` returns whether the queue exists already; it is only called if the
    /// limit is reached and the names are not known.
    ///
    /// # Errors
    /// `TOO_MANY_QUEUES`, or when the request fails.
    pub async fn queue(
        &self,
        scope: &TenantScope,
        name: &str,
        exists: impl AsyncFnOnce() -> Result<bool, Failure>,
    ) -> Result<Slot, Failure> {
        self.slot(scope, Names::Queues, scope.plan().max_queues, Some(name), exists).await
    }

    /// A slot for an exchange, as [`Self::queue`].
    ///
    /// # Errors
    /// `TOO_MANY_EXCHANGES`, or when the request fails.
    pub async fn exchange(
        &self,
        scope: &TenantScope,
        name: &str,
        exists: impl AsyncFnOnce() -> Result<bool, Failure>,
    ) -> Result<Slot, Failure> {
        self.slot(scope, Names::Exchanges, scope.plan().max_exchanges, Some(name), exists).await
    }

    /// A slot for a binding, as [`Self::queue`]; bindings have no names.
    ///
    /// # Errors
    /// `TOO_MANY_BINDINGS`, or when the request fails.
    pub async fn binding(
        &self,
        scope: &TenantScope,
        exists: impl AsyncFnOnce() -> Result<bool, Failure>,
    ) -> Result<Slot, Failure> {
        self.slot(scope, Names::Bindings, scope.plan().max_bindings, None, exists).await
    }

    /// Discards the counts of a tenant after an object, and possibly its bindings, were deleted.
    pub fn deleted(&self, tenant: &TenantId) {
        for names in [Names::Queues, Names::Exchanges, Names::Bindings] {
            self.counts.invalidate(&(tenant.clone(), names));
        }
    }

    async fn slot(
        &self,
        scope: &TenantScope,
        names: Names,
        max: u32,
        name: Option<&str>,
        exists: impl AsyncFnOnce() -> Result<bool, Failure>,
    ) -> Result<Slot, Failure> {
        if max == 0 {
            return Ok(Slot(None));
        }
        let guard = self.locks.lock(scope.tenant()).await;
        let key = (scope.tenant().clone(), names);
        let count = match self.counts.get(&key).filter(|count| count.is_usable(max)) {
            Some(count) => count,
            None => {
                let count = Arc::new(self.read(scope, names, max, name.is_some()).await?);
                self.counts.insert(key, Arc::clone(&count));
                count
            }
        };
        if count.number() < u64::from(max) {
            count.added.fetch_add(1, Ordering::Relaxed);
            return Ok(Slot(Some(guard)));
        }
        let exists = match (&count.names, name) {
            (Some(names), Some(name)) => names.contains(name),
            _ => exists().await?,
        };
        if !exists {
            return Err(tenant::Error::TooMany { what: names.as_str(), max }.into());
        }
        Ok(Slot(Some(guard)))
    }

    /// Reads the number from the broker, and the names if there are too many.
    async fn read(&self, scope: &TenantScope, names: Names, max: u32, have_names: bool) -> Result<Count, Failure> {
        let (client, vhost) = (self.inspector.client(), scope.vhost());
        if !have_names {
            return Ok(Count::new(usage::count(client, vhost, names).await?, None));
        }
        let Some(found) = usage::names(client, vhost, names).await? else { return Ok(Count::new(u64::MAX, None)) };
        let read = found.len() as u64;
        let is_full = read >= u64::from(max);
        Ok(Count::new(read, is_full.then(|| found.into_iter().map(String::into_boxed_str).collect())))
    }
}

impl Count {
    fn new(read: u64, names: Option<HashSet<Box<str>>>) -> Self {
        Self { read, names, added: AtomicU64::new(0), at: Instant::now() }
    }

    fn number(&self) -> u64 {
        self.read.saturating_add(self.added.load(Ordering::Relaxed))
    }

    /// A count below the limit is usable for its whole time to live. One at the limit is usable for a shorter time, and
    /// only if it is the broker's own, because objects declared since may have existed already.
    fn is_usable(&self, max: u32) -> bool {
        self.number() < u64::from(max)
            || (self.added.load(Ordering::Relaxed) == 0 && self.at.elapsed() < FULL_COUNT_TTL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_at_the_limit_is_used_only_if_it_is_the_brokers_own() {
        let count = |read, added| Count { added: AtomicU64::new(added), ..Count::new(read, None) };
        assert!(count(8, 1).is_usable(10));
        assert!(count(10, 0).is_usable(10), "just read");
        assert!(!count(9, 1).is_usable(10), "the object declared since may have existed");
        assert!(!count(u64::MAX, 1).is_usable(10));
    }
}
