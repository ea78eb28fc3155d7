//! Tenants in the database. Two racing creations create one tenant, and both learn which.

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
    /// Its clients are refused, its messages kept.
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

/// A tenant to make.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// Its id.
    pub id: TenantId,
    /// For people.
    pub display_name: String,
    /// Its plan.
    pub plan: PlanName,
}

/// A tenant as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRow {
    /// Its id.
    pub id: TenantId,
    /// For people.
    pub display_name: String,
    /// Its plan.
    pub plan: PlanName,
    /// Whether its clients are admitted.
    pub state: TenantState,
    /// When it was made.
    pub created: SystemTime,
    /// When it was last changed.
    pub updated: SystemTime,
    /// When its broker certificate was last rotated on request, in unix milliseconds, never decreasing; 0: never.
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
    /// Creates an active tenant unless there is one of that id. Returns it, and whether this call created it.
    ///
    /// # Errors
    /// [`Error::UnknownPlan`], or when the database cannot be asked.
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
            let stands = one(&mut tx, &new.id).await?.ok_or(Error::Corrupt { what: "tenant" })?;
            if made {
                tx.commit().await?;
            } else {
                tx.rollback().await?;
            }
            Ok((stands, made))
        })
        .await
    }

    /// One tenant.
    ///
    /// # Errors
    /// When the database cannot be asked.
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

    /// The tenants after an id, by id.
    ///
    /// # Errors
    /// When the database cannot be asked.
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

    /// Makes the changes that are given; returns the tenant afterwards, or none when there is no such tenant.
    ///
    /// # Errors
    /// [`Error::UnknownPlan`], or when the database cannot be asked.
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
            let stands = one(&mut tx, id).await?;
            tx.commit().await?;
            Ok(stands)
        })
        .await
    }

    /// Suspends or resumes a tenant; returns it afterwards, or none when there is no such tenant.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn set_tenant_state(&self, id: &TenantId, state: TenantState) -> Result<Option<TenantRow>, Error> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            sqlx::query("UPDATE tenants SET state = $2, updated = $3 WHERE id = $1 AND state <> $2")
                .bind(id.as_str().to_owned())
                .bind(state.as_str())
                .bind(now())
                .execute(&mut *tx)
                .await?;
            let stands = one(&mut tx, id).await?;
            tx.commit().await?;
            Ok(stands)
        })
        .await
    }

    /// Writes down that a tenant's certificate at the broker is to be made anew, by every gateway; the moment by which they tell
    /// this time from the one before, or none when there is no such tenant.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn rotate_tenant_credentials(&self, id: &TenantId) -> Result<Option<i64>, Error> {
        self.timed(StoreOperation::Change, async {
            let mut tx = self.begin_change().await?;
            // Clocks of gateways differ: each time is after the one before.
            sqlx::query(
                "UPDATE tenants SET credentials_rotated = CASE WHEN credentials_rotated < $2 THEN $2 \
                 ELSE credentials_rotated + 1 END WHERE id = $1",
            )
            .bind(id.as_str().to_owned())
            .bind(now())
            .execute(&mut *tx)
            .await?;
            let stands = one(&mut tx, id).await?;
            tx.commit().await?;
            Ok(stands.map(|row| row.credentials_rotated))
        })
        .await
    }

    /// Deletes a tenant and its clients. Returns whether there was one.
    ///
    /// # Errors
    /// When the database cannot be asked.
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
