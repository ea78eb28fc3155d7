//! Clients in the database. Every query is restricted to a tenant first (the client id contains it), so that no query
//! can reach another tenant. Secrets are stored as hashes, and no `Debug` output contains them.

use std::time::SystemTime;

use sqlx::{Any, Transaction};

use super::{Error, Store, from_millis, now, to_millis};
use crate::{
    names::{ClientId, TenantId},
    telemetry::StoreOperation,
};

/// A client to create.
#[derive(Clone)]
pub struct NewClient {
    /// Its id, which contains its tenant.
    pub id: ClientId,
    /// The display name.
    pub display_name: String,
    /// The secret's argon2id hash, in PHC form.
    pub secret_hash: String,
    /// Its grants, as JSON.
    pub grants: String,
    /// Its identity at an external issuer; `None` if it uses tokens of the gateway.
    pub external: Option<ExternalIdentity>,
}

/// A client's identity at an external issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalIdentity {
    /// The issuer's name.
    pub issuer: String,
    /// The id in its tokens; empty if it is the client's name.
    pub id: String,
}

/// A client with an external id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalClient {
    /// The issuer's name.
    pub issuer: String,
    /// The id in its tokens.
    pub external_id: String,
    /// The client.
    pub client: ClientId,
}

/// Changes of a client; `None` leaves a value unchanged.
#[derive(Debug, Clone, Default)]
pub struct ClientChanges<'a> {
    /// The display name.
    pub display_name: Option<&'a str>,
    /// The grants, as JSON.
    pub grants: Option<&'a str>,
    /// The external identity; `Some(None)` for tokens of the gateway.
    pub external: Option<Option<&'a ExternalIdentity>>,
}

/// A stored client.
#[derive(Clone)]
pub struct ClientRow {
    /// Its id, which contains its tenant.
    pub id: ClientId,
    /// The display name.
    pub display_name: String,
    /// The secret's argon2id hash, in PHC form.
    pub secret_hash: String,
    /// The tag of that secret; empty if the secret was never returned.
    pub secret_tag: String,
    /// The hash of the previous secret, and until when it is valid.
    pub previous: Option<(String, SystemTime)>,
    /// Its grants, as JSON.
    pub grants: String,
    /// Its identity at an external issuer; `None` if it uses tokens of the gateway.
    pub external: Option<ExternalIdentity>,
    /// Whether its secret and its tokens are permanently refused.
    pub revoked: bool,
    /// Tokens issued before this moment are refused.
    pub not_before: SystemTime,
    /// When it was created.
    pub created: SystemTime,
}

impl ClientRow {
    /// The hash to check a secret with this tag against: the previous secret's while it is valid, otherwise the
    /// current one's.
    pub fn hash_for(&self, tag: &str) -> &str {
        match &self.previous {
            Some((hash, until)) if tag != self.secret_tag && SystemTime::now() < *until => hash,
            _ => &self.secret_hash,
        }
    }
}

impl std::fmt::Debug for NewClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewClient").field("id", &self.id).field("grants", &self.grants).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ClientRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientRow")
            .field("id", &self.id)
            .field("grants", &self.grants)
            .field("revoked", &self.revoked)
            .finish_non_exhaustive()
    }
}

/// The data of a client that admission needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientGate {
    /// Its id.
    pub id: ClientId,
    /// Whether it was permanently revoked.
    pub revoked: bool,
    /// Tokens issued before this moment are refused.
    pub not_before: SystemTime,
    /// Its grants, as JSON.
    pub grants: String,
    /// The external issuer of its tokens; empty for the gateway.
    pub issuer: String,
}

type Raw = (String, String, String, String, i64, i64, i64, String, String, i64, String, String);

fn parse_id(id: &str) -> Result<ClientId, Error> {
    ClientId::parse(id).map_err(|_| Error::Corrupt { what: "client id" })
}

fn row(raw: Raw) -> Result<ClientRow, Error> {
    let (
        id,
        display_name,
        secret_hash,
        grants,
        revoked,
        not_before,
        created,
        secret_tag,
        previous,
        until,
        issuer,
        external_id,
    ) = raw;
    Ok(ClientRow {
        external: (!issuer.is_empty()).then_some(ExternalIdentity { issuer, id: external_id }),
        secret_tag,
        previous: (!previous.is_empty()).then(|| (previous, from_millis(until))),
        id: parse_id(&id)?,
        display_name,
        secret_hash,
        grants,
        revoked: revoked != 0,
        not_before: from_millis(not_before),
        created: from_millis(created),
    })
}

/// The tenant's value in the index: empty for platform administrators.
fn scope(tenant: Option<&TenantId>) -> String {
    tenant.map_or("", TenantId::as_str).to_owned()
}

const SELECT_ONE: &str = "SELECT id, display_name, secret_hash, grants, revoked, not_before, created, secret_tag, \
                          previous_secret_hash, previous_until, issuer, external_id FROM clients \
                          WHERE COALESCE(tenant, '') = $1 AND id = $2";

