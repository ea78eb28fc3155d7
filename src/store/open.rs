//! Opening the store and bringing its schema up to date.

use std::{path::Path, sync::Arc, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    AnyConnection, Executor as _, SqlSafeStr as _,
    any::AnyPoolOptions,
    migrate::{Migration, MigrationType, Migrator},
};

use super::{EncryptionKey, Error, Store};

/// Version, what it does, and its SQL. A migration is never changed once released, and only adds: gateways of the previous
/// version go on working with the schema of the next one.
const MIGRATIONS: &[(i64, &str, Sql)] = &[
    (1, "first", Sql::Common(include_str!("migrations/0001_first.sql"))),
    (2, "plans", Sql::Common(include_str!("migrations/0002_plans.sql"))),
    (3, "audit", Sql::Common(include_str!("migrations/0003_audit.sql"))),
    (
        4,
        "append only",
        Sql::Each {
            sqlite: include_str!("migrations/0004_append_only.sqlite.sql"),
            postgres: include_str!("migrations/0004_append_only.postgres.sql"),
        },
    ),
    (5, "secret overlap", Sql::Common(include_str!("migrations/0005_secret_overlap.sql"))),
    (6, "broker credentials", Sql::Common(include_str!("migrations/0006_broker_credentials.sql"))),
    (7, "identity", Sql::Common(include_str!("migrations/0007_identity.sql"))),
    (
        8,
        "aggregated",
        Sql::Each {
            sqlite: include_str!("migrations/0008_aggregated.sqlite.sql"),
            postgres: include_str!("migrations/0008_aggregated.postgres.sql"),
        },
    ),
];

#[derive(Clone, Copy)]
enum Sql {
    /// For both databases.
    Common(&'static str),
    /// Where they differ: triggers.
    Each { sqlite: &'static str, postgres: &'static str },
}

fn migrations(is_sqlite: bool, up_to: i64) -> Vec<Migration> {
    let wanted = MIGRATIONS.iter().filter(|(version, ..)| *version <= up_to);
    wanted
        .map(|(version, what, sql)| {
            let sql = match *sql {
                Sql::Common(sql) => sql,
                Sql::Each { sqlite, .. } if is_sqlite => sqlite,
                Sql::Each { postgres, .. } => postgres,
            };
            Migration::new(*version, (*what).into(), MigrationType::Simple, sql.into_sql_str(), false)
        })
        .collect()
}

/// How long a call may wait for a connection before the store counts as unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
const POSTGRES_CONNECTIONS: u32 = 8;

impl Store {
    /// Opens `sqlite:<path>` (made when missing, readable by its owner only), `sqlite::memory:` or
    /// `postgres://user:password@host/database`, and brings the schema up to date.
    ///
    /// # Errors
    /// When the location is none of these, or the database cannot be reached or brought up to date.
    pub async fn open(url: &SecretString, key: EncryptionKey) -> Result<Self, Error> {
        Self::open_at_version(url, key, i64::MAX).await
    }

    /// With the schema of an older version, for tests of upgrades.
    pub(super) async fn open_at_version(url: &SecretString, key: EncryptionKey, version: i64) -> Result<Self, Error> {
        // Fails when done before, which is what is wanted.
        sqlx::any::install_default_drivers();
        let url = url.expose_secret();
        let is_sqlite = url.starts_with("sqlite:");
        if !is_sqlite && !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(Error::Location("the store's url must begin with sqlite:, postgres:// or postgresql://"));
        }
        let pool = if is_sqlite {
            create_file(url)?;
            AnyPoolOptions::new()
                // SQLite has one writer at a time. One connection makes the others wait here, in order and without
                // polling, and keeps a database in memory alive.
                .max_connections(1)
                .idle_timeout(None)
                .max_lifetime(None)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .after_connect(|connection, _| Box::pin(sqlite_pragmas(connection)))
        } else {
            AnyPoolOptions::new().max_connections(POSTGRES_CONNECTIONS).acquire_timeout(ACQUIRE_TIMEOUT)
        };
        let pool = pool.connect(url).await?;
        let mut migrator = Migrator::with_migrations(migrations(is_sqlite, version));
        // Migrations only add, so that an older gateway works beside a newer one, and a newer one can be rolled back.
        migrator.set_ignore_missing(true);
        migrator.run(&pool).await.map_err(|error| Error::Migration(Box::new(error)))?;
        Ok(Self {
            pool,
            key: Arc::new(key),
            url: Arc::new(url.to_owned().into()),
            is_sqlite,
            metrics: None,
            authority: None,
        })
    }
}

async fn sqlite_pragmas(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    // Another process (a command beside the gateway) may hold the file for a moment. FULL: what was answered as done
    // survives a power failure.
    connection
        .execute(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000;",
        )
        .await?;
    Ok(())
}

/// Makes an absent database file, with rights for its owner only: it holds password hashes.
fn create_file(url: &str) -> Result<(), Error> {
    let location = url.trim_start_matches("sqlite:").trim_start_matches("//");
    let (path, parameters) = location.split_once('?').unwrap_or((location, ""));
    if path.is_empty() || path == ":memory:" || parameters.contains("mode=memory") || Path::new(path).exists() {
        return Ok(());
    }
    if path.contains('%') {
        return Err(Error::Location("the store's sqlite path must not have \"%\" in it"));
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(|_| ()).map_err(Error::File)
}

/// The version of the schema that [`Store::open`] makes.
#[cfg(test)]
pub(super) fn newest_version() -> i64 {
    MIGRATIONS.iter().map(|(version, ..)| *version).max().unwrap_or_default()
}
