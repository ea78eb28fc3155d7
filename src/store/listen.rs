//! Notifications of changes. PostgreSQL notifies listeners when a raised revision is committed (migration 0004);
//! SQLite has no notifications and supports only one gateway. A notification can be lost with its connection, so
//! callers must also poll.

use secrecy::ExposeSecret as _;
use sqlx::postgres::PgListener;

use super::{Error, Store};

const CHANNEL: &str = "warrengate_revision";

/// A database connection that receives notifications.
pub struct Changes(PgListener);

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Changes(..)")
    }
}

impl Store {
    /// Starts listening; `None` if the database has no notifications.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn changes(&self) -> Result<Option<Changes>, Error> {
        if self.is_sqlite {
            return Ok(None);
        }
        let mut listener = PgListener::connect(self.url.expose_secret()).await?;
        listener.listen(CHANNEL).await?;
        Ok(Some(Changes(listener)))
    }
}

impl Changes {
    /// Waits until the revision is raised, by any gateway. Cancel safe.
    ///
    /// # Errors
    /// When the connection is lost; the caller must listen again and read the revision.
    pub async fn changed(&mut self) -> Result<(), Error> {
        match self.0.try_recv().await? {
            Some(_) => Ok(()),
            None => Err(sqlx::Error::PoolClosed.into()),
        }
    }
}
