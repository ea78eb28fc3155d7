//! All tenants and clients, as the store had them last. Readings of the store enter by [`Tenants::refresh`] (at once after an
//! administrative act) and [`Tenants::watch`] (other gateways' acts); callers enter by [`Tenants::admit`], which reads
//! memory only. Its size is that of the two tables: nothing a caller sends adds to it. While the store is away, what is
//! known stays true.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Mutex, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{Action, Administrator, Error, TenantScope, Usage, known::Known};
use crate::{
    auth::Caller,
    names::TenantId,
    store::{self, Changes, Store},
};

/// How long one question to the store may take, so that a store that hangs is noticed as one that is away.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

/// How long what is known counts while the store is away, unless another time is given.
const OUTAGE_GRACE: Duration = Duration::from_secs(15 * 60);

/// The registry of tenants.
#[derive(Debug)]
pub struct Tenants {
    store: Store,
    poll_interval: Duration,
    outage_grace: Duration,
    known: ArcSwap<Known>,
    /// Up to when `known` is known to be true, in unix milliseconds.
    as_of: AtomicI64,
    revision: watch::Sender<i64>,
    /// Readings are applied in the order in which they were read.
    reading: Mutex<()>,
}

impl Tenants {
    /// Reads the store for the first time. `poll_interval` is how long another gateway's act may go unnoticed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(store: Store, poll_interval: Duration) -> Result<Self, store::Error> {
        let tenants = Self {
            store,
            poll_interval,
            outage_grace: OUTAGE_GRACE,
            known: ArcSwap::default(),
            as_of: AtomicI64::new(0),
            revision: watch::Sender::new(0),
            reading: Mutex::new(()),
        };
        tenants.refresh().await?;
        Ok(tenants)
    }

    /// With another bound on how long tenants and clients are let in while the store is away. Default: 15 minutes.
    #[must_use]
    pub fn outliving_outages_for(self, outage_grace: Duration) -> Self {
        Self { outage_grace, ..self }
    }

    /// Reads the store now: after an administrative act, so that it counts from the moment it is answered. Ends the
    /// streams of tenants and clients that are no longer let in.
    ///
    /// # Errors
    /// When the store cannot be read; what is known stays, and [`Self::watch`] reads again.
    pub async fn refresh(&self) -> Result<(), store::Error> {
        let _in_order = self.reading.lock().await;
        let read_at = unix_millis(SystemTime::now());
        let snapshot = self.store.snapshot().await?;
        self.known.store(Arc::new(Known::next(&self.known.load(), snapshot)));
        self.as_of.store(read_at, Ordering::Relaxed);
        let revision = self.known.load().revision();
        self.revision.send_if_modified(|seen| std::mem::replace(seen, revision) != revision);
        Ok(())
    }

    /// Follows what other gateways change, until stopped: asks for the store's revision at every interval, and reads when
    /// it moved. A store that is away is logged when it goes and when it comes back.
    pub async fn watch(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.poll_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut away_since: Option<SystemTime> = None;
        let mut changes = None;
        loop {
            if changes.is_none() && away_since.is_none() {
                changes = self.listen().await;
            }
            tokio::select! {
                _ = ticks.tick() => {}
                told = told(&mut changes) => if told.is_err() { changes = None },
                () = stop.cancelled() => return,
            }
            let followed = tokio::select! {
                followed = tokio::time::timeout(STORE_PATIENCE, self.follow()) => followed,
                () = stop.cancelled() => return,
            };
            match (followed, away_since) {
                (Ok(Ok(())), Some(since)) => {
                    let seconds = since.elapsed().unwrap_or_default().as_secs();
                    tracing::info!(seconds, "store is back");
                    away_since = None;
                }
                (Ok(Err(error)), None) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "store is away, keeping what is known");
                    away_since = Some(SystemTime::now());
                }
                (Err(_), None) => {
                    tracing::warn!("store does not answer, keeping what is known");
                    away_since = Some(SystemTime::now());
                }
                _ => {}
            }
            if self.check_age().is_err() {
                // What comes back with the store is read anew, and is another life.
                self.known.load().end_all(&Error::StoreAway);
            }
        }
    }

    /// Where the store tells of changes, that is heard at once; the intervals are behind it.
    async fn listen(&self) -> Option<Changes> {
        match tokio::time::timeout(STORE_PATIENCE, self.store.changes()).await {
            Ok(Ok(changes)) => changes,
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the store tells no changes");
                None
            }
            Err(_) => None,
        }
    }

    /// What is known counts for so long and no longer.
    fn check_age(&self) -> Result<(), Error> {
        let age = unix_millis(SystemTime::now()) - self.as_of.load(Ordering::Relaxed);
        let grace = i64::try_from(self.outage_grace.as_millis()).unwrap_or(i64::MAX);
        if age > grace { Err(Error::StoreAway) } else { Ok(()) }
    }

    /// The store's revision that is known here: whoever keeps something else of the store's in memory (signing keys) reads it
    /// again when this changes.
    pub fn revision(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }

    /// Says, before the store does, that a tenant is being deleted: its streams end for that reason, not for the suspension
    /// that deleting begins with.
    pub fn end(&self, tenant: &TenantId) {
        if let Some(live) = self.known.load().tenant(tenant) {
            live.end(Error::Unknown);
        }
    }

    async fn follow(&self) -> Result<(), store::Error> {
        let asked_at = unix_millis(SystemTime::now());
        // After too long an outage everything is read again, whatever the revision.
        if self.check_age().is_ok() && self.store.revision().await? == self.known.load().revision() {
            self.as_of.fetch_max(asked_at, Ordering::Relaxed);
            return Ok(());
        }
        self.refresh().await
    }

    /// Lets a caller in to do something in its tenant. Reads memory only.
    ///
    /// # Errors
    /// When it has no tenant, its tenant is unknown or suspended, its client unknown or revoked, its token withdrawn; and for
    /// [`Action::Administer`] when that was not granted. What it may do with which exchange or queue is for
    /// [`TenantScope::grants`] to say.
    pub fn admit(&self, caller: &Caller, action: Action) -> Result<TenantScope, Error> {
        self.check_age()?;
        let known = self.known.load();
        let id = caller.tenant().ok_or(Error::NoTenant)?;
        let tenant = known.tenant(id).ok_or_else(|| self.unknown(&known, caller, Error::Unknown))?;
        tenant.check()?;
        let client = known.client(caller.client()).ok_or_else(|| self.unknown(&known, caller, Error::Revoked))?;
        let scope = TenantScope::new(tenant.clone(), client.clone(), caller.clone())?;
        if action == Action::Administer && !scope.grants().administers() {
            return Err(Error::NotAdministrator);
        }
        Ok(scope)
    }

    /// Lets a platform administrator, or a tenant's administrator, in to administer.
    ///
    /// # Errors
    /// As [`Self::admit`], except that a caller without a tenant is welcome.
    pub fn admit_administrator(&self, caller: &Caller) -> Result<Administrator, Error> {
        if caller.tenant().is_some() {
            self.admit(caller, Action::Administer)?;
        }
        self.check_age()?;
        let known = self.known.load();
        let client = known.client(caller.client()).ok_or_else(|| self.unknown(&known, caller, Error::Revoked))?;
        Administrator::new(caller.clone(), Arc::clone(client))
    }

    /// Whether there is such a tenant, let in or not.
    pub fn knows(&self, tenant: &TenantId) -> bool {
        self.known.load().tenant(tenant).is_some()
    }

    /// What a tenant uses on this gateway.
    pub fn usage(&self, tenant: &TenantId) -> Usage {
        self.known.load().tenant(tenant).map(|live| live.used().usage()).unwrap_or_default()
    }

    /// The tenants whose plan limits what they store, each with how many messages it ever published here: one whose number
    /// grew stores more.
    pub fn limited_in_store(&self) -> Vec<(TenantId, u64)> {
        let known = self.known.load();
        let limited = known.tenants().filter(|live| {
            let plan = live.plan();
            plan.max_stored_messages > 0 || plan.max_stored_bytes > 0
        });
        limited.map(|live| (live.id().clone(), live.used().ever_published())).collect()
    }

    /// The tenants whose certificates at the broker were ever asked to be made anew, each with when, as the store has it.
    pub fn credentials_rotated(&self) -> Vec<(TenantId, i64)> {
        let known = self.known.load();
        let all = known.tenants().map(|live| (live.id(), live.credentials_rotated().load(Ordering::Relaxed)));
        all.filter(|(_, when)| *when > 0).map(|(id, when)| (id.clone(), when)).collect()
    }

    /// Takes what a tenant stores in all its queues, as it was just measured: messages and their body bytes. Returns
    /// whether that is as much as its plan allows.
    pub fn set_stored(&self, tenant: &TenantId, messages: u64, bytes: u64) -> bool {
        self.known.load().tenant(tenant).is_some_and(|live| {
            live.used().set_stored(messages, bytes);
            live.budget().is_full()
        })
    }

    /// A token younger than our last reading of the store may be of a client made since, on another gateway.
    fn unknown(&self, known: &Known, caller: &Caller, otherwise: Error) -> Error {
        let as_of = self.as_of.load(Ordering::Relaxed);
        let is_young = unix_millis(caller.issued()) >= as_of;
        if is_young && !caller.tenant().is_some_and(|tenant| known.is_gone(tenant)) {
            Error::NotYetKnown { retry_after: self.poll_interval }
        } else {
            otherwise
        }
    }
}

/// Never, where nobody tells.
async fn told(changes: &mut Option<Changes>) -> Result<(), store::Error> {
    match changes {
        Some(changes) => changes.told().await,
        None => std::future::pending().await,
    }
}

fn unix_millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
