//! Plans: names enter, limits leave. The three plans are seeded by the first migration.

use sqlx::{Any, Transaction};

use super::{Error, Store};
use crate::names::PlanName;

/// What a tenant may use. A limit of 0 means unlimited. The fields are those of `warrengate.v1.Plan`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanRow {
    /// Its name.
    pub name: PlanName,
    /// Connections to the broker, all gateways together.
    pub max_connections: u32,
    /// Queues, the gateway's own included.
    pub max_queues: u32,
    /// Bytes of a message's body.
    pub max_message_bytes: u64,
    /// Open streams on one gateway.
    pub max_streams: u32,
    /// Published messages in flight on one gateway.
    pub max_in_flight_messages: u32,
    /// Their bytes.
    pub max_in_flight_bytes: u64,
}

type Raw = (String, i64, i64, i64, i64, i64, i64);

fn row(raw: Raw) -> Result<PlanRow, Error> {
    let small = |value: i64| u32::try_from(value).map_err(|_| Error::Corrupt { what: "plan limit" });
    let large = |value: i64| u64::try_from(value).map_err(|_| Error::Corrupt { what: "plan limit" });
    Ok(PlanRow {
        name: PlanName::parse(&raw.0).map_err(|_| Error::Corrupt { what: "plan name" })?,
        max_connections: small(raw.1)?,
        max_queues: small(raw.2)?,
        max_message_bytes: large(raw.3)?,
        max_streams: small(raw.4)?,
        max_in_flight_messages: small(raw.5)?,
        max_in_flight_bytes: large(raw.6)?,
    })
}

pub(super) async fn all(tx: &mut Transaction<'static, Any>) -> Result<Vec<PlanRow>, Error> {
    let rows = sqlx::query_as(
        "SELECT name, max_connections, max_queues, max_message_bytes, max_streams, max_in_flight_messages, \
         max_in_flight_bytes FROM plans ORDER BY name",
    )
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(row).collect()
}

impl Store {
    /// The plans after a name, by name.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn plans(&self, after: Option<&PlanName>, limit: u32) -> Result<Vec<PlanRow>, Error> {
        let rows = sqlx::query_as(
            "SELECT name, max_connections, max_queues, max_message_bytes, max_streams, max_in_flight_messages, \
             max_in_flight_bytes FROM plans WHERE name > $1 ORDER BY name LIMIT $2",
        )
        .bind(after.map_or("", PlanName::as_str).to_owned())
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(row).collect()
    }

    /// One plan.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn plan(&self, name: &PlanName) -> Result<Option<PlanRow>, Error> {
        let raw = sqlx::query_as(
            "SELECT name, max_connections, max_queues, max_message_bytes, max_streams, max_in_flight_messages, \
             max_in_flight_bytes FROM plans WHERE name = $1",
        )
        .bind(name.as_str().to_owned())
        .fetch_optional(&self.pool)
        .await?;
        raw.map(row).transpose()
    }
}
