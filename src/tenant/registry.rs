//! The registry of tenants and clients: a snapshot of the store in memory, refreshed after every administrative call
//! ([`Tenants::refresh`]) and when other gateways change something ([`Tenants::watch`]). Callers are admitted by
//! [`Tenants::admit`] from memory alone. Its size is that of the two tables: nothing a caller sends adds to it. While the store is
//! unavailable, the last snapshot stays in force for a bounded time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Mutex, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{
    Action, Administrator, Error, TenantScope, Usage, known::RegistrySnapshot, revoked_keys::RevokedKeysWriter,
};
use crate::{
    auth::Caller,
    names::TenantId,
    store::{self, Changes, Store},
};

/// How long the store may take to answer, so that one that hangs is treated as unavailable.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the snapshot is used while the store is unavailable, unless configured.
const OUTAGE_GRACE: Duration = Duration::from_secs(15 * 60);

/// The registry of tenants.
#[derive(Debug)]
pub struct Tenants {
    store: Store,
    poll_interval: Duration,
    outage_grace: Duration,
    known: ArcSwap<RegistrySnapshot>,
    revoked_keys: RevokedKeysWriter,
    /// When the store last confirmed `known`, by the system's clock in unix milliseconds: compared with when tokens were issued.
    as_of: AtomicI64,
    /// The same in milliseconds since `started`, by a clock that nobody sets: compared with the grace of an outage.
    confirmed: AtomicU64,
    started: Instant,
    revision: watch::Sender<i64>,
    /// Snapshots are applied in the order in which they were read.
    reading: Mutex<()>,
}

