//! Fetching of an issuer's keys in the background: at intervals, and after a token with an unknown key id.
//!
//! Invariant: keys are not fetched more often than the configuration allows. The previous keys remain valid if a set
//! cannot be fetched or is not accepted.

use std::{sync::Arc, time::Duration};

use reqwest::{Certificate, Client, redirect};
use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{ExternalIssuer, jwks};
use crate::config::{IssuerConfig, KeySource, is_safe};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why an issuer could not be used, for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot read {0:?}")]
    File(std::path::PathBuf, #[source] std::io::Error),
    #[error("its CA ({0:?}) cannot be used")]
    Ca(std::path::PathBuf),
    #[error("it does not respond")]
    Http(#[from] reqwest::Error),
    #[error("it responds with status {0}")]
    Status(u16),
    #[error("its response is too large")]
    TooLarge,
    #[error("its discovery document is invalid, or its `issuer` does not match")]
    Discovery,
    #[error("an address in its discovery document is not safe")]
    Address,
    #[error("its key set is not accepted: {0}")]
    Keys(#[from] jwks::KeySetError),
}

/// An issuer's discovery document (OpenID Connect Discovery 1.0, section 3).
#[derive(Deserialize)]
pub(super) struct Document {
    issuer: String,
    jwks_uri: String,
    /// Empty if the issuer offers no sign-in.
    #[serde(default)]
    pub(super) authorization_endpoint: String,
    #[serde(default)]
    pub(super) token_endpoint: String,
    pub(super) token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

/// Fetches the keys repeatedly until stopped.
pub(super) async fn run(issuer: Arc<ExternalIssuer>, stop: CancellationToken) {
    let name = issuer.config.issuer.as_str();
    let mut is_failing = false;
    loop {
        let fetched = tokio::select! {
            fetched = fetch(&issuer) => fetched,
            () = stop.cancelled() => return,
        };
        match &fetched {
            Ok(0) => tracing::warn!(issuer = name, "issuer has no usable keys, its tokens are refused"),
            Ok(keys) => tracing::debug!(issuer = name, keys, "issuer keys fetched"),
            Err(error) if !is_failing => {
                let error = error as &dyn std::error::Error;
                tracing::warn!(issuer = name, error, "cannot fetch the keys of an issuer, using the previous ones");
            }
            Err(_) => {}
        }
        if is_failing && fetched.is_ok() {
            tracing::info!(issuer = name, "keys of the issuer fetched again");
        }
        is_failing = fetched.is_err();
        let next = Instant::now() + issuer.config.refresh_interval;
        tokio::select! {
            () = sleep(issuer.config.min_refresh_interval) => {}
            () = stop.cancelled() => return,
        }
        if !is_failing {
            tokio::select! {
                () = sleep_until(next) => {}
                () = issuer.unknown.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// Fetches the keys once; returns the number of usable ones.
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
            let address = discover(config).await?.jwks_uri;
            get(&client(config).await?, &address).await?
        }
    };
    Ok(issuer.take(&set)?)
}

/// Fetches the discovery document of an issuer.
pub(super) async fn discover(config: &IssuerConfig) -> Result<Document, Error> {
    let address = format!("{}/.well-known/openid-configuration", config.issuer.trim_end_matches('/'));
    let document = get(&client(config).await?, &address).await?;
    let document: Document = serde_json::from_slice(&document).map_err(|_| Error::Discovery)?;
    // OpenID Connect Discovery 1.0, section 4.3, requires that both are identical.
    if document.issuer != config.issuer {
        return Err(Error::Discovery);
    }
    let is_safe_or_empty = |address: &str| address.is_empty() || is_safe(address);
    let endpoints = [&document.authorization_endpoint, &document.token_endpoint];
    if !is_safe(&document.jwks_uri) || !endpoints.into_iter().all(|address| is_safe_or_empty(address)) {
        return Err(Error::Address);
    }
    Ok(document)
}

/// A client for one fetch. Fetches are rare, so each reads the CA again and uses one that was renewed on disk.
pub(super) async fn client(config: &IssuerConfig) -> Result<Client, Error> {
    // Redirects and proxies from the environment are disabled, because they could lead to another address.
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

/// Fetches a document of at most the allowed size.
async fn get(http: &Client, url: &str) -> Result<Vec<u8>, Error> {
    let response = http.get(url).header("accept", "application/json").send().await?;
    if !response.status().is_success() {
        return Err(Error::Status(response.status().as_u16()));
    }
    bounded(response).await
}

/// The body of a response of at most the allowed size.
pub(super) async fn bounded(mut response: reqwest::Response) -> Result<Vec<u8>, Error> {
    let mut document = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if document.len() + chunk.len() > jwks::MAX_BYTES {
            return Err(Error::TooLarge);
        }
        document.extend_from_slice(&chunk);
    }
    Ok(document)
}
