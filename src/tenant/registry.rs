//! The registry of tenants and clients: a snapshot of the store in memory, refreshed after every administrative call
//! ([`Tenants::refresh`]) and when other gateways change something ([`Tenants::watch`]). Callers are admitted by
//! [`Tenants::admit`] from memory alone. Its size is that of the two tables: requests add nothing to it. While the
//! store is unavailable, the last snapshot remains in use for a limited time.

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
    Action, Administrator, Error, Observer, TenantScope, Usage, revoked_keys::RevokedKeysWriter,
    snapshot::RegistrySnapshot,
};
use crate::{
    auth::Caller,
    names::TenantId,
    store::{self, Changes, Store},
};

/// How long the store may take to respond before it counts as unavailable.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the snapshot is used while the store is unavailable, by default.
const OUTAGE_GRACE: Duration = Duration::from_secs(15 * 60);

/// The registry of tenants.
#[derive(Debug)]
pub struct Tenants {
    store: Store,
    poll_interval: Duration,
    outage_grace: Duration,
    snapshot: ArcSwap<RegistrySnapshot>,
    revoked_keys: RevokedKeysWriter,
    /// When the store last confirmed the snapshot, in unix milliseconds of the system clock; compared with the issue
    /// times of tokens.
    as_of: AtomicI64,
    /// The same in milliseconds since `started`, by a monotonic clock; compared with the outage grace.
    confirmed: AtomicU64,
    started: Instant,
    revision: watch::Sender<i64>,
    /// Snapshots are applied in the order in which they were read.
    reading: Mutex<()>,
}

