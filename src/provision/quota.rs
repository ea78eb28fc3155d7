//! How many queues, exchanges and bindings a tenant may have, held where they are declared. A scope enters; a [`Slot`] leaves
//! while there is room, or the plan's refusal. What is there already can be declared again however full it is.
//!
//! The broker is asked, and its answer kept for a while as an upper bound: what is made through this gateway is added, and what is
//! deleted makes it ask again. So ten thousand bindings are not listed ten thousand times, and a count is only believed to be
//! too large, never too small, but for what other gateways made in the last seconds.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::OwnedMutexGuard;

use super::{
    Inspector,
    usage::{self, Thing},
};
use crate::{
    error::Failure,
    names::TenantId,
    tenant::{self, TenantLocks, TenantScope},
};

/// How long a count is believed while there is room, which bounds what other gateways can add unseen.
const BELIEVED: Duration = Duration::from_secs(5);
/// How long a count is believed that leaves no room: who is refused and asks again must not keep the broker counting.
const FULL_BELIEVED: Duration = Duration::from_millis(500);
/// Tenants whose counts are kept.
const MAX_COUNTS: usize = 10_000;

/// Holds the limits of one gateway.
#[derive(Debug)]
pub struct Quota {
    inspector: Arc<Inspector>,
    locks: TenantLocks,
    counts: Mutex<HashMap<(TenantId, Thing), Count>>,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    /// As the broker said.
    read: u64,
    /// Declared here since.
    added: u64,
    at: Instant,
}

/// The right to declare one thing. While it is held, nobody else of the tenant declares anything here; nothing is held for a
/// tenant without that limit.
#[must_use = "it counts until it is dropped"]
#[derive(Debug)]
pub struct Slot(#[allow(dead_code, reason = "held until it is dropped")] Option<OwnedMutexGuard<()>>);

impl Quota {
    /// For the gateway whose inspector this is.
    pub fn new(inspector: Arc<Inspector>) -> Self {
        Self { inspector, locks: TenantLocks::default(), counts: Mutex::default() }
    }

    /// Room for a queue; `is_there` says whether there is one of that name already, and is only asked when it is full.
    ///
    /// # Errors
    /// `TOO_MANY_QUEUES`, or when the broker cannot be asked.
    pub async fn queue(
        &self,
        scope: &TenantScope,
        is_there: impl AsyncFnOnce() -> Result<bool, Failure>,
    ) -> Result<Slot, Failure> {
        self.slot(scope, Thing::Queues, scope.plan().max_queues, is_there).await
    }

    /// Room for an exchange, as [`Self::queue`].
    ///
    /// # Errors
    /// `TOO_MANY_EXCHANGES`, or when the broker cannot be asked.
    pub async fn exchange(
        &self,
        scope: &TenantScope,
        is_there: impl AsyncFnOnce() -> Result<bool, Failure>,
    ) -> Result<Slot, Failure> {
        self.slot(scope, Thing::Exchanges, scope.plan().max_exchanges, is_there).await
    }

    /// Room for a binding, as [`Self::queue`].
    ///
    /// # Errors
    /// `TOO_MANY_BINDINGS`, or when the broker cannot be asked.
    pub async fn binding(
        &self,
        scope: &TenantScope,
        is_there: impl AsyncFnOnce() -> Result<bool, Failure>,
    ) -> Result<Slot, Failure> {
        self.slot(scope, Thing::Bindings, scope.plan().max_bindings, is_there).await
    }

    /// Something of the tenant's was deleted, and perhaps its bindings with it: what was counted is asked again.
    pub fn deleted(&self, tenant: &TenantId) {
        self.counts().retain(|(of, _), _| of != tenant);
    }

    async fn slot(
        &self,
        scope: &TenantScope,
        thing: Thing,
        max: u32,
        is_there: impl AsyncFnOnce() -> Result<bool, Failure>,
    ) -> Result<Slot, Failure> {
        if max == 0 {
            return Ok(Slot(None));
        }
        let guard = self.locks.lock(scope.tenant()).await;
        let key = (scope.tenant().clone(), thing);
        let number = match self.believed(&key, max) {
            Some(number) => number,
            None => {
                let counted = usage::count(self.inspector.api(), scope.vhost(), thing).await?;
                self.keep(key.clone(), counted);
                counted
            }
        };
        if number < u64::from(max) {
            self.counts().entry(key).and_modify(|count| count.added += 1);
        } else if !is_there().await? {
            return Err(tenant::Error::TooMany { what: thing.name(), max }.into());
        }
        Ok(Slot(Some(guard)))
    }

    /// The number that is still believed: one with room for a while, and one without only as it was read. What was added
    /// since may have been there already.
    fn believed(&self, key: &(TenantId, Thing), max: u32) -> Option<u64> {
        let count = self.counts().get(key).copied()?;
        let (number, age) = (count.read.saturating_add(count.added), count.at.elapsed());
        let is_believed = match number < u64::from(max) {
            true => age < BELIEVED,
            false => count.added == 0 && age < FULL_BELIEVED,
        };
        is_believed.then_some(number)
    }

    fn keep(&self, key: (TenantId, Thing), number: u64) {
        let mut counts = self.counts();
        if counts.len() >= MAX_COUNTS {
            counts.retain(|_, count| count.at.elapsed() < BELIEVED);
        }
        if counts.len() < MAX_COUNTS {
            counts.insert(key, Count { read: number, added: 0, at: Instant::now() });
        }
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, HashMap<(TenantId, Thing), Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
