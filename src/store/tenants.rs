//! Tenants in the database. Of two concurrent creations, only one creates the tenant, and both callers learn which.

use std::time::SystemTime;

use sqlx::{Any, Transaction};

use super::{Error, Store, from_millis, now};
use crate::{
    names::{PlanName, TenantId},
    telemetry::StoreOperation,
};

/// Whether a tenant's clients are admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TenantState {
    /// Its clients are admitted.
    Active,
    /// Its clients are refused, its messages are kept.
    Suspended,
}

impl TenantState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }
}

/// A tenant to create.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// Its id.
    pub id: TenantId,
    /// The display name.
    pub display_name: String,
    /// Its plan.
    pub plan: PlanName,
}

/// A stored tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRow {
    /// Its id.
    pub id: TenantId,
    /// The display name.
    pub display_name: String,
    /// Its plan.
    pub plan: PlanName,
    /// Whether its clients are admitted.
    pub state: TenantState,
    /// When it was created.
    pub created: SystemTime,
    /// When it was last changed.
    pub updated: SystemTime,
    /// When its broker certificate was last rotated on request, in unix milliseconds, never decreasing; 0 for never.
    pub credentials_rotated: i64,
}

type Raw = (String, String, String, String, i64, i64, i64);

fn row((id, display_name, plan, state, created, updated, credentials_rotated): Raw) -> Result<TenantRow, Error> {
    Ok(TenantRow {
        id: TenantId::parse(&id).map_err(|_| Error::Corrupt { what: "tenant id" })?,
        display_name,
        plan: PlanName::parse(&plan).map_err(|_| Error::Corrupt { what: "plan name" })?,
        state: match state.as_str() {
            "active" => TenantState::Active,
            "suspended" => TenantState::Suspended,
            _ => return Err(Error::Corrupt { what: "tenant state" }),
        },
        created: from_millis(created),
        updated: from_millis(updated),
        credentials_rotated,
    })
}

async fn one(tx: &mut Transaction<'static, Any>, id: &TenantId) -> Result<Option<TenantRow>, Error> {
    let raw = sqlx::query_as(
        "SELECT id, display_name, plan, state, created, updated, credentials_rotated FROM tenants WHERE id = $1",
    )
    .bind(id.as_str().to_owned())
    .fetch_optional(&mut **tx)
    .await?;
    raw.map(row).transpose()
}

pub(super) async fn all(tx: &mut Transaction<'static, Any>) -> Result<Vec<TenantRow>, Error> {
    let rows = sqlx::query_as(
        "SELECT id, display_name, plan, state, created, updated, credentials_rotated FROM tenants ORDER BY id",
    )
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter().map(row).collect()
}

impl Store {
    /// Creates an active tenant unless its id exists. Returns the tenant, and whether this call created it.
    ///
    /// # Errors
    /// [`Error::UnknownPlan`], or when the database fails.
    pub async fn create_tenant(&self, new: &NewTenant) -> Result<(TenantRow, bool), Error> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            let made = sqlx::query(
                "INSERT INTO tenants (id, display_name, plan, state, created, updated) \
                 VALUES ($1, $2, $3, 'active', $4, $4) ON CONFLICT (id) DO NOTHING",
            )
            .bind(new.id.as_str().to_owned())
            .bind(new.display_name.clone())
            .bind(new.plan.as_str().to_owned())
            .bind(now())
            .execute(&mut *tx)
            .await
            .map_err(|error| Error::or_dangling(error, Error::UnknownPlan))?
            .rows_affected()
                == 1;
            let row = one(&mut tx, &new.id).await?.ok_or(Error::Corrupt { what: "tenant" })?;
            if made {
                tx.commit().await?;
            } else {
                tx.rollback().await?;
            }
            Ok((row, made))
        })
        .await
    }

    /// One tenant.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tenant(&self, id: &TenantId) -> Result<Option<TenantRow>, Error> {
        self.timed(StoreOperation::Read, async {
            let raw =
                sqlx::query_as("SELECT id, display_name, plan, state, created, updated, credentials_rotated FROM tenants WHERE id = $1")
                    .bind(id.as_str().to_owned())
                    .fetch_optional(&self.pool)
                    .await?;
            raw.map(row).transpose()
        })
        .await
    }

    /// The tenants after an id, in order of their ids.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tenants(&self, after: Option<&TenantId>, limit: u32) -> Result<Vec<TenantRow>, Error> {
        self.timed(StoreOperation::Read, async {
            let rows = sqlx::query_as(
                "SELECT id, display_name, plan, state, created, updated, credentials_rotated FROM tenants WHERE id > $1 ORDER BY id LIMIT $2",
            )
            .bind(after.map_or("", TenantId::as_str).to_owned())
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
            rows.into_iter().map(row).collect()
        })
        .await
    }

    /// Applies the given changes; returns the changed tenant, or `None` if it does not exist.
    ///
    /// # Errors
    /// [`Error::UnknownPlan`], or when the database fails.
    pub async fn update_tenant(
        &self,
        id: &TenantId,
        display_name: Option<&str>,
        plan: Option<&PlanName>,
    ) -> Result<Option<TenantRow>, Error> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            sqlx::query(
                "UPDATE tenants SET display_name = COALESCE($2, display_name), plan = COALESCE($3, plan), updated = $4 \
                 WHERE id = $1",
            )
            .bind(id.as_str().to_owned())
            .bind(display_name.map(str::to_owned))
            .bind(plan.map(|plan| plan.as_str().to_owned()))
            .bind(now())
            .execute(&mut *tx)
            .await
            .map_err(|error| Error::or_dangling(error, Error::UnknownPlan))?;
            let row = one(&mut tx, id).await?;
            tx.commit().await?;
            Ok(row)
        })
        .await
    }

    /// Suspends or resumes a tenant; returns the changed tenant, or `None` if it does not exist.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_tenant_state(&self, id: &TenantId, state: TenantState) -> Result<Option<TenantRow>, Error> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            sqlx::query("UPDATE tenants SET state = $2, updated = $3 WHERE id = $1 AND state <> $2")
                .bind(id.as_str().to_owned())
                .bind(state.as_str())
                .bind(now())
                .execute(&mut *tx)
                .await?;
            let row = one(&mut tx, id).await?;
            tx.commit().await?;
            Ok(row)
        })
        .await
    }

    /// Requests that every gateway issues a new broker certificate for the tenant. Returns the time that identifies
    /// this request, or `None` if the tenant does not exist.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rotate_tenant_credentials(&self, id: &TenantId) -> Result<Option<i64>, Error> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            // The clocks of gateways differ: each time must be later than the previous one.
            sqlx::query(
                "UPDATE tenants SET credentials_rotated = CASE WHEN credentials_rotated < $2 THEN $2 \
                 ELSE credentials_rotated + 1 END WHERE id = $1",
            )
            .bind(id.as_str().to_owned())
            .bind(now())
            .execute(&mut *tx)
            .await?;
            let row = one(&mut tx, id).await?;
            tx.commit().await?;
            Ok(row.map(|row| row.credentials_rotated))
        })
        .await
    }

    /// Deletes a tenant and its clients. Returns whether it existed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_tenant(&self, id: &TenantId) -> Result<bool, Error> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            let deleted =
                sqlx::query("DELETE FROM tenants WHERE id = $1").bind(id.as_str().to_owned()).execute(&mut *tx).await?;
            tx.commit().await?;
            Ok(deleted.rows_affected() == 1)
        })
        .await
    }
}