impl Tenants {
    /// Reads the store for the first time. `poll_interval` is the maximum delay until changes by other gateways are
    /// noticed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(store: Store, poll_interval: Duration) -> Result<Self, store::Error> {
        let tenants = Self {
            store,
            poll_interval,
            outage_grace: OUTAGE_GRACE,
            snapshot: ArcSwap::default(),
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

    /// Reads the store, after an administrative call, so that the change is in force when the call returns. Ends the
    /// streams of tenants and clients that are no longer admitted.
    ///
    /// # Errors
    /// When the store cannot be read; the last snapshot is kept, and [`Self::watch`] retries.
    pub async fn refresh(&self) -> Result<(), store::Error> {
        let _in_order = self.reading.lock().await;
        let (read_at, now) = (unix_millis(SystemTime::now()), self.now());
        let mut snapshot = self.store.snapshot().await?;
        self.revoked_keys.set(std::mem::take(&mut snapshot.revoked_keys));
        self.snapshot.store(Arc::new(RegistrySnapshot::next(&self.snapshot.load(), snapshot)));
        self.as_of.store(read_at, Ordering::Relaxed);
        self.confirmed.store(now, Ordering::Relaxed);
        let revision = self.snapshot.load().revision();
        self.revision.send_if_modified(|seen| std::mem::replace(seen, revision) != revision);
        Ok(())
    }

    /// Watches for changes by other gateways until stopped: reads the store's revision at every interval and after
    /// every notification, and the rest if it has changed. Logs when the store becomes unavailable and when it is
    /// available again.
    pub async fn watch(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.poll_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unavailable_since: Option<SystemTime> = None;
        let mut changes = None;
        loop {
            if changes.is_none() && unavailable_since.is_none() {
                changes = self.listen().await;
            }
            tokio::select! {
                _ = ticks.tick() => {}
                notified = notified(&mut changes) => if notified.is_err() { changes = None },
                () = stop.cancelled() => return,
            }
            let refreshed = tokio::select! {
                refreshed = tokio::time::timeout(STORE_TIMEOUT, self.refresh_if_changed()) => refreshed,
                () = stop.cancelled() => return,
            };
            match (refreshed, unavailable_since) {
                (Ok(Ok(())), Some(since)) => {
                    let seconds = since.elapsed().unwrap_or_default().as_secs();
                    tracing::info!(seconds, "store is available again");
                    unavailable_since = None;
                }
                (Ok(Err(error)), None) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "store is unavailable, using the last snapshot"
                    );
                    unavailable_since = Some(SystemTime::now());
                }
                (Err(_), None) => {
                    tracing::warn!("store does not respond, using the last snapshot");
                    unavailable_since = Some(SystemTime::now());
                }
                _ => {}
            }
            if self.check_age().is_err() {
                // Tenants are admitted again once the store has been read.
                self.snapshot.load().end_all(&Error::StoreUnavailable);
            }
        }
    }

    /// Subscribes to the store's notifications, if it has any, in addition to polling.
    async fn listen(&self) -> Option<Changes> {
        match tokio::time::timeout(STORE_TIMEOUT, self.store.changes()).await {
            Ok(Ok(changes)) => changes,
            Ok(Err(error)) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "cannot subscribe to the store's notifications"
                );
                None
            }
            Err(_) => None,
        }
    }

    /// Fails if the snapshot is older than the outage grace.
    fn check_age(&self) -> Result<(), Error> {
        let age = self.now().saturating_sub(self.confirmed.load(Ordering::Relaxed));
        if u128::from(age) > self.outage_grace.as_millis() { Err(Error::StoreUnavailable) } else { Ok(()) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The revision of the snapshot. Other data from the store that is kept in memory (signing keys) is read again
    /// when it changes.
    pub fn revision(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }

    /// Ends a tenant that is about to be deleted, so that its streams end with that reason and not with the suspension
    /// that precedes a deletion.
    pub fn end(&self, tenant: &TenantId) {
        if let Some(entry) = self.snapshot.load().tenant(tenant) {
            entry.end(Error::Unknown);
        }
    }

    async fn refresh_if_changed(&self) -> Result<(), store::Error> {
        let (asked_at, now) = (unix_millis(SystemTime::now()), self.now());
        // After a long outage everything is read again, even if the revision is unchanged.
        if self.check_age().is_ok() && self.store.revision().await? == self.snapshot.load().revision() {
            self.as_of.fetch_max(asked_at, Ordering::Relaxed);
            self.confirmed.fetch_max(now, Ordering::Relaxed);
            return Ok(());
        }
        self.refresh().await
    }

    /// Admits a caller to an action in its tenant. Reads memory only.
    ///
    /// # Errors
    /// When the caller has no tenant, its tenant is unknown or suspended, its client unknown or revoked, or its token
    /// withdrawn; for [`Action::Administer`] also when that is not granted. Access to individual exchanges and queues
    /// is decided by [`TenantScope::grants`].
    pub fn admit(&self, caller: &Caller, action: Action) -> Result<TenantScope, Error> {
        self.check_age()?;
        let snapshot = self.snapshot.load();
        let id = caller.tenant().ok_or(Error::NoTenant)?;
        let tenant = snapshot.tenant(id).ok_or_else(|| self.unknown(&snapshot, caller, Error::Unknown))?;
        tenant.check()?;
        let client =
            snapshot.client(caller.client()).ok_or_else(|| self.unknown(&snapshot, caller, Error::UnknownClient))?;
        let scope = TenantScope::new(tenant.clone(), client.clone(), caller.clone(), self.revoked_keys.subscribe())?;
        if action == Action::Administer && !scope.grants().administers() {
            return Err(Error::NotAdministrator);
        }
        Ok(scope)
    }

    /// Admits a platform administrator or a tenant's administrator.
    ///
    /// # Errors
    /// Like [`Self::admit`], except that a caller without a tenant is accepted.
    pub fn admit_administrator(&self, caller: &Caller) -> Result<Administrator, Error> {
        if caller.tenant().is_some() {
            self.admit(caller, Action::Administer)?;
        }
        self.check_age()?;
        let snapshot = self.snapshot.load();
        let client =
            snapshot.client(caller.client()).ok_or_else(|| self.unknown(&snapshot, caller, Error::UnknownClient))?;
        Administrator::new(caller.clone(), Arc::clone(client), self.revoked_keys.subscribe())
    }

    /// Admits a platform administrator to a tenant, or a client with the observe grant to its own tenant, whichever
    /// tenant is given.
    ///
    /// # Errors
    /// Like [`Self::admit_administrator`], and [`Error::NotObserver`] for a client without the grant.
    pub fn admit_observer(&self, caller: &Caller, tenant: &TenantId) -> Result<Observer, Error> {
        match caller.tenant() {
            Some(_) => Observer::client(self.admit(caller, Action::Inspect)?),
            None => Ok(Observer::platform(tenant.clone(), self.admit_administrator(caller)?)),
        }
    }

    /// Whether the tenant exists, suspended or not.
    pub fn knows(&self, tenant: &TenantId) -> bool {
        self.snapshot.load().tenant(tenant).is_some()
    }

    /// The usage of a tenant on this gateway.
    pub fn usage(&self, tenant: &TenantId) -> Usage {
        self.snapshot.load().tenant(tenant).map(|entry| entry.used().usage()).unwrap_or_default()
    }

    /// The tenants whose plan limits their stored messages, each with the number of messages ever published here: if
    /// it has grown, more may be stored.
    pub fn limited_in_store(&self) -> Vec<(TenantId, u64)> {
        let snapshot = self.snapshot.load();
        let limited = snapshot.tenants().filter(|entry| {
            let plan = entry.plan();
            plan.max_stored_messages > 0 || plan.max_stored_bytes > 0
        });
        limited.map(|entry| (entry.id().clone(), entry.used().ever_published())).collect()
    }

    /// The tenants whose broker certificates were rotated on request, each with the time from the store.
    pub fn credentials_rotated(&self) -> Vec<(TenantId, i64)> {
        let snapshot = self.snapshot.load();
        let all = snapshot.tenants().map(|entry| (entry.id(), entry.credentials_rotated().load(Ordering::Relaxed)));
        all.filter(|(_, when)| *when > 0).map(|(id, when)| (id.clone(), when)).collect()
    }

    /// Sets the stored messages of a tenant and their body bytes from a measurement. Returns whether a limit of its
    /// plan is reached.
    pub fn set_stored(&self, tenant: &TenantId, messages: u64, bytes: u64) -> bool {
        self.snapshot.load().tenant(tenant).is_some_and(|entry| {
            entry.used().set_stored(messages, bytes);
            entry.budget().is_full()
        })
    }

    /// A token issued after the snapshot was read may belong to a client that another gateway has created since.
    fn unknown(&self, snapshot: &RegistrySnapshot, caller: &Caller, otherwise: Error) -> Error {
        let as_of = self.as_of.load(Ordering::Relaxed);
        let is_young = unix_millis(caller.issued()) >= as_of;
        if is_young && !caller.tenant().is_some_and(|tenant| snapshot.was_deleted(tenant)) {
            Error::NotYetKnown { retry_after: self.poll_interval }
        } else {
            otherwise
        }
    }
}

/// The next notification; pending forever without a subscription.
async fn notified(changes: &mut Option<Changes>) -> Result<(), store::Error> {
    match changes {
        Some(changes) => changes.changed().await,
        None => std::future::pending().await,
    }
}

fn unix_millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
