//! Persistent state: tenants, plans, clients, signing keys, responses to creations, and the audit trail, in SQLite (one gateway) or
//! PostgreSQL (several). Two invariants: every change to what gateways keep in memory raises the revision in the same
//! transaction, and a client is only found through its tenant.
//!
//! The `Any` driver of sqlx runs the same SQL on both databases; `migrations/` explains what that demands of the columns.

mod audit;
mod authority;
mod clients;
mod error;
mod keys;
mod listen;
mod open;
mod plans;
mod requests;
mod seal;
mod tenants;

pub use audit::{AuditFilter, AuditRow, BegunAct, NewAudit, REFUSED, UNFINISHED};
pub use authority::Authority;
pub use clients::{ClientChanges, ClientGate, ClientRow, ExternalClient, ExternalIdentity, NewClient};
pub use error::Error;
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
    /// For those who listen.
    url: Arc<SecretString>,
    is_sqlite: bool,
    metrics: Option<Arc<StoreMetrics>>,
    /// On whose behalf changes are made; none: the gateway's own.
    authority: Option<Arc<Authority>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("is_sqlite", &self.is_sqlite).finish_non_exhaustive()
    }
}

/// Everything that admission needs, read in one transaction.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The revision that this is.
    pub revision: i64,
    /// All plans, by name.
    pub plans: Vec<PlanRow>,
    /// All tenants, by id.
    pub tenants: Vec<TenantRow>,
    /// What admission needs of all clients.
    pub clients: Vec<ClientGate>,
    /// The ids of revoked signing keys.
    pub revoked_keys: Vec<String>,
}

impl Store {
    /// The same store, whose answers are timed.
    #[must_use]
    pub fn timed_by(mut self, metrics: Arc<StoreMetrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// The same store, whose changes are refused when the administrator on whose behalf they are made has lost its right
    /// meanwhile.
    #[must_use]
    pub fn acting_for(&self, authority: Arc<Authority>) -> Self {
        Self { authority: Some(authority), ..self.clone() }
    }

    /// Every question goes through here, so that each is timed once and a failure of the database is counted; what the
    /// store says no to by its own rules is an answer.
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

    /// Answers when the store does.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn ready(&self) -> Result<(), Error> {
        self.revision().await.map(|_| ())
    }

    /// The number of changes so far; gateways poll it to learn of each other's.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn revision(&self) -> Result<i64, Error> {
        let read = sqlx::query_scalar("SELECT value FROM revision WHERE id = 1").fetch_one(&self.pool);
        self.timed(StoreOperation::Revision, async { Ok(read.await?) }).await
    }

    /// Everything that admission needs, as of one moment.
    ///
    /// # Errors
    /// When the database cannot be asked, or holds a malformed name.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        self.timed(StoreOperation::Snapshot, self.read_snapshot()).await
    }

    async fn read_snapshot(&self) -> Result<Snapshot, Error> {
        // PostgreSQL's default would let each statement see a moment of its own.
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

    /// Closes the connections, after what runs on them.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// A transaction that changes something gateways keep in memory. Raising the revision comes first: the row's lock
    /// makes such transactions run one after the other on PostgreSQL, as SQLite's single writer does there.
    async fn begin_change(&self) -> Result<Transaction<'static, Any>, Error> {
        let mut tx = self.begin_writing().await?;
        sqlx::query("UPDATE revision SET value = value + 1 WHERE id = 1").execute(&mut *tx).await?;
        if let Some(authority) = &self.authority {
            authority.check(&mut tx).await?;
        }
        Ok(tx)
    }

    /// A transaction that writes what no gateway keeps in memory.
    async fn begin_writing(&self) -> Result<Transaction<'static, Any>, Error> {
        // SQLite cannot turn a reading transaction into a writing one while another process writes.
        let begin = if self.is_sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" };
        Ok(self.pool.begin_with(begin).await?)
    }
}

/// Unix milliseconds, as the database keeps a moment.
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

/// The same tests on a private PostgreSQL.
#[cfg(test)]
#[path = "store/tests.rs"]
#[expect(clippy::duplicate_mod, reason = "the same tests, on another database")]
mod tests_on_postgres;
