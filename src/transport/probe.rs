//! Asking a gateway's ops side whether it is ready, from outside: what a container's health check does, without a tool that
//! small images lack. An address enters, and whether `/readyz` said 200 leaves.

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
const PATIENCE: Duration = Duration::from_secs(3);
/// Of an answer, as much as is of interest.
const MOST: u64 = 4096;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The authority's file.
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

/// Asks the ops side at this address, by TLS when there is an authority to trust; what it answers, when that is not "ready".
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
    tokio::time::timeout(PATIENCE, asking).await.map_err(|_| ProbeError::Late)?
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<Result<(), String>> {
    stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await?;
    let mut answer = Vec::new();
    // A peer may end without TLS's goodbye; what came counts.
    let read = stream.take(MOST).read_to_end(&mut answer).await;
    if answer.is_empty() {
        read?;
    }
    let answer = String::from_utf8_lossy(&answer);
    let is_ready = answer.lines().next().is_some_and(|line| line.split(' ').nth(1) == Some("200"));
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    Ok(if is_ready { Ok(()) } else { Err(body.escape_debug().to_string()) })
}
