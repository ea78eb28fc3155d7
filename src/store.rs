//! Persistent state: tenants, plans, clients, signing keys, responses to creations, gateways, and the audit trail, in SQLite
//! (one gateway) or PostgreSQL (several). Two invariants: every change to what gateways keep in memory raises the revision
//! in the same transaction, and a client is only found through its tenant.
//!
//! The `Any` driver of sqlx runs the same SQL on both databases; `migrations/` explains what that demands of the
//! columns.

mod audit;
mod authority;
mod clients;
mod error;
mod gateways;
mod keys;
mod listen;
mod open;
mod plans;
mod requests;
mod seal;
mod sessions;
mod tenants;

pub use audit::{AuditFilter, AuditRow, BegunOperation, NewAudit, REFUSED, UNFINISHED};
pub use authority::Authority;
pub use clients::{ClientChanges, ClientGate, ClientRow, ExternalClient, ExternalIdentity, NewClient};
pub use error::Error;
pub use gateways::{GatewayEntry, GatewayRow, MAX_GATEWAYS, RENEWAL};
pub use keys::{KeyRow, KeyState, NewKey};
pub use listen::Changes;
pub use plans::PlanRow;
pub use seal::EncryptionKey;
pub use tenants::{NewTenant, TenantRow, TenantState};

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use secrecy::SecretString;
use sqlx::{Any, AnyPool, Transaction};

use crate::{
    error::{Classify, Kind},
    telemetry::{StoreMetrics, StoreOperation},
};

/// A handle on the store; cloning is cheap.
#[derive(Clone)]
pub struct Store {
    pool: AnyPool,
    key: Arc<EncryptionKey>,
    /// For notifications.
    url: Arc<SecretString>,
    is_sqlite: bool,
    metrics: Option<Arc<StoreMetrics>>,
    /// The administrator on whose behalf changes are made; `None` for the gateway itself.
    authority: Option<Arc<Authority>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("is_sqlite", &self.is_sqlite).finish_non_exhaustive()
    }
}

/// All data that admission needs, read in one transaction.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The revision of the snapshot.
    pub revision: i64,
    /// All plans, by name.
    pub plans: Vec<PlanRow>,
    /// All tenants, by id.
    pub tenants: Vec<TenantRow>,
    /// The data of all clients that admission needs.
    pub clients: Vec<ClientGate>,
    /// The ids of revoked signing keys.
    pub revoked_keys: Vec<String>,
}

impl Store {
    /// The same store with its operations timed.
    #[must_use]
    pub fn timed_by(mut self, metrics: Arc<StoreMetrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// The same store with changes on behalf of an administrator. A change is refused if the administrator has lost
    /// its right meanwhile.
    #[must_use]
    pub fn acting_for(&self, authority: Arc<Authority>) -> Self {
        Self { authority: Some(authority), ..self.clone() }
    }

    /// Wraps every operation, so that it is timed once and database failures are counted. A refusal by the store's own
    /// rules is not a failure.
    async fn timed<T, E: Classify>(
        &self,
        operation: StoreOperation,
        what: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let failed = |error: &E| matches!(error.kind(), Kind::Unavailable | Kind::Aborted | Kind::Internal);
        match &self.metrics {
            Some(metrics) => metrics.timed(operation, failed, what).await,
            None => what.await,
        }
    }

    /// The kind of database: `sqlite` or `postgresql`.
    pub const fn kind(&self) -> &'static str {
        if self.is_sqlite { "sqlite" } else { "postgresql" }
    }

    /// Checks that the database responds.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ready(&self) -> Result<(), Error> {
        self.revision().await.map(|_| ())
    }

    /// The number of changes so far. Gateways poll it to detect each other's changes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn revision(&self) -> Result<i64, Error> {
        let read = sqlx::query_scalar("SELECT value FROM revision WHERE id = 1").fetch_one(&self.pool);
        self.timed(StoreOperation::Revision, async { Ok(read.await?) }).await
    }

    /// All data that admission needs, as of one point in time.
    ///
    /// # Errors
    /// When the database fails, or contains an invalid name.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        self.timed(StoreOperation::Snapshot, self.read_snapshot()).await
    }

    async fn read_snapshot(&self) -> Result<Snapshot, Error> {
        // With PostgreSQL's default isolation level, each statement would see a different state.
        let begin = if self.is_sqlite { "BEGIN" } else { "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" };
        let mut tx = self.pool.begin_with(begin).await?;
        let revision = sqlx::query_scalar("SELECT value FROM revision WHERE id = 1").fetch_one(&mut *tx).await?;
        let plans = plans::all(&mut tx).await?;
        let tenants = tenants::all(&mut tx).await?;
        let clients = clients::gates(&mut tx).await?;
        let revoked_keys = keys::revoked(&mut tx).await?;
        tx.commit().await?;
        Ok(Snapshot { revision, plans, tenants, clients, revoked_keys })
    }

    /// Closes the connections after running operations have ended.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// A transaction that changes data that gateways keep in memory. It raises the revision first: the row lock
    /// serialises such transactions on PostgreSQL, as SQLite's single writer does.
    async fn begin_change(&self) -> Result<Transaction<'static, Any>, Error> {
        let mut tx = self.begin_writing().await?;
        sqlx::query("UPDATE revision SET value = value + 1 WHERE id = 1").execute(&mut *tx).await?;
        if let Some(authority) = &self.authority {
            authority.check(&mut tx).await?;
        }
        Ok(tx)
    }

    /// A transaction that writes data that no gateway keeps in memory.
    async fn begin_writing(&self) -> Result<Transaction<'static, Any>, Error> {
        // SQLite cannot upgrade a reading transaction to a writing one while another process writes.
        let begin = if self.is_sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" };
        Ok(self.pool.begin_with(begin).await?)
    }
}

/// Unix milliseconds, the representation of times in the database.
fn to_millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn from_millis(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

fn now() -> i64 {
    to_millis(SystemTime::now())
}

#[cfg(test)]
mod tests;

/// The same tests on PostgreSQL.
#[cfg(test)]
#[path = "store/tests.rs"]
#[expect(clippy::duplicate_mod, reason = "the same tests, on another database")]
mod tests_on_postgres;
