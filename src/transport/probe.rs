//! A readiness check of a gateway from outside, for the health check of a container whose image has no tool for it.

use std::{net::SocketAddr, path::Path, time::Duration};

use reqwest::{Certificate, Client, StatusCode, redirect};

/// The maximum time for a response.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How many bytes of a response are read.
const MAX_ANSWER: usize = 4096;

/// Why there was no response.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The file of the CA cannot be read.
    #[error("cannot read the CA certificate: {0}")]
    Ca(#[from] std::io::Error),
    /// The CA cannot be used.
    #[error("the CA certificate cannot be used: {0}")]
    Tls(#[source] reqwest::Error),
    /// The request failed.
    #[error("no response from {0}: {1}")]
    Request(SocketAddr, #[source] reqwest::Error),
}

/// Requests `/readyz` from the operations listener at this address, over TLS if a CA is given. The inner error is the
/// response of a gateway that is not ready.
///
/// # Errors
/// When there is no response within 3 s.
pub async fn probe(ops: SocketAddr, ca: Option<&Path>) -> Result<Result<(), String>, ProbeError> {
    let client = Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(TIMEOUT);
    let (scheme, client) = match ca {
        None => ("http", client),
        Some(ca) => {
            let certificates = Certificate::from_pem_bundle(&std::fs::read(ca)?).map_err(ProbeError::Tls)?;
            ("https", client.tls_backend_rustls().tls_certs_only(certificates))
        }
    };
    let client = client.build().map_err(ProbeError::Tls)?;
    let failed = |error| ProbeError::Request(ops, error);
    let mut response = client.get(format!("{scheme}://{ops}/readyz")).send().await.map_err(failed)?;
    if response.status() == StatusCode::OK {
        return Ok(Ok(()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)?
        && body.len() < MAX_ANSWER
    {
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_ANSWER - body.len())]);
    }
    Ok(Err(String::from_utf8_lossy(&body).escape_debug().to_string()))
}
