//! The audit trail in the database. Nothing changes an event, and nothing deletes one before its time: the database itself refuses
//! (migrations 0004 and 0008). An administrative act is recorded as begun before it is done, and in the trail with its
//! outcome afterwards, so that a gateway that crashes in between leaves a line that says so.

use std::time::SystemTime;

use sqlx::{Any, Transaction};
use uuid::Uuid;

use super::{Error, Store, from_millis, to_millis};
use crate::telemetry::StoreOperation;

/// The outcome of every refusal; all other outcomes are acts'.
pub const REFUSED: &str = "refused";
/// The outcome of an act whose gateway died in the middle.
pub const UNFINISHED: &str = "unfinished";

/// An act or a refusal to keep. Empty text where something is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAudit {
    /// When it happened.
    pub time: SystemTime,
    /// Who: a client id, or empty when nobody was recognised.
    pub client: String,
    /// From where.
    pub peer_address: String,
    /// What was called.
    pub method: String,
    /// In which tenant.
    pub tenant: String,
    /// On what.
    pub object: String,
    /// Which rule decided.
    pub rule: String,
    /// What came of it.
    pub outcome: String,
    /// The trace that it belongs to.
    pub trace_id: String,
    /// How many such events it represents.
    pub times: u64,
    /// Whether such events are counted together when there are many of them.
    pub aggregated: bool,
}

impl Default for NewAudit {
    /// Something that happens now, once.
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

/// One that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Grows with the order in which events were kept; for paging.
    pub id: Uuid,
    /// What happened.
    pub event: NewAudit,
}

/// Which events to read. Nothing given: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Of this tenant.
    pub tenant: String,
    /// Of this client.
    pub client: String,
    /// Of this method, whole (`warrengate.v1.Admin/CreateTenant`) or its name alone.
    pub method: String,
    /// With this outcome; `failed` finds every `failed: REASON`.
    pub outcome: String,
    /// At this moment or later.
    pub from: Option<SystemTime>,
    /// Before this moment.
    pub until: Option<SystemTime>,
}

/// An act that has begun: its line in the trail is owed.
#[derive(Debug)]
#[must_use = "an act that is neither finished nor cancelled is reported as unfinished"]
pub struct BegunAct(Uuid);

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
    /// Keeps events, all or none.
    ///
    /// # Errors
    /// When the database cannot be asked.
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

    /// Writes down that an act begins, before anything of it is done.
    ///
    /// # Errors
    /// When the database cannot be asked: the act must not be done then.
    pub async fn begin_act(&self, event: &NewAudit) -> Result<BegunAct, Error> {
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
            Ok(BegunAct(id))
        })
        .await
    }

    /// Keeps what came of an act. An act that was taken for unfinished meanwhile then has two lines.
    ///
    /// # Errors
    /// When the database cannot be asked; the act stays begun, and is reported as unfinished later.
    pub async fn finish_act(&self, act: &BegunAct, event: &NewAudit) -> Result<(), Error> {
        self.timed(StoreOperation::Audit, async {
            let mut tx = self.begin_writing().await?;
            insert(&mut tx, event).await?;
            sqlx::query("DELETE FROM begun_acts WHERE id = $1").bind(act.0.to_string()).execute(&mut *tx).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Forgets an act that was refused before anything of it was done.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn cancel_act(&self, act: &BegunAct) -> Result<(), Error> {
        self.timed(StoreOperation::Audit, async {
            sqlx::query("DELETE FROM begun_acts WHERE id = $1").bind(act.0.to_string()).execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    /// Moves acts that began before a moment and never ended into the trail, as unfinished; returns how many. Of gateways
    /// that do this at once, each act is moved by one.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn report_unfinished_acts(&self, begun_before: SystemTime) -> Result<u64, Error> {
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

    /// Those that pass the filter before an id, newest first.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn audit(&self, filter: &AuditFilter, before: Option<Uuid>, limit: u32) -> Result<Vec<AuditRow>, Error> {
        self.timed(StoreOperation::Trail, async {
            let rows: Vec<Raw> = sqlx::query_as(
                "SELECT id, time, client, peer_address, method, tenant, object, rule, outcome, trace_id, times, aggregated FROM audit \
                 WHERE ($1 = '' OR tenant = $1) AND ($2 = '' OR client = $2) AND ($3 = '' OR method = $3 OR method = $4) \
                 AND ($5 = '' OR outcome = $5 OR ($5 = 'failed' AND outcome LIKE 'failed: %')) \
                 AND time >= $6 AND time < $7 AND ($8 = '' OR id < $8) ORDER BY id DESC LIMIT $9",
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
            .fetch_all(&self.pool)
            .await?;
            rows.into_iter().map(row).collect()
        })
        .await
    }

    /// Deletes up to `batch` acts from before a moment, and as many refusals and as many aggregated events that are older than
    /// the newest `max_events` of their kind (or than that moment). Returns how many were deleted; to be called again while
    /// there are any.
    ///
    /// # Errors
    /// When the database cannot be asked.
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
                    // That is the first one too many; others of the same millisecond go with it.
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
            let mut gone = 0;
            for (floor, (condition, _)) in floors.into_iter().zip(KINDS) {
                let sql = format!(
                    "DELETE FROM audit WHERE id IN \
                     (SELECT id FROM audit WHERE {condition} AND time < $1 ORDER BY time LIMIT $2)"
                );
                let deleted = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(floor).bind(i64::from(batch));
                gone += deleted.execute(&mut *tx).await?.rows_affected();
            }
            tx.commit().await?;
            Ok(gone)
        })
        .await
    }
}

/// Acts, refusals and aggregated events: which rows they are, and whether there is a bound on their number.
const KINDS: [(&str, bool); 3] = [
    ("outcome <> 'refused' AND aggregated = 0", false),
    ("outcome = 'refused'", true),
    ("aggregated = 1 AND outcome <> 'refused'", true),
];
