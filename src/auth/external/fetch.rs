//! Fetching of an issuer's keys in the background: at intervals, and when a token named an unknown one, but never more often than
//! the configuration allows. A set that cannot be fetched or is not accepted leaves the previous keys in force.

use std::{sync::Arc, time::Duration};

use reqwest::{Certificate, Client, redirect};
use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{ExternalIssuer, jwks};
use crate::config::{IssuerConfig, KeySource, is_safe};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why there are no new keys; for the log.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0:?} cannot be read")]
    File(std::path::PathBuf, #[source] std::io::Error),
    #[error("its CA ({0:?}) is not usable")]
    Ca(std::path::PathBuf),
    #[error("it does not answer")]
    Http(#[from] reqwest::Error),
    #[error("it answers with status {0}")]
    Status(u16),
    #[error("its discovery document is invalid, or its `issuer` does not match")]
    Discovery,
    #[error("its discovery document names an address that is not safe")]
    Address,
    #[error("its set of keys is not accepted: {0}")]
    Keys(#[from] jwks::KeySetError),
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
}

/// Until stopped.
pub(super) async fn run(issuer: Arc<ExternalIssuer>, stop: CancellationToken) {
    let name = issuer.config.issuer.as_str();
    let mut is_down = false;
    loop {
        let fetched = tokio::select! {
            fetched = fetch(&issuer) => fetched,
            () = stop.cancelled() => return,
        };
        match &fetched {
            Ok(0) => tracing::warn!(issuer = name, "issuer has no usable key, its tokens are refused"),
            Ok(keys) => tracing::debug!(issuer = name, keys, "issuer keys fetched"),
            Err(error) if !is_down => {
                let error = error as &dyn std::error::Error;
                tracing::warn!(issuer = name, error, "issuer keys cannot be fetched, the previous ones stay in force");
            }
            Err(_) => {}
        }
        if is_down && fetched.is_ok() {
            tracing::info!(issuer = name, "issuer keys can be fetched again");
        }
        is_down = fetched.is_err();
        let next = Instant::now() + issuer.config.refresh_interval;
        tokio::select! {
            () = sleep(issuer.config.min_refresh_interval) => {}
            () = stop.cancelled() => return,
        }
        if !is_down {
            tokio::select! {
                () = sleep_until(next) => {}
                () = issuer.unknown.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// Fetches them once.
pub(super) async fn fetch_now(issuer: &ExternalIssuer) -> Result<usize, String> {
    fetch(issuer).await.map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("{error}{cause}")
    })
}

async fn fetch(issuer: &ExternalIssuer) -> Result<usize, Error> {
    let config = &issuer.config;
    let set = match &config.keys {
        KeySource::File(path) => tokio::fs::read(path).await.map_err(|error| Error::File(path.clone(), error))?,
        KeySource::Url(url) => get(&client(config).await?, url).await?,
        KeySource::Discovery => {
            let http = client(config).await?;
            let place = format!("{}/.well-known/openid-configuration", config.issuer.trim_end_matches('/'));
            let document = get(&http, &place).await?;
            let document: Document = serde_json::from_slice(&document).map_err(|_| Error::Discovery)?;
            // OpenID Connect Discovery 1.0, section 4.3: exactly the same.
            if document.issuer != config.issuer {
                return Err(Error::Discovery);
            }
            if !is_safe(&document.jwks_uri) {
                return Err(Error::Address);
            }
            get(&http, &document.jwks_uri).await?
        }
    };
    Ok(issuer.take(&set)?)
}

/// Built for each fetch, which is rare, so that a CA that was renewed on disk is used.
async fn client(config: &IssuerConfig) -> Result<Client, Error> {
    // Neither redirects nor proxies of the environment may name another address.
    let builder = Client::builder()
        .tls_backend_rustls()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT);
    let Some(path) = &config.ca_certificate else { return Ok(builder.build()?) };
    let pem = tokio::fs::read(path).await.map_err(|error| Error::File(path.clone(), error))?;
    let ca = Certificate::from_pem_bundle(&pem).map_err(|_| Error::Ca(path.clone()))?;
    if ca.is_empty() {
        return Err(Error::Ca(path.clone()));
    }
    Ok(builder.tls_certs_only(ca).build()?)
}

/// A document, up to the largest size that is accepted.
async fn get(http: &Client, url: &str) -> Result<Vec<u8>, Error> {
    let mut answer = http.get(url).header("accept", "application/json").send().await?;
    if !answer.status().is_success() {
        return Err(Error::Status(answer.status().as_u16()));
    }
    let mut document = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if document.len() + chunk.len() > jwks::MAX_BYTES {
            return Err(jwks::KeySetError::TooLarge.into());
        }
        document.extend_from_slice(&chunk);
    }
    Ok(document)
}
