//! The client of `/readyz`, for health checks in containers whose images have no HTTP client.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How much of an answer is read.
const MAX_ANSWER: u64 = 4096;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The file of the certificate authority.
    #[error("cannot read the authority's certificate: {0}")]
    Ca(#[from] rustls::pki_types::pem::Error),
    /// The authority.
    #[error("the authority's certificate is not usable: {0}")]
    Tls(#[from] rustls::Error),
    /// The connection.
    #[error("no answer from {0}: {1}")]
    Io(SocketAddr, #[source] std::io::Error),
    /// It took too long.
    #[error("no answer within 3 s")]
    Late,
}

/// Asks the operations listener at this address, by TLS when `ca` is given. The inner error is its answer when it is not ready.
///
/// # Errors
/// When there is no answer within 3 s.
pub async fn probe(ops: SocketAddr, ca: Option<&Path>) -> Result<Result<(), String>, ProbeError> {
    let asking = async {
        let failed = |error| ProbeError::Io(ops, error);
        let tcp = TcpStream::connect(ops).await.map_err(failed)?;
        let Some(ca) = ca else { return ask(tcp).await.map_err(failed) };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca)? {
            roots.add(certificate?)?;
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::IpAddress(ops.ip().into());
        ask(TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(failed)?).await.map_err(failed)
    };
    tokio::time::timeout(TIMEOUT, asking).await.map_err(|_| ProbeError::Late)?
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<Result<(), String>> {
    stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await?;
    let mut answer = Vec::new();
    // A peer may close without TLS's close_notify; what has come counts.
    let read = stream.take(MAX_ANSWER).read_to_end(&mut answer).await;
    if answer.is_empty() {
        read?;
    }
    let answer = String::from_utf8_lossy(&answer);
    let is_ready = answer.lines().next().is_some_and(|line| line.split(' ').nth(1) == Some("200"));
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    Ok(if is_ready { Ok(()) } else { Err(body.escape_debug().to_string()) })
}