impl Tenants {
    /// Reads the store for the first time. `poll_interval` is how long a change by another gateway may go unnoticed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(store: Store, poll_interval: Duration) -> Result<Self, store::Error> {
        let tenants = Self {
            store,
            poll_interval,
            outage_grace: OUTAGE_GRACE,
            known: ArcSwap::default(),
            revoked_keys: RevokedKeysWriter::default(),
            as_of: AtomicI64::new(0),
            confirmed: AtomicU64::new(0),
            started: Instant::now(),
            revision: watch::Sender::new(0),
            reading: Mutex::new(()),
        };
        tenants.refresh().await?;
        Ok(tenants)
    }

    /// Sets how long the last snapshot is used while the store is unavailable. Default: 15 minutes.
    #[must_use]
    pub fn with_outage_grace(self, outage_grace: Duration) -> Self {
        Self { outage_grace, ..self }
    }

    /// Reads the store now: after an administrative call, so that the change is in force when the call returns. Ends the
    /// streams of tenants and clients that are no longer admitted.
    ///
    /// # Errors
    /// When the store cannot be read; the last snapshot stays, and [`Self::watch`] reads again.
    pub async fn refresh(&self) -> Result<(), store::Error> {
        let _in_order = self.reading.lock().await;
        let (read_at, now) = (unix_millis(SystemTime::now()), self.now());
        let mut snapshot = self.store.snapshot().await?;
        self.revoked_keys.set(std::mem::take(&mut snapshot.revoked_keys));
        self.known.store(Arc::new(RegistrySnapshot::next(&self.known.load(), snapshot)));
        self.as_of.store(read_at, Ordering::Relaxed);
        self.confirmed.store(now, Ordering::Relaxed);
        let revision = self.known.load().revision();
        self.revision.send_if_modified(|seen| std::mem::replace(seen, revision) != revision);
        Ok(())
    }

    /// Follows the changes of other gateways until stopped: reads the store's revision at every interval and after every
    /// notification, and the rest when it has changed. Logs when the store becomes unavailable and when it is back.
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
                notified = notified(&mut changes) => if notified.is_err() { changes = None },
                () = stop.cancelled() => return,
            }
            let followed = tokio::select! {
                followed = tokio::time::timeout(STORE_TIMEOUT, self.follow()) => followed,
                () = stop.cancelled() => return,
            };
            match (followed, away_since) {
                (Ok(Ok(())), Some(since)) => {
                    let seconds = since.elapsed().unwrap_or_default().as_secs();
                    tracing::info!(seconds, "store is available again");
                    away_since = None;
                }
                (Ok(Err(error)), None) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "store is unavailable, using the last snapshot"
                    );
                    away_since = Some(SystemTime::now());
                }
                (Err(_), None) => {
                    tracing::warn!("store does not answer, using the last snapshot");
                    away_since = Some(SystemTime::now());
                }
                _ => {}
            }
            if self.check_age().is_err() {
                // Tenants are admitted again when the store has been read.
                self.known.load().end_all(&Error::StoreAway);
            }
        }
    }

    /// Subscribes to the store's notifications, if it has any; polling goes on beside them.
    async fn listen(&self) -> Option<Changes> {
        match tokio::time::timeout(STORE_TIMEOUT, self.store.changes()).await {
            Ok(Ok(changes)) => changes,
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the store sends no notifications");
                None
            }
            Err(_) => None,
        }
    }

    /// Whether the snapshot may still be used: not for longer than the grace of an outage.
    fn check_age(&self) -> Result<(), Error> {
        let age = self.now().saturating_sub(self.confirmed.load(Ordering::Relaxed));
        if u128::from(age) > self.outage_grace.as_millis() { Err(Error::StoreAway) } else { Ok(()) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The revision of the snapshot. What else is kept of the store in memory (signing keys) is read again when it changes.
    pub fn revision(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }

    /// Ends a tenant that is about to be deleted, so that its streams end for that reason and not for the suspension with
    /// which a deletion begins.
    pub fn end(&self, tenant: &TenantId) {
        if let Some(live) = self.known.load().tenant(tenant) {
            live.end(Error::Unknown);
        }
    }

    async fn follow(&self) -> Result<(), store::Error> {
        let (asked_at, now) = (unix_millis(SystemTime::now()), self.now());
        // After too long an outage everything is read again, whatever the revision.
        if self.check_age().is_ok() && self.store.revision().await? == self.known.load().revision() {
            self.as_of.fetch_max(asked_at, Ordering::Relaxed);
            self.confirmed.fetch_max(now, Ordering::Relaxed);
            return Ok(());
        }
        self.refresh().await
    }

    /// Admits a caller to do something in its tenant. Reads memory only.
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
        let client = known.client(caller.client()).ok_or_else(|| self.unknown(&known, caller, Error::UnknownClient))?;
        let scope = TenantScope::new(tenant.clone(), client.clone(), caller.clone(), self.revoked_keys.subscribe())?;
        if action == Action::Administer && !scope.grants().administers() {
            return Err(Error::NotAdministrator);
        }
        Ok(scope)
    }

    /// Admits a platform administrator or a tenant's administrator.
    ///
    /// # Errors
    /// As [`Self::admit`], except that a caller without a tenant is accepted.
    pub fn admit_administrator(&self, caller: &Caller) -> Result<Administrator, Error> {
        if caller.tenant().is_some() {
            self.admit(caller, Action::Administer)?;
        }
        self.check_age()?;
        let known = self.known.load();
        let client = known.client(caller.client()).ok_or_else(|| self.unknown(&known, caller, Error::UnknownClient))?;
        Administrator::new(caller.clone(), Arc::clone(client), &self.revoked_keys.subscribe())
    }

    /// Whether there is such a tenant, suspended or not.
    pub fn knows(&self, tenant: &TenantId) -> bool {
        self.known.load().tenant(tenant).is_some()
    }

    /// What a tenant uses on this gateway.
    pub fn usage(&self, tenant: &TenantId) -> Usage {
        self.known.load().tenant(tenant).map(|live| live.used().usage()).unwrap_or_default()
    }

    /// The tenants whose plan limits what they store, each with the number of messages that it ever published here: where it
    /// grew, more is stored.
    pub fn limited_in_store(&self) -> Vec<(TenantId, u64)> {
        let known = self.known.load();
        let limited = known.tenants().filter(|live| {
            let plan = live.plan();
            plan.max_stored_messages > 0 || plan.max_stored_bytes > 0
        });
        limited.map(|live| (live.id().clone(), live.used().ever_published())).collect()
    }

    /// The tenants whose broker certificates were ever rotated, each with the time as the store has it.
    pub fn credentials_rotated(&self) -> Vec<(TenantId, i64)> {
        let known = self.known.load();
        let all = known.tenants().map(|live| (live.id(), live.credentials_rotated().load(Ordering::Relaxed)));
        all.filter(|(_, when)| *when > 0).map(|(id, when)| (id.clone(), when)).collect()
    }

    /// Sets what a tenant stores in all its queues, as just measured: messages and their body bytes. Returns whether that
    /// is as much as its plan allows.
    pub fn set_stored(&self, tenant: &TenantId, messages: u64, bytes: u64) -> bool {
        self.known.load().tenant(tenant).is_some_and(|live| {
            live.used().set_stored(messages, bytes);
            live.budget().is_full()
        })
    }

    /// A token that was issued after the snapshot was read may be of a client that another gateway created since.
    fn unknown(&self, known: &RegistrySnapshot, caller: &Caller, otherwise: Error) -> Error {
        let as_of = self.as_of.load(Ordering::Relaxed);
        let is_young = unix_millis(caller.issued()) >= as_of;
        if is_young && !caller.tenant().is_some_and(|tenant| known.is_gone(tenant)) {
            Error::NotYetKnown { retry_after: self.poll_interval }
        } else {
            otherwise
        }
    }
}

/// The next notification; pending for ever without a subscription.
async fn notified(changes: &mut Option<Changes>) -> Result<(), store::Error> {
    match changes {
        Some(changes) => changes.told().await,
        None => std::future::pending().await,
    }
}

fn unix_millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
