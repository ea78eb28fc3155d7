//! The gateways that use the store. The table is bounded: a row that is not renewed is deleted after [`KEPT`], and at
//! most [`MAX_GATEWAYS`] are kept. Renewals are compared by the clock of the database, because the clocks of gateways
//! may differ.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::{Error, Store, from_millis, to_millis};
use crate::telemetry::StoreOperation;

/// How often a gateway renews its row.
pub const RENEWAL: Duration = Duration::from_secs(5);
/// How long after its last renewal a gateway counts as not seen: two renewals may fail.
const NOT_SEEN_AFTER: Duration = Duration::from_secs(15);
/// How long a gateway that is not seen is listed, so that an administrator notices it.
const KEPT: Duration = Duration::from_secs(3600);
/// How many gateways are kept: those that were seen last.
pub const MAX_GATEWAYS: i64 = 100;

/// What a gateway records of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayEntry {
    /// Identifies this run of the gateway.
    pub id: Uuid,
    /// Its version.
    pub version: String,
    /// The name of its host; empty if it is not known.
    pub host: String,
    /// Where it listens for gRPC.
    pub grpc_address: String,
    /// When it started.
    pub started: SystemTime,
}

/// A gateway as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayRow {
    /// What it recorded.
    pub entry: GatewayEntry,
    /// When it last renewed its row, by the clock of the database.
    pub last_seen: SystemTime,
    /// Whether it has renewed its row in time.
    pub is_seen: bool,
}

type Raw = (String, String, String, String, i64, i64, i64);

fn row((id, version, host, grpc_address, started, last_seen, age): Raw) -> Result<GatewayRow, Error> {
    let id = Uuid::parse_str(&id).map_err(|_| Error::Corrupt { what: "gateway id" })?;
    let entry = GatewayEntry { id, version, host, grpc_address, started: from_millis(started) };
    Ok(GatewayRow { entry, last_seen: from_millis(last_seen), is_seen: age <= millis(NOT_SEEN_AFTER) })
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl Store {
    /// Records a gateway, or that it still runs, and deletes gateways that have not been seen for long.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn renew_gateway(&self, gateway: &GatewayEntry) -> Result<(), Error> {
        self.timed(StoreOperation::Gateway, async {
            let renew = sqlx::AssertSqlSafe(format!(
                "INSERT INTO gateways (id, version, host, grpc_address, started, last_seen) \
                 VALUES ($1, $2, $3, $4, $5, {now}) ON CONFLICT (id) DO UPDATE SET last_seen = excluded.last_seen",
                now = self.clock()
            ));
            sqlx::query(renew)
                .bind(gateway.id.to_string())
                .bind(gateway.version.clone())
                .bind(gateway.host.clone())
                .bind(gateway.grpc_address.clone())
                .bind(to_millis(gateway.started))
                .execute(&self.pool)
                .await?;
            let prune = sqlx::AssertSqlSafe(format!(
                "DELETE FROM gateways WHERE last_seen < {now} - $1 \
                 OR id NOT IN (SELECT id FROM gateways ORDER BY last_seen DESC, id DESC LIMIT {MAX_GATEWAYS})",
                now = self.clock()
            ));
            sqlx::query(prune).bind(millis(KEPT)).execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    /// Deletes a gateway that ends.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove_gateway(&self, id: Uuid) -> Result<(), Error> {
        self.timed(StoreOperation::Gateway, async {
            sqlx::query("DELETE FROM gateways WHERE id = $1").bind(id.to_string()).execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    /// The gateways, in the order of their start.
    ///
    /// # Errors
    /// When the database fails, or has an invalid id.
    pub async fn gateways(&self) -> Result<Vec<GatewayRow>, Error> {
        self.timed(StoreOperation::Read, async {
            let select = sqlx::AssertSqlSafe(format!(
                "SELECT id, version, host, grpc_address, started, last_seen, {now} - last_seen FROM gateways \
                 ORDER BY started, id LIMIT {MAX_GATEWAYS}",
                now = self.clock()
            ));
            let rows: Vec<Raw> = sqlx::query_as(select).fetch_all(&self.pool).await?;
            rows.into_iter().map(row).collect()
        })
        .await
    }

    /// The clock of the database, in unix milliseconds.
    const fn clock(&self) -> &'static str {
        match self.is_sqlite {
            true => "CAST(unixepoch('subsec') * 1000 AS BIGINT)",
            false => "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
        }
    }
}
