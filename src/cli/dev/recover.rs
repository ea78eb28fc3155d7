//! New secrets for the development identities, if those in `dev.env` are invalid because they were rotated elsewhere.
//!
//! A new secret is added to the current one, so that the person who rotated it keeps a valid secret.

use std::time::{Duration, SystemTime};

use secrecy::SecretString;
use tokio::time::Instant;
use tonic::Code;

use crate::{
    auth::Secret,
    cli::Error,
    client::{self, Client},
    config::Config,
    names::ClientId,
    pb,
    store::{EncryptionKey, Store},
};

/// How long the previous secret remains valid.
const OVERLAP: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long the gateway may take to notice a change of its store.
const PROPAGATION: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// A new secret of the first administrator, written to the store: the development gateway's store is this user's file.
pub(super) async fn administrator(config: &Config) -> Result<(String, SecretString), Error> {
    let key = EncryptionKey::parse(&config.store.encryption_key).map_err(anyhow::Error::from)?;
    let store = Store::open(&config.store.url, key).await.map_err(anyhow::Error::from)?;
    let id = ClientId::parse("admin").map_err(anyhow::Error::from)?;
    let secret = Secret::generate();
    let hash = secret.hash().await.map_err(anyhow::Error::from)?;
    let until = SystemTime::now() + OVERLAP;
    let row = store.add_client_secret(&id, &hash, &secret.tag(), until).await.map_err(anyhow::Error::from)?;
    store.close().await;
    match row {
        Some(row) if !row.revoked => Ok((id.to_string(), secret.reveal().clone())),
        _ => Err(Error::Failed(
            "the administrator was revoked; start from scratch with `warrengate dev --reset`".to_owned(),
        )),
    }
}

/// A new secret of a tenant's client.
pub(super) async fn client(admin: &Client, id: &str) -> Result<SecretString, Error> {
    let overlap = OVERLAP.try_into().ok();
    let request = pb::RotateClientSecretRequest { client_id: id.to_owned(), overlap };
    Ok(admin.admin().rotate_client_secret(request).await?.into_inner().client_secret.into())
}

/// Connects as soon as the gateway accepts the new secret.
pub(super) async fn connected(connect: impl AsyncFn() -> Result<Client, client::Error>) -> Result<Client, Error> {
    let deadline = Instant::now() + PROPAGATION;
    loop {
        match connect().await {
            Err(error) if error.code() == Some(Code::Unauthenticated) && Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            result => return Ok(result?),
        }
    }
}
