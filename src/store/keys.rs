//! Signing keys in the database. Private keys are encrypted before they are passed to a statement and decrypted when
//! they are read.

use std::time::SystemTime;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{Error, Store, from_millis, now, to_millis};
use crate::telemetry::StoreOperation;

/// The state of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// It signs new tokens. There is one at a time.
    Active,
    /// It no longer signs; its tokens are accepted until `retire_after`.
    Retiring,
}

/// A key to be stored.
pub struct NewKey {
    /// Its id.
    pub kid: String,
    /// The JWS name of its algorithm, for example `EdDSA`.
    pub algorithm: String,
    /// The private key, PKCS#8.
    pub private: Zeroizing<Vec<u8>>,
    /// The public key, raw.
    pub public: Vec<u8>,
}

/// A stored key, decrypted.
pub struct KeyRow {
    /// Its id.
    pub kid: String,
    /// The JWS name of its algorithm, for example `EdDSA`.
    pub algorithm: String,
    /// The private key, PKCS#8.
    pub private: Zeroizing<Vec<u8>>,
    /// The public key, raw.
    pub public: Vec<u8>,
    /// Its state.
    pub state: KeyState,
    /// When it was created.
    pub created: SystemTime,
    /// Until when its tokens are accepted; `None` while it is active.
    pub retire_after: Option<SystemTime>,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for KeyRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRow").field("kid", &self.kid).field("state", &self.state).finish_non_exhaustive()
    }
}

/// How long revoked key ids are kept: a token is valid for 24 hours at most, and another day allows for clock
/// differences and leeways.
const REVOKED_RETENTION_MILLIS: i64 = 48 * 3600 * 1000;

/// The ids of revoked keys whose tokens may still be in use.
pub(super) async fn revoked(tx: &mut sqlx::Transaction<'static, sqlx::Any>) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar("SELECT kid FROM revoked_keys ORDER BY kid").fetch_all(&mut **tx).await?)
}

type Raw = (String, String, String, String, String, i64, Option<i64>);

impl Store {
    /// Stores a first signing key unless there is an active one; returns whether it was stored. If several gateways
    /// start at the same time, only one succeeds.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_first_signing_key(&self, new: &NewKey) -> Result<bool, Error> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            let active: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM signing_keys WHERE state = 'active'")
                .fetch_one(&mut *tx)
                .await?;
            if active > 0 {
                tx.rollback().await?;
                return Ok(false);
            }
            self.insert_key(&mut tx, new).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    /// Stores a new active key; tokens of the previous one are accepted until `retire_after`. Expired keys are
    /// deleted.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rotate_signing_key(&self, new: &NewKey, retire_after: SystemTime) -> Result<(), Error> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            sqlx::query("DELETE FROM signing_keys WHERE state = 'retiring' AND retire_after < $1")
                .bind(now())
                .execute(&mut *tx)
                .await?;
            sqlx::query("UPDATE signing_keys SET state = 'retiring', retire_after = $1 WHERE state = 'active'")
                .bind(to_millis(retire_after))
                .execute(&mut *tx)
                .await?;
            self.insert_key(&mut tx, new).await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    /// Removes a signing key, or all of them, so that its tokens are refused at once; `replacement` becomes the active
    /// key if no other is active. Returns the ids of the removed keys.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn revoke_signing_keys(&self, kid: Option<&str>, replacement: &NewKey) -> Result<Vec<String>, Error> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            let kids: Vec<String> =
                sqlx::query_scalar("DELETE FROM signing_keys WHERE $1 = '' OR kid = $1 RETURNING kid")
                    .bind(kid.unwrap_or_default().to_owned())
                    .fetch_all(&mut *tx)
                    .await?;
            sqlx::query("DELETE FROM revoked_keys WHERE revoked < $1")
                .bind(now() - REVOKED_RETENTION_MILLIS)
                .execute(&mut *tx)
                .await?;
            for kid in &kids {
                sqlx::query("INSERT INTO revoked_keys (kid, revoked) VALUES ($1, $2)")
                    .bind(kid.clone())
                    .bind(now())
                    .execute(&mut *tx)
                    .await?;
            }
            let active: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM signing_keys WHERE state = 'active'")
                .fetch_one(&mut *tx)
                .await?;
            if active == 0 {
                self.insert_key_as_of(&mut tx, replacement, 0).await?;
            }
            tx.commit().await?;
            Ok(kids)
        })
        .await
    }

    /// All signing keys that have not expired, newest first.
    ///
    /// # Errors
    /// When the database fails, or [`Error::Sealed`].
    pub async fn signing_keys(&self) -> Result<Vec<KeyRow>, Error> {
        self.timed(StoreOperation::Read, async {
            let rows: Vec<Raw> = sqlx::query_as(
                "SELECT kid, algorithm, private, public, state, created, retire_after FROM signing_keys \
                 WHERE state = 'active' OR retire_after >= $1 ORDER BY created DESC",
            )
            .bind(now())
            .fetch_all(&self.pool)
            .await?;
            rows.into_iter().map(|raw| self.key_row(raw)).collect()
        })
        .await
    }

    async fn insert_key(&self, tx: &mut sqlx::Transaction<'static, sqlx::Any>, new: &NewKey) -> Result<(), Error> {
        self.insert_key_as_of(tx, new, now()).await
    }

    /// A key that was created some seconds ago is used at once; a newer one waits until every gateway has it.
    async fn insert_key_as_of(
        &self,
        tx: &mut sqlx::Transaction<'static, sqlx::Any>,
        new: &NewKey,
        created: i64,
    ) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO signing_keys (kid, algorithm, private, public, state, created, retire_after) \
             VALUES ($1, $2, $3, $4, 'active', $5, NULL)",
        )
        .bind(new.kid.clone())
        .bind(new.algorithm.clone())
        .bind(self.key.seal(&new.kid, &new.private)?)
        .bind(STANDARD.encode(&new.public))
        .bind(created)
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

    fn key_row(&self, (kid, algorithm, private, public, state, created, retire_after): Raw) -> Result<KeyRow, Error> {
        Ok(KeyRow {
            private: self.key.open(&kid, &private)?,
            public: STANDARD.decode(public).map_err(|_| Error::Corrupt { what: "public key" })?,
            state: match state.as_str() {
                "active" => KeyState::Active,
                "retiring" => KeyState::Retiring,
                _ => return Err(Error::Corrupt { what: "signing key state" }),
            },
            kid,
            algorithm,
            created: from_millis(created),
            retire_after: retire_after.map(from_millis),
        })
    }
}
