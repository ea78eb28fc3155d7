//! Plans in the database. The migrations create the three standard plans; a foreign key prevents the deletion of a
//! plan that is in use.

use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use super::{Error, Store};
use crate::{
    error::Classify,
    names::{PlanName, TenantId},
    telemetry::StoreOperation,
};

/// The limits of a plan; 0 means unlimited. The fields are those of `warrengate.v1.Plan`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanRow {
    /// Its name.
    pub name: PlanName,
    /// Connections to the broker, of all gateways together.
    pub max_connections: u32,
    /// Queues, without the gateway's own.
    pub max_queues: u32,
    /// Exchanges, without the gateway's and the broker's own.
    pub max_exchanges: u32,
    /// Bindings, without the gateway's own.
    pub max_bindings: u32,
    /// Clients that are not revoked.
    pub max_clients: u32,
    /// Maximum size of a message's body in bytes.
    pub max_message_bytes: u64,
    /// Open streams on one gateway.
    pub max_streams: u32,
    /// Published messages in flight on one gateway.
    pub max_in_flight_messages: u32,
    /// Their bytes.
    pub max_in_flight_bytes: u64,
    /// Published messages per second on one gateway.
    pub max_publish_messages_per_second: u32,
    /// Burst size of the message rate.
    pub publish_messages_burst: u32,
    /// Published body bytes per second on one gateway.
    pub max_publish_bytes_per_second: u64,
    /// Burst size of the byte rate.
    pub publish_bytes_burst: u64,
    /// Messages in all queues.
    pub max_stored_messages: u64,
    /// Their bytes.
    pub max_stored_bytes: u64,
    /// Maximum TTL of a message in a queue, in milliseconds.
    pub max_message_ttl: u64,
    /// How long a queue without consumers is kept, in milliseconds.
    pub queue_expires: u64,
    /// The sampling ratio of traces, in parts per million; `None` for the gateway's default.
    pub sampling_ppm: Option<u32>,
}

/// In the order of [`PlanRow::limits`].
const COLUMNS: &str = "max_connections, max_queues, max_exchanges, max_bindings, max_clients, max_message_bytes, \
    max_streams, max_in_flight_messages, max_in_flight_bytes, max_publish_messages_per_second, publish_messages_burst, \
    max_publish_bytes_per_second, publish_bytes_burst, max_stored_messages, max_stored_bytes, max_message_ttl, \
    queue_expires";

impl PlanRow {
    fn limits(&self) -> [u64; 17] {
        [
            self.max_connections.into(),
            self.max_queues.into(),
            self.max_exchanges.into(),
            self.max_bindings.into(),
            self.max_clients.into(),
            self.max_message_bytes,
            self.max_streams.into(),
            self.max_in_flight_messages.into(),
            self.max_in_flight_bytes,
            self.max_publish_messages_per_second.into(),
            self.publish_messages_burst.into(),
            self.max_publish_bytes_per_second,
            self.publish_bytes_burst,
            self.max_stored_messages,
            self.max_stored_bytes,
            self.max_message_ttl,
            self.queue_expires,
        ]
    }
}

fn row(raw: &AnyRow) -> Result<PlanRow, Error> {
    const CORRUPT: Error = Error::Corrupt { what: "plan limit" };
    let large = |column: &str| u64::try_from(raw.try_get::<i64, _>(column)?).map_err(|_| CORRUPT);
    let small = |column: &str| u32::try_from(raw.try_get::<i64, _>(column)?).map_err(|_| CORRUPT);
    let sampling = raw.try_get::<Option<i64>, _>("sampling_ppm")?;
    Ok(PlanRow {
        name: PlanName::parse(raw.try_get("name")?).map_err(|_| Error::Corrupt { what: "plan name" })?,
        max_connections: small("max_connections")?,
        max_queues: small("max_queues")?,
        max_exchanges: small("max_exchanges")?,
        max_bindings: small("max_bindings")?,
        max_clients: small("max_clients")?,
        max_message_bytes: large("max_message_bytes")?,
        max_streams: small("max_streams")?,
        max_in_flight_messages: small("max_in_flight_messages")?,
        max_in_flight_bytes: large("max_in_flight_bytes")?,
        max_publish_messages_per_second: small("max_publish_messages_per_second")?,
        publish_messages_burst: small("publish_messages_burst")?,
        max_publish_bytes_per_second: large("max_publish_bytes_per_second")?,
        publish_bytes_burst: large("publish_bytes_burst")?,
        max_stored_messages: large("max_stored_messages")?,
        max_stored_bytes: large("max_stored_bytes")?,
        max_message_ttl: large("max_message_ttl")?,
        queue_expires: large("queue_expires")?,
        sampling_ppm: sampling.map(|ppm| u32::try_from(ppm).map_err(|_| CORRUPT)).transpose()?,
    })
}

