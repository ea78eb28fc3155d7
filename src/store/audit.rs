//! The audit trail: acts and refusals enter, and leave newest first. Nothing here changes or deletes one.

use std::time::SystemTime;

use uuid::Uuid;

use super::{Error, Store, from_millis, now};

/// An act or a refusal to keep. Empty text where something is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewAudit {
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
}

/// One that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Grows with time; for paging.
    pub id: String,
    /// When.
    pub time: SystemTime,
    /// What.
    pub event: NewAudit,
}

type Raw = (String, i64, String, String, String, String, String, String, String, String);

impl Store {
    /// Keeps one.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn record(&self, event: &NewAudit) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO audit (id, time, client, peer_address, method, tenant, object, rule, outcome, trace_id) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(Uuid::now_v7().to_string())
        .bind(now())
        .bind(event.client.clone())
        .bind(event.peer_address.clone())
        .bind(event.method.clone())
        .bind(event.tenant.clone())
        .bind(event.object.clone())
        .bind(event.rule.clone())
        .bind(event.outcome.clone())
        .bind(event.trace_id.clone())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Those before an id, newest first; of one tenant only when it is given.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn audit(&self, tenant: Option<&str>, before: Option<&str>, limit: u32) -> Result<Vec<AuditRow>, Error> {
        let rows: Vec<Raw> = sqlx::query_as(
            "SELECT id, time, client, peer_address, method, tenant, object, rule, outcome, trace_id FROM audit \
             WHERE ($1 = '' OR tenant = $1) AND ($2 = '' OR id < $2) ORDER BY id DESC LIMIT $3",
        )
        .bind(tenant.unwrap_or_default().to_owned())
        .bind(before.unwrap_or_default().to_owned())
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(id, time, client, peer_address, method, tenant, object, rule, outcome, trace_id)| AuditRow {
                id,
                time: from_millis(time),
                event: NewAudit { client, peer_address, method, tenant, object, rule, outcome, trace_id },
            })
            .collect())
    }
}