pub(super) async fn one(tx: &mut Transaction<'static, Any>, id: &ClientId) -> Result<Option<ClientRow>, Error> {
    let raw = sqlx::query_as(SELECT_ONE)
        .bind(scope(id.tenant()))
        .bind(id.as_str().to_owned())
        .fetch_optional(&mut **tx)
        .await?;
    raw.map(row).transpose()
}

pub(super) async fn gates(tx: &mut Transaction<'static, Any>) -> Result<Vec<ClientGate>, Error> {
    let rows: Vec<(String, i64, i64, String, String)> =
        sqlx::query_as("SELECT id, revoked, not_before, grants, issuer FROM clients").fetch_all(&mut **tx).await?;
    rows.into_iter()
        .map(|(id, revoked, not_before, grants, issuer)| {
            let (id, not_before) = (parse_id(&id)?, from_millis(not_before));
            Ok(ClientGate { id, revoked: revoked != 0, not_before, grants, issuer })
        })
        .collect()
}

/// The number of clients. Revoked ones count, so that repeatedly creating and revoking clients is bounded as well.
async fn count<'c>(executor: impl sqlx::Executor<'c, Database = Any>, tenant: Option<&TenantId>) -> Result<u32, Error> {
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM clients WHERE COALESCE(tenant, '') = $1")
        .bind(scope(tenant))
        .fetch_one(executor)
        .await?;
    u32::try_from(count).map_err(|_| Error::Corrupt { what: "number of clients" })
}

