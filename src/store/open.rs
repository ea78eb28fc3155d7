//! Opening the store: a location and an encryption key enter, a [`Store`] with an up-to-date schema leaves.

use std::{path::Path, sync::Arc, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    AnyConnection, Executor as _, SqlSafeStr as _,
    any::AnyPoolOptions,
    migrate::{Migration, MigrationType, Migrator},
};

use super::{EncryptionKey, Error, Store};

/// Version, what it does, SQL for both databases. A migration is never changed once released; the next one is added.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "first", include_str!("migrations/0001_first.sql")),
    (2, "plans", include_str!("migrations/0002_plans.sql")),
    (3, "audit", include_str!("migrations/0003_audit.sql")),
    (5, "secret overlap", include_str!("migrations/0005_secret_overlap.sql")),
    (6, "broker credentials", include_str!("migrations/0006_broker_credentials.sql")),
];
/// The same for what each database says in words of its own (triggers): SQLite's, PostgreSQL's.
const MIGRATIONS_APART: &[(i64, &str, &str, &str)] = &[(
    4,
    "append only",
    include_str!("migrations/0004_append_only.sqlite.sql"),
    include_str!("migrations/0004_append_only.postgres.sql"),
)];

fn migrations(is_sqlite: bool) -> Vec<Migration> {
    let both = MIGRATIONS.iter().copied();
    let apart = MIGRATIONS_APART.iter().map(|(version, what, sqlite, postgres)| {
        let sql = if is_sqlite { *sqlite } else { *postgres };
        (*version, *what, sql)
    });
    let mut all: Vec<_> = both.chain(apart).collect();
    all.sort_by_key(|(version, ..)| *version);
    let migration = |(version, what, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, what.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    all.into_iter().map(migration).collect()
}

/// How long a call may wait for a connection before it is told that the store is away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
const POSTGRES_CONNECTIONS: u32 = 8;

impl Store {
    /// Opens `sqlite:<path>` (made when missing, readable by its owner only), `sqlite::memory:` or
    /// `postgres://user:password@host/database`, and brings the schema up to date.
    ///
    /// # Errors
    /// When the location is none of these, the database cannot be reached, or its schema is newer than this program.
    pub async fn open(url: &SecretString, key: EncryptionKey) -> Result<Self, Error> {
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
        Migrator::with_migrations(migrations(is_sqlite))
            .run(&pool)
            .await
            .map_err(|error| Error::Migration(Box::new(error)))?;
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
