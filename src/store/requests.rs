//! Stored responses to creations, by caller, method and request id. The caller is part of the key, so that a client
//! cannot read another client's response by guessing its request id.

use super::{Error, Store, now};
use crate::{names::ClientId, telemetry::StoreOperation};

/// How long a response is kept.
const RETENTION_MILLIS: i64 = 24 * 60 * 60 * 1000;

impl Store {
    /// The stored response to this caller's request of this id, from the last 24 hours.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn answered(&self, caller: &ClientId, method: &str, request_id: &str) -> Result<Option<String>, Error> {
        self.timed(StoreOperation::Answer, async {
            Ok(sqlx::query_scalar(
                "SELECT result FROM requests WHERE client = $1 AND method = $2 AND request_id = $3 AND created > $4",
            )
            .bind(caller.as_str().to_owned())
            .bind(method.to_owned())
            .bind(request_id.to_owned())
            .bind(now() - RETENTION_MILLIS)
            .fetch_optional(&self.pool)
            .await?)
        })
        .await
    }

    /// Stores a response for 24 hours. An existing one is not replaced.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remember_answer(
        &self,
        caller: &ClientId,
        method: &str,
        request_id: &str,
        result: &str,
    ) -> Result<(), Error> {
        self.timed(StoreOperation::Answer, async {
            let now = now();
            sqlx::query("DELETE FROM requests WHERE created <= $1")
                .bind(now - RETENTION_MILLIS)
                .execute(&self.pool)
                .await?;
            sqlx::query(
                "INSERT INTO requests (client, method, request_id, result, created) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (client, method, request_id) DO NOTHING",
            )
            .bind(caller.as_str().to_owned())
            .bind(method.to_owned())
            .bind(request_id.to_owned())
            .bind(result.to_owned())
            .bind(now)
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }
}