impl Store {
    /// The number of clients of a tenant, including revoked ones.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn client_count(&self, tenant: &TenantId) -> Result<u32, Error> {
        self.timed(StoreOperation::Read, async { count(&self.pool, Some(tenant)).await }).await
    }

    /// Creates a client regardless of the tenant's plan; returns it, or `None` if the id exists.
    ///
    /// # Errors
    /// [`Error::UnknownTenant`], or when the database fails.
    pub async fn create_client(&self, new: &NewClient) -> Result<Option<ClientRow>, Error> {
        self.create_client_within(new, 0).await
    }

    /// Creates a client unless its tenant has `max` clients, including revoked ones (0: unlimited); returns it, or
    /// `None` if the id exists.
    ///
    /// # Errors
    /// [`Error::TooManyClients`], [`Error::UnknownTenant`], [`Error::ExternalIdTaken`], or when the database fails.
    pub async fn create_client_within(&self, new: &NewClient, max: u32) -> Result<Option<ClientRow>, Error> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            // Changes are serialised, so no other client can be created between this count and the insertion.
            if max > 0 && one(&mut tx, &new.id).await?.is_none() && count(&mut *tx, new.id.tenant()).await? >= max {
                return Err(Error::TooManyClients { max });
            }
            // Tokens of a deleted client must not be valid for a new client with the same id: not_before is now, not
            // 0.
            let made = sqlx::query(
                "INSERT INTO clients (id, tenant, display_name, secret_hash, grants, revoked, not_before, created, issuer, \
                 external_id) VALUES ($1, $2, $3, $4, $5, 0, $6, $6, $7, $8) ON CONFLICT (id) DO NOTHING",
            )
            .bind(new.id.as_str().to_owned())
            .bind(new.id.tenant().map(|tenant| tenant.as_str().to_owned()))
            .bind(new.display_name.clone())
            .bind(new.secret_hash.clone())
            .bind(new.grants.clone())
            .bind(now())
            .bind(new.external.as_ref().map_or("", |external| &external.issuer).to_owned())
            .bind(new.external.as_ref().map_or("", |external| &external.id).to_owned())
            .execute(&mut *tx)
            .await
            .map_err(|error| Error::or_duplicate(error, Error::ExternalIdTaken, Error::UnknownTenant))?
            .rows_affected()
                == 1;
            if !made {
                tx.rollback().await?;
                return Ok(None);
            }
            let row = one(&mut tx, &new.id).await?;
            tx.commit().await?;
            Ok(row)
        })
        .await
    }

    /// One client.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn client(&self, id: &ClientId) -> Result<Option<ClientRow>, Error> {
        self.timed(StoreOperation::Client, async {
            let raw = sqlx::query_as(SELECT_ONE)
                .bind(scope(id.tenant()))
                .bind(id.as_str().to_owned())
                .fetch_optional(&self.pool)
                .await?;
            raw.map(row).transpose()
        })
        .await
    }

    /// The clients of a tenant, or the platform administrators, after an id, in order of their ids.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn clients(
        &self,
        tenant: Option<&TenantId>,
        after: Option<&ClientId>,
        limit: u32,
    ) -> Result<Vec<ClientRow>, Error> {
        self.timed(StoreOperation::Read, async {
            let rows = sqlx::query_as(
                "SELECT id, display_name, secret_hash, grants, revoked, not_before, created, secret_tag, \
                 previous_secret_hash, previous_until, issuer, external_id FROM clients \
                 WHERE COALESCE(tenant, '') = $1 AND id > $2 ORDER BY id LIMIT $3",
            )
            .bind(scope(tenant))
            .bind(after.map_or("", ClientId::as_str).to_owned())
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
            rows.into_iter().map(row).collect()
        })
        .await
    }

    /// The clients with external ids.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn external_clients(&self) -> Result<Vec<ExternalClient>, Error> {
        self.timed(StoreOperation::Read, async {
            let rows: Vec<(String, String, String)> = sqlx::query_as(
                "SELECT id, issuer, external_id FROM clients WHERE external_id <> '' AND revoked = 0 ORDER BY id",
            )
            .fetch_all(&self.pool)
            .await?;
            let client = |(id, issuer, external_id): (String, String, String)| {
                Ok(ExternalClient { issuer, external_id, client: parse_id(&id)? })
            };
            rows.into_iter().map(client).collect()
        })
        .await
    }

    /// Applies the given changes; returns the changed client, or `None` if it does not exist.
    ///
    /// # Errors
    /// [`Error::ExternalIdTaken`], or when the database fails.
    pub async fn update_client(&self, id: &ClientId, changes: &ClientChanges<'_>) -> Result<Option<ClientRow>, Error> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            let external = changes.external.map(|external| match external {
                Some(external) => (external.issuer.clone(), external.id.clone()),
                None => (String::new(), String::new()),
            });
            let (issuer, external_id) = external.unzip();
            sqlx::query(
                "UPDATE clients SET display_name = COALESCE($3, display_name), grants = COALESCE($4, grants), \
                 issuer = COALESCE($5, issuer), external_id = COALESCE($6, external_id) \
                 WHERE COALESCE(tenant, '') = $1 AND id = $2",
            )
            .bind(scope(id.tenant()))
            .bind(id.as_str().to_owned())
            .bind(changes.display_name.map(str::to_owned))
            .bind(changes.grants.map(str::to_owned))
            .bind(issuer)
            .bind(external_id)
            .execute(&mut *tx)
            .await
            .map_err(|error| Error::or_duplicate(error, Error::ExternalIdTaken, Error::UnknownTenant))?;
            let row = one(&mut tx, id).await?;
            tx.commit().await?;
            Ok(row)
        })
        .await
    }

    /// Permanently revokes a client's secret and tokens; returns the client, or `None` if it does not exist.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn revoke_client(&self, id: &ClientId) -> Result<Option<ClientRow>, Error> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            sqlx::query(
                "UPDATE clients SET revoked = 1, not_before = $3 WHERE COALESCE(tenant, '') = $1 AND id = $2 AND revoked = 0",
            )
            .bind(scope(id.tenant()))
            .bind(id.as_str().to_owned())
            .bind(now())
            .execute(&mut *tx)
            .await?;
            let row = one(&mut tx, id).await?;
            tx.commit().await?;
            Ok(row)
        })
        .await
    }

    /// Deletes a client; returns whether it existed. A new client of the same id does not accept tokens from before
    /// its creation.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_client(&self, id: &ClientId) -> Result<bool, Error> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            let deleted = sqlx::query("DELETE FROM clients WHERE COALESCE(tenant, '') = $1 AND id = $2")
                .bind(scope(id.tenant()))
                .bind(id.as_str().to_owned())
                .execute(&mut *tx)
                .await?
                .rows_affected();
            // A new client of the same id must not read responses to the deleted one.
            sqlx::query("DELETE FROM requests WHERE client = $1")
                .bind(id.as_str().to_owned())
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(deleted > 0)
        })
        .await
    }

    /// Adds a new secret; the current one remains valid until the given time, an earlier one becomes invalid, and
    /// tokens remain valid. Returns the client, or `None` if it does not exist.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn add_client_secret(
        &self,
        id: &ClientId,
        secret_hash: &str,
        tag: &str,
        previous_until: SystemTime,
    ) -> Result<Option<ClientRow>, Error> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            sqlx::query(
                "UPDATE clients SET previous_secret_hash = secret_hash, previous_until = $5, \
                 secret_hash = $3, secret_tag = $4 \
                 WHERE COALESCE(tenant, '') = $1 AND id = $2",
            )
            .bind(scope(id.tenant()))
            .bind(id.as_str().to_owned())
            .bind(secret_hash.to_owned())
            .bind(tag.to_owned())
            .bind(to_millis(previous_until))
            .execute(&mut *tx)
            .await?;
            let row = one(&mut tx, id).await?;
            tx.commit().await?;
            Ok(row)
        })
        .await
    }

    /// Replaces a client's secret and invalidates the tokens issued before. A revoked client remains revoked. Returns
    /// the client, or `None` if it does not exist.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_client_secret(&self, id: &ClientId, secret_hash: &str) -> Result<Option<ClientRow>, Error> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            sqlx::query(
                "UPDATE clients SET secret_hash = $3, secret_tag = '', previous_secret_hash = '', not_before = $4 \
                 WHERE COALESCE(tenant, '') = $1 AND id = $2",
            )
            .bind(scope(id.tenant()))
            .bind(id.as_str().to_owned())
            .bind(secret_hash.to_owned())
            .bind(now())
            .execute(&mut *tx)
            .await?;
            let row = one(&mut tx, id).await?;
            tx.commit().await?;
            Ok(row)
        })
        .await
    }
}
