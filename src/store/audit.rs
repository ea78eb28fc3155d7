//! The audit trail in the database. Events are never changed, and never deleted before their retention time: the
//! database itself enforces this (migrations 0004 and 0008). An administrative operation is recorded before it begins
//! and with its outcome when it has ended, so that a crash in between leaves a record.

use std::time::SystemTime;

use sqlx::{Any, Transaction};
use uuid::Uuid;

use super::{Error, Store, from_millis, to_millis};
use crate::telemetry::StoreOperation;

/// The outcome of every refusal. All other outcomes belong to operations.
pub const REFUSED: &str = "refused";
/// The outcome of an operation whose gateway crashed before it ended.
pub const UNFINISHED: &str = "unfinished";

/// An operation or refusal to be recorded. Unknown texts are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAudit {
    /// When it happened.
    pub time: SystemTime,
    /// The client id; empty if the caller was not recognised.
    pub client: String,
    /// The address of the caller.
    pub peer_address: String,
    /// The called method.
    pub method: String,
    /// The tenant.
    pub tenant: String,
    /// The object.
    pub object: String,
    /// The rule that decided.
    pub rule: String,
    /// The outcome.
    pub outcome: String,
    /// The trace id.
    pub trace_id: String,
    /// The number of events that the row represents.
    pub times: u64,
    /// Whether events of this kind are aggregated when there are many of them.
    pub aggregated: bool,
}

impl Default for NewAudit {
    /// An event that happened once, now.
    fn default() -> Self {
        let empty = String::new;
        Self {
            time: SystemTime::now(),
            client: empty(),
            peer_address: empty(),
            method: empty(),
            tenant: empty(),
            object: empty(),
            rule: empty(),
            outcome: empty(),
            trace_id: empty(),
            times: 1,
            aggregated: false,
        }
    }
}

/// A recorded event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// The id, which increases in the order of recording; used for paging.
    pub id: Uuid,
    /// The event.
    pub event: NewAudit,
}

/// A filter for events; by default all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only events of this tenant.
    pub tenant: String,
    /// Only events of this client.
    pub client: String,
    /// Only events of this method, in full (`warrengate.v1.Admin/CreateTenant`) or by its name.
    pub method: String,
    /// Only events with this outcome; `failed` matches every `failed: REASON`.
    pub outcome: String,
    /// Only events at this time or later.
    pub from: Option<SystemTime>,
    /// Only events before this time.
    pub until: Option<SystemTime>,
    /// Leaves out the events of other tenants' clients, which a tenant must not see even if they concern it.
    pub for_tenant: bool,
}

/// An operation that has begun and is not in the audit trail yet.
#[derive(Debug)]
#[must_use = "an operation that is neither finished nor cancelled is reported as unfinished"]
pub struct BegunOperation(Uuid);

type Raw = (String, i64, String, String, String, String, String, String, String, String, i64, i64);
type RawBegun = (String, i64, String, String, String, String, String, String, String);

fn id_of(text: &str) -> Result<Uuid, Error> {
    Uuid::parse_str(text).map_err(|_| Error::Corrupt { what: "audit id" })
}

fn row(raw: Raw) -> Result<AuditRow, Error> {
    let (id, time, client, peer_address, method, tenant, object, rule, outcome, trace_id, times, aggregated) = raw;
    let (time, times, aggregated) = (from_millis(time), u64::try_from(times).unwrap_or(1), aggregated != 0);
    let event =
        NewAudit { time, client, peer_address, method, tenant, object, rule, outcome, trace_id, times, aggregated };
    Ok(AuditRow { id: id_of(&id)?, event })
}

