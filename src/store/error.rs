//! Errors of the store. The database's own messages are kept as the source, for logs; clients get fixed sentences.

use std::borrow::Cow;

use crate::error::{Classify, Kind};

/// Why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be reached or has no free connection.
    #[error("the database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// The operation conflicted with a concurrent transaction.
    #[error("conflict with a concurrent transaction")]
    Contended(#[source] sqlx::Error),
    /// The database cannot grow.
    #[error("the disk of the database is full")]
    Full(#[source] sqlx::Error),
    /// The database reported an error for a statement.
    #[error("the database reported an error")]
    Statement(#[source] sqlx::Error),
    /// The schema cannot be upgraded.
    #[error("the database's schema cannot be upgraded")]
    Migration(#[source] Box<sqlx::migrate::MigrateError>),
    /// The store's URL is not supported.
    #[error("{0}")]
    Location(&'static str),
    /// The database file cannot be created.
    #[error("the database file cannot be created")]
    File(#[source] std::io::Error),
    /// The encryption key is not 32 bytes in base64.
    #[error("the store's encryption key must be 32 bytes in base64")]
    EncryptionKey,
    /// A private key cannot be decrypted with this encryption key.
    #[error("signing key {kid} cannot be decrypted: the encryption key is a different one, or the row was changed")]
    Sealed {
        /// The signing key's id.
        kid: String,
    },
    /// A row has a value that this program does not write.
    #[error("the database contains an invalid {what}")]
    Corrupt {
        /// The invalid value.
        what: &'static str,
    },
    /// The plan does not exist.
    #[error("this plan does not exist")]
    UnknownPlan,
    /// The plan is in use.
    #[error("the plan is in use")]
    PlanInUse,
    /// The tenant's plan allows no more clients.
    #[error("the tenant has {max} clients, the maximum of its plan")]
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
    /// The tenant does not exist.
    #[error("this tenant does not exist")]
    UnknownTenant,
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => Self::Unavailable(error),
            // The error text may contain the URL, and the URL a password.
            E::Configuration(_) => Self::Location("the store's URL is malformed"),
            E::Database(database) => match database.code().as_deref() {
                // PostgreSQL: serialization failure, deadlock. SQLite: busy, locked, busy snapshot.
                Some("40001" | "40P01" | "5" | "6" | "517") => Self::Contended(error),
                // PostgreSQL: disk full. SQLite: full, and failed writes of a page and of the shared memory file.
                Some("53100" | "13" | "778" | "4874") => Self::Full(error),
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
    /// Maps a foreign key violation to `meaning`, and other errors as usual.
    pub(super) fn or_dangling(error: sqlx::Error, meaning: Self) -> Self {
        match error.as_database_error() {
            Some(database) if database.is_foreign_key_violation() => meaning,
            _ => error.into(),
        }
    }

    /// Like [`Self::or_dangling`], and maps a unique key violation to `duplicate`.
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
            Self::Unavailable(_) | Self::Full(_) => Kind::Unavailable,
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
            Self::Full(_) => "STORE_FULL",
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
                    "the tenant already has {max} clients, the maximum of its plan (revoked ones count); delete one, or ask for a larger plan"
                )
                .into();
            }
            Self::PlanInUse => "the plan is in use; assign another plan to its tenants first (tenant update --plan)",
            Self::Unavailable(_) => "the gateway's database is not available; try again in a moment",
            Self::Full(_) => "the disk of the gateway's database is full, so the change was not stored",
            Self::Contended(_) => "another change happened at the same time; try again",
            Self::AuthorityChanged => "your grants were changed at the same time; try again",
            Self::UnknownPlan => "this plan does not exist; ListPlans shows all plans",
            Self::UnknownTenant => "this tenant does not exist",
            Self::ExternalIdTaken => "another client of the tenant already has this external id of the same issuer",
            _ => "the gateway's database failed; see the gateway's log",
        }
        .into()
    }

    fn field(&self) -> Option<Cow<'static, str>> {
        matches!(self, Self::UnknownPlan).then_some("tenant.plan".into())
    }
}
