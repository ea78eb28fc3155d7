//! Opening of the store, and schema upgrades.

use std::{path::Path, sync::Arc, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    AnyConnection, Executor as _, SqlSafeStr as _,
    any::AnyPoolOptions,
    migrate::{Migration, MigrationType, Migrator},
};

use super::{EncryptionKey, Error, Store};

/// Version, description and SQL. A released migration is never changed, and migrations only add to the schema:
/// gateways of the previous version keep working with the schema of the next one.
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
    (9, "console sessions", Sql::Common(include_str!("migrations/0009_console_sessions.sql"))),
    (10, "gateways", Sql::Common(include_str!("migrations/0010_gateways.sql"))),
];

#[derive(Clone, Copy)]
enum Sql {
    /// The same for both databases.
    Common(&'static str),
    /// Different for each database: triggers.
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

/// How long an operation may wait for a connection before the store counts as unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
const POSTGRES_CONNECTIONS: u32 = 8;

impl Store {
    /// Opens `sqlite:<path>` (created if missing, readable by its owner only), `sqlite::memory:` or
    /// `postgres://user:password@host/database`, and upgrades the schema.
    ///
    /// # Errors
    /// When the URL is not supported, or the database cannot be reached or upgraded.
    pub async fn open(url: &SecretString, key: EncryptionKey) -> Result<Self, Error> {
        Self::open_at_version(url, key, i64::MAX).await
    }

    /// Opens the store with the schema of an older version, for tests of upgrades.
    pub(super) async fn open_at_version(url: &SecretString, key: EncryptionKey, version: i64) -> Result<Self, Error> {
        // Fails if the drivers are installed already, which is fine.
        sqlx::any::install_default_drivers();
        let url = url.expose_secret();
        let is_sqlite = url.starts_with("sqlite:");
        if !is_sqlite && !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(Error::Location("the store's url must begin with sqlite:, postgres:// or postgresql://"));
        }
        let pool = if is_sqlite {
            create_file(url)?;
            AnyPoolOptions::new()
                // SQLite has one writer at a time. With one connection, the others wait here, in order and without
                // polling, and a database in memory is kept.
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
        // Migrations only add to the schema, so that older gateways work with a newer schema, and an upgrade can be
        // rolled back.
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
    // Another process (a command that runs at the same time) may lock the file for a short time. With FULL, confirmed
    // changes survive a power failure.
    connection
        .execute(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000;",
        )
        .await?;
    Ok(())
}

/// Creates a missing database file, accessible by its owner only, because it contains password hashes.
fn create_file(url: &str) -> Result<(), Error> {
    let location = url.trim_start_matches("sqlite:").trim_start_matches("//");
    let (path, parameters) = location.split_once('?').unwrap_or((location, ""));
    if path.is_empty() || path == ":memory:" || parameters.contains("mode=memory") || Path::new(path).exists() {
        return Ok(());
    }
    if path.contains('%') {
        return Err(Error::Location("the store's sqlite path must not contain \"%\""));
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(|_| ()).map_err(Error::File)
}

/// The schema version that [`Store::open`] creates.
#[cfg(test)]
pub(super) fn newest_version() -> i64 {
    MIGRATIONS.iter().map(|(version, ..)| *version).max().unwrap_or_default()
}