async fn insert(tx: &mut Transaction<'static, Any>, event: &NewAudit) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO audit (id, time, client, peer_address, method, tenant, object, rule, outcome, trace_id, times, \
         aggregated) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(Uuid::now_v7().to_string())
    .bind(to_millis(event.time))
    .bind(event.client.clone())
    .bind(event.peer_address.clone())
    .bind(event.method.clone())
    .bind(event.tenant.clone())
    .bind(event.object.clone())
    .bind(event.rule.clone())
    .bind(event.outcome.clone())
    .bind(event.trace_id.clone())
    .bind(i64::try_from(event.times).unwrap_or(i64::MAX))
    .bind(i64::from(event.aggregated))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

impl Store {
    /// Records all events or none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn record(&self, events: &[NewAudit]) -> Result<(), Error> {
        self.timed(StoreOperation::Audit, async {
            let mut tx = self.begin_writing().await?;
            for event in events {
                insert(&mut tx, event).await?;
            }
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Records that an operation begins, before any part of it is done.
    ///
    /// # Errors
    /// When the database fails; the operation must not be done then.
    pub async fn begin_operation(&self, event: &NewAudit) -> Result<BegunOperation, Error> {
        self.timed(StoreOperation::Audit, async {
            let id = Uuid::now_v7();
            sqlx::query(
                "INSERT INTO begun_acts (id, time, client, peer_address, method, tenant, object, rule, trace_id) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            )
            .bind(id.to_string())
            .bind(to_millis(event.time))
            .bind(event.client.clone())
            .bind(event.peer_address.clone())
            .bind(event.method.clone())
            .bind(event.tenant.clone())
            .bind(event.object.clone())
            .bind(event.rule.clone())
            .bind(event.trace_id.clone())
            .execute(&self.pool)
            .await?;
            Ok(BegunOperation(id))
        })
        .await
    }

    /// Records the outcome of an operation. If it was reported as unfinished meanwhile, there are two rows.
    ///
    /// # Errors
    /// When the database fails; the operation is reported as unfinished later.
    pub async fn finish_operation(&self, operation: &BegunOperation, event: &NewAudit) -> Result<(), Error> {
        self.timed(StoreOperation::Audit, async {
            let mut tx = self.begin_writing().await?;
            insert(&mut tx, event).await?;
            sqlx::query("DELETE FROM begun_acts WHERE id = $1").bind(operation.0.to_string()).execute(&mut *tx).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Deletes the record of an operation that was refused before any part of it was done.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn cancel_operation(&self, operation: &BegunOperation) -> Result<(), Error> {
        self.timed(StoreOperation::Audit, async {
            sqlx::query("DELETE FROM begun_acts WHERE id = $1")
                .bind(operation.0.to_string())
                .execute(&self.pool)
                .await?;
            Ok(())
        })
        .await
    }

    /// Moves operations that began before a point in time and have not ended to the audit trail, as unfinished;
    /// returns their number. If several gateways do this at once, each operation is moved only once.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn report_unfinished_operations(&self, begun_before: SystemTime) -> Result<u64, Error> {
        self.timed(StoreOperation::Audit, async {
            let mut tx = self.begin_writing().await?;
            let rows: Vec<RawBegun> = sqlx::query_as(
                "DELETE FROM begun_acts WHERE time < $1 \
                 RETURNING id, time, client, peer_address, method, tenant, object, rule, trace_id",
            )
            .bind(to_millis(begun_before))
            .fetch_all(&mut *tx)
            .await?;
            let count = rows.len() as u64;
            for (_, time, client, peer_address, method, tenant, object, rule, trace_id) in rows {
                let (time, outcome) = (from_millis(time), UNFINISHED.to_owned());
                let event = NewAudit {
                    time,
                    client,
                    peer_address,
                    method,
                    tenant,
                    object,
                    rule,
                    outcome,
                    trace_id,
                    ..NewAudit::default()
                };
                insert(&mut tx, &event).await?;
            }
            tx.commit().await?;
            Ok(count)
        })
        .await
    }

    /// The events before an id that match the filter, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn audit(&self, filter: &AuditFilter, before: Option<Uuid>, limit: u32) -> Result<Vec<AuditRow>, Error> {
        self.timed(StoreOperation::Trail, async {
            let rows: Vec<Raw> = sqlx::query_as(
                "SELECT id, time, client, peer_address, method, tenant, object, rule, outcome, trace_id, times, aggregated FROM audit \
                 WHERE ($1 = '' OR tenant = $1) AND ($2 = '' OR client = $2) AND ($3 = '' OR method = $3 OR method = $4) \
                 AND ($5 = '' OR outcome = $5 OR ($5 = 'failed' AND outcome LIKE 'failed: %')) \
                 AND time >= $6 AND time < $7 AND ($8 = '' OR id < $8) \
                 AND ($10 = 0 OR client NOT LIKE '%.%' OR client LIKE $1 || '.%') ORDER BY id DESC LIMIT $9",
            )
            .bind(filter.tenant.clone())
            .bind(filter.client.clone())
            .bind(filter.method.clone())
            .bind(format!("warrengate.v1.Admin/{}", filter.method))
            .bind(filter.outcome.clone())
            .bind(filter.from.map_or(0, to_millis))
            .bind(filter.until.map_or(i64::MAX, to_millis))
            .bind(before.map(|id| id.to_string()).unwrap_or_default())
            .bind(i64::from(limit))
            .bind(i64::from(filter.for_tenant))
            .fetch_all(&self.pool)
            .await?;
            rows.into_iter().map(row).collect()
        })
        .await
    }

    /// Deletes up to `batch` operations older than `before`, and as many refusals and aggregated events that are older
    /// than `before` or than the newest `max_events` of their kind. Returns the number of deleted rows; to be repeated
    /// until it is 0.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn prune_audit(&self, before: SystemTime, max_events: u64, batch: u32) -> Result<u64, Error> {
        self.timed(StoreOperation::Trail, async {
            let before = to_millis(before);
            let max = i64::try_from(max_events).unwrap_or(i64::MAX);
            let mut floors = [before; KINDS.len()];
            for (floor, (condition, is_bounded)) in floors.iter_mut().zip(KINDS) {
                if is_bounded {
                    let sql = format!("SELECT time FROM audit WHERE {condition} ORDER BY time DESC LIMIT 1 OFFSET $1");
                    let over: Option<i64> =
                        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(max).fetch_optional(&self.pool).await?;
                    // The time of the first event beyond the limit; all events of the same millisecond are deleted
                    // with it.
                    *floor = over.map_or(before, |time| before.max(time.saturating_add(1)));
                }
            }
            let mut tx = self.begin_writing().await?;
            sqlx::query(
                "UPDATE audit_floor SET acts_before = CASE WHEN acts_before < $1 THEN $1 ELSE acts_before END, \
                 refusals_before = CASE WHEN refusals_before < $2 THEN $2 ELSE refusals_before END, \
                 aggregated_before = CASE WHEN aggregated_before < $3 THEN $3 ELSE aggregated_before END WHERE id = 1",
            )
            .bind(floors[0])
            .bind(floors[1])
            .bind(floors[2])
            .execute(&mut *tx)
            .await?;
            let mut removed = 0;
            for (floor, (condition, _)) in floors.into_iter().zip(KINDS) {
                let sql = format!(
                    "DELETE FROM audit WHERE id IN \
                     (SELECT id FROM audit WHERE {condition} AND time < $1 ORDER BY time LIMIT $2)"
                );
                let deleted = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(floor).bind(i64::from(batch));
                removed += deleted.execute(&mut *tx).await?.rows_affected();
            }
            tx.commit().await?;
            Ok(removed)
        })
        .await
    }
}

/// The SQL conditions for operations, refusals and aggregated events, and whether their number is limited.
const KINDS: [(&str, bool); 3] = [
    ("outcome <> 'refused' AND aggregated = 0", false),
    ("outcome = 'refused'", true),
    ("aggregated = 1 AND outcome <> 'refused'", true),
];
