//! Sessions of the web console that their users have ended. The table is bounded: a client has at most
//! [`MAX_OF_CLIENT`] rows, and rows are deleted when their sessions would have ended by themselves.

use std::time::{Duration, SystemTime};

use super::{Error, Store, now, to_millis};
use crate::telemetry::StoreOperation;

/// The ended sessions of a client that are known one by one. When there are more, all of its sessions that began before
/// are refused.
const MAX_OF_CLIENT: i64 = 64;

/// The session in the row for all sessions that began until then.
const ALL: &str = "";

impl Store {
    /// Records that a session has ended. It would have ended by itself after `max_age` at the latest.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn end_session(&self, client: &str, session: &str, max_age: Duration) -> Result<(), Error> {
        self.timed(StoreOperation::Change, async {
            let now = now();
            let forget = now.saturating_add(i64::try_from(max_age.as_millis()).unwrap_or(i64::MAX));
            let mut tx = self.begin_writing().await?;
            sqlx::query("DELETE FROM ended_sessions WHERE forget <= $1").bind(now).execute(&mut *tx).await?;
            let known: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM ended_sessions WHERE client = $1")
                .bind(client.to_owned())
                .fetch_one(&mut *tx)
                .await?;
            let (session, began_until) = if known >= MAX_OF_CLIENT { (ALL, now) } else { (session, 0) };
            if session == ALL {
                sqlx::query("DELETE FROM ended_sessions WHERE client = $1")
                    .bind(client.to_owned())
                    .execute(&mut *tx)
                    .await?;
            }
            sqlx::query(
                "INSERT INTO ended_sessions (client, session, began_until, forget) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (client, session) DO NOTHING",
            )
            .bind(client.to_owned())
            .bind(session.to_owned())
            .bind(began_until)
            .bind(forget)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    /// Whether a session that began at this time has been ended.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_session_ended(&self, client: &str, session: &str, began: SystemTime) -> Result<bool, Error> {
        self.timed(StoreOperation::Read, async {
            let found: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FROM ended_sessions \
                 WHERE client = $1 AND (session = $2 OR (session = '' AND began_until >= $3))",
            )
            .bind(client.to_owned())
            .bind(session.to_owned())
            .bind(to_millis(began))
            .fetch_one(&self.pool)
            .await?;
            Ok(found > 0)
        })
        .await
    }
}
