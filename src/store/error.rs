//! Errors of the store. The database's own messages stay in the source, for logs; clients get fixed sentences.

use std::borrow::Cow;

use crate::error::{Classify, Kind};

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be reached, or has no connection to spare.
    #[error("the database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// Another transaction was in the way.
    #[error("another change was in the way")]
    Contended(#[source] sqlx::Error),
    /// The database refused a statement.
    #[error("the database refused a statement")]
    Statement(#[source] sqlx::Error),
    /// The schema cannot be brought up to date.
    #[error("the database's schema cannot be brought up to date")]
    Migration(#[source] Box<sqlx::migrate::MigrateError>),
    /// The location is not one that the store knows.
    #[error("{0}")]
    Location(&'static str),
    /// The database's file cannot be made.
    #[error("the database file cannot be created")]
    File(#[source] std::io::Error),
    /// The encryption key is not 32 bytes in base64.
    #[error("the store's encryption key must be 32 bytes in base64")]
    EncryptionKey,
    /// A private key cannot be opened with this encryption key.
    #[error("signing key {kid} cannot be opened: the encryption key is another one, or the row was changed")]
    Sealed {
        /// The signing key's id.
        kid: String,
    },
    /// A row holds something that this program never wrote.
    #[error("the database holds an invalid {what}")]
    Corrupt {
        /// What is invalid: a column.
        what: &'static str,
    },
    /// No plan has that name.
    #[error("there is no plan of that name")]
    UnknownPlan,
    /// A tenant has the plan.
    #[error("a tenant has this plan")]
    PlanInUse,
    /// The tenant's plan allows no more clients.
    #[error("the tenant has {max} clients, as many as its plan allows")]
    TooManyClients {
        /// The plan's limit.
        max: u32,
    },
    /// The administrator on whose behalf a change was made has lost its right, or its grants have changed.
    #[error("the administrator's grants have changed")]
    AuthorityChanged,
    /// Another client of the tenant has this external id.
    #[error("another client has this external id")]
    ExternalIdTaken,
    /// No tenant has that id.
    #[error("there is no such tenant")]
    UnknownTenant,
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => Self::Unavailable(error),
            // Its text may hold the url, and that a password.
            E::Configuration(_) => Self::Location("the store's url cannot be used as it is written"),
            E::Database(database) => match database.code().as_deref() {
                // PostgreSQL: serialization failure, deadlock. SQLite: busy, locked, busy snapshot.
                Some("40001" | "40P01" | "5" | "6" | "517") => Self::Contended(error),
                // PostgreSQL: connection failures, too many connections, shutting down.
                Some(code) if code.starts_with("08") || code == "53300" || code.starts_with("57P") => {
                    Self::Unavailable(error)
                }
                _ => Self::Statement(error),
            },
            _ => Self::Statement(error),
        }
    }
}

impl Error {
    /// This error, unless a foreign key points to nothing: then what that means here.
    pub(super) fn or_dangling(error: sqlx::Error, meaning: Self) -> Self {
        match error.as_database_error() {
            Some(database) if database.is_foreign_key_violation() => meaning,
            _ => error.into(),
        }
    }

    /// As [`Self::or_dangling`], and what it means here when a unique index is violated.
    pub(super) fn or_duplicate(error: sqlx::Error, duplicate: Self, dangling: Self) -> Self {
        match error.as_database_error() {
            Some(database) if database.is_unique_violation() => duplicate,
            _ => Self::or_dangling(error, dangling),
        }
    }
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Unavailable(_) => Kind::Unavailable,
            Self::Contended(_) | Self::AuthorityChanged => Kind::Aborted,
            Self::UnknownPlan => Kind::Invalid,
            Self::PlanInUse => Kind::Precondition,
            Self::ExternalIdTaken => Kind::AlreadyExists,
            Self::TooManyClients { .. } => Kind::Exhausted,
            Self::UnknownTenant => Kind::NotFound,
            _ => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "STORE_UNAVAILABLE",
            Self::Contended(_) => "STORE_CONTENDED",
            Self::AuthorityChanged => "CHANGED_MEANWHILE",
            Self::UnknownPlan => "PLAN_NOT_FOUND",
            Self::PlanInUse => "PLAN_IN_USE",
            Self::TooManyClients { .. } => "TOO_MANY_CLIENTS",
            Self::UnknownTenant => "TENANT_NOT_FOUND",
            Self::ExternalIdTaken => "EXTERNAL_ID_TAKEN",
            _ => "STORE_FAILED",
        }
    }

    fn message(&self) -> Cow<'static, str> {
        match self {
            Self::TooManyClients { max } => {
                return format!(
                    "the tenant has {max} clients, as many as its plan allows (revoked ones count); delete one, or ask for a larger plan"
                )
                .into();
            }
            Self::PlanInUse => "tenants have this plan; give them another one first (tenant update --plan)",
            Self::Unavailable(_) => "the gateway's database is not available; try again in a moment",
            Self::Contended(_) => "another change happened at the same time; try again",
            Self::AuthorityChanged => "your grants were changed at the same time; try again",
            Self::UnknownPlan => "there is no plan of that name; ListPlans shows them",
            Self::UnknownTenant => "there is no such tenant",
            Self::ExternalIdTaken => "another client of the tenant has this external id of the same issuer",
            _ => "the gateway's database did not do what it was asked; its log says more",
        }
        .into()
    }

    fn field(&self) -> Option<Cow<'static, str>> {
        matches!(self, Self::UnknownPlan).then_some("tenant.plan".into())
    }
}