pub(super) async fn all(tx: &mut Transaction<'static, Any>) -> Result<Vec<PlanRow>, Error> {
    let rows = sqlx::query("SELECT * FROM plans ORDER BY name").fetch_all(&mut **tx).await?;
    rows.iter().map(row).collect()
}

/// A limit in the database's type; the limits of the API never exceed it.
fn stored(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

impl Store {
    /// The plans after a name, in order of their names.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn plans(&self, after: Option<&PlanName>, limit: u32) -> Result<Vec<PlanRow>, Error> {
        self.timed(StoreOperation::Read, async {
            let rows = sqlx::query("SELECT * FROM plans WHERE name > $1 ORDER BY name LIMIT $2")
                .bind(after.map_or("", PlanName::as_str).to_owned())
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
                .await?;
            rows.iter().map(row).collect()
        })
        .await
    }

    /// One plan.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn plan(&self, name: &PlanName) -> Result<Option<PlanRow>, Error> {
        self.timed(StoreOperation::Read, async {
            let raw = sqlx::query("SELECT * FROM plans WHERE name = $1")
                .bind(name.as_str().to_owned())
                .fetch_optional(&self.pool)
                .await?;
            raw.as_ref().map(row).transpose()
        })
        .await
    }

    /// Creates a plan. Returns whether it was created.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_plan(&self, new: &PlanRow) -> Result<bool, Error> {
        self.timed(StoreOperation::Change, async {
            let limits = new.limits();
            let placeholders: String = (2..limits.len() + 3).map(|number| format!(", ${number}")).collect();
            // The column names are constants, and the rest are placeholders.
            let statement = sqlx::AssertSqlSafe(format!(
                "INSERT INTO plans (name, {COLUMNS}, sampling_ppm) VALUES ($1{placeholders}) ON CONFLICT (name) DO NOTHING"
            ));
            let mut tx = self.begin_change().await?;
            let mut query = sqlx::query(statement).bind(new.name.as_str().to_owned());
            for limit in limits {
                query = query.bind(stored(limit));
            }
            let made = query.bind(new.sampling_ppm.map(i64::from)).execute(&mut *tx).await?.rows_affected() == 1;
            if made {
                tx.commit().await?
            } else {
                tx.rollback().await?
            }
            Ok(made)
        })
        .await
    }

    /// Changes a plan's limits based on the current ones, atomically; its name does not change. `None` if the plan does
    /// not exist.
    ///
    /// # Errors
    /// The error of `change`, or when the database fails.
    pub async fn change_plan<E: From<Error> + Classify>(
        &self,
        name: &PlanName,
        change: impl FnOnce(PlanRow) -> Result<PlanRow, E>,
    ) -> Result<Option<PlanRow>, E> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            let raw = sqlx::query("SELECT * FROM plans WHERE name = $1")
                .bind(name.as_str().to_owned())
                .fetch_optional(&mut *tx)
                .await
                .map_err(Error::from)?;
            let Some(raw) = raw else { return Ok(None) };
            let changed = change(row(&raw)?)?;
            let columns = COLUMNS.split(',').map(str::trim).chain(["sampling_ppm"]);
            let sets: Vec<_> = columns.enumerate().map(|(n, column)| format!("{column} = ${}", n + 2)).collect();
            let statement = sqlx::AssertSqlSafe(format!("UPDATE plans SET {} WHERE name = $1", sets.join(", ")));
            let mut query = sqlx::query(statement).bind(name.as_str().to_owned());
            for limit in changed.limits() {
                query = query.bind(stored(limit));
            }
            query.bind(changed.sampling_ppm.map(i64::from)).execute(&mut *tx).await.map_err(Error::from)?;
            tx.commit().await.map_err(Error::from)?;
            Ok(Some(changed))
        })
        .await
    }

    /// Deletes a plan that no tenant uses. Returns whether it existed.
    ///
    /// # Errors
    /// [`Error::PlanInUse`], or when the database fails.
    pub async fn delete_plan(&self, name: &PlanName) -> Result<bool, Error> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            let deleted = sqlx::query("DELETE FROM plans WHERE name = $1")
                .bind(name.as_str().to_owned())
                .execute(&mut *tx)
                .await
                .map_err(|error| Error::or_dangling(error, Error::PlanInUse))?;
            tx.commit().await?;
            Ok(deleted.rows_affected() == 1)
        })
        .await
    }

    /// The tenants with this plan, in order of their ids.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tenants_with_plan(&self, plan: &PlanName) -> Result<Vec<TenantId>, Error> {
        self.timed(StoreOperation::Read, async {
            let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM tenants WHERE plan = $1 ORDER BY id")
                .bind(plan.as_str().to_owned())
                .fetch_all(&self.pool)
                .await?;
            ids.iter().map(|id| TenantId::parse(id).map_err(|_| Error::Corrupt { what: "tenant id" })).collect()
        })
        .await
    }
}
