//! The TLS configuration of the listeners, read from PEM files.
//!
//! When the files change, later handshakes use the new certificate and open connections keep theirs. Files that do not match each other
//! change nothing.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// How often the files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Why the server's certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read as PEM.
    #[error("cannot read {1:?}: run `warrengate certs create`, or correct grpc.certificate and grpc.key")]
    Pem(#[source] rustls::pki_types::pem::Error, PathBuf),
    /// The key does not belong to the certificate, or the like.
    #[error("the certificate and the key are not usable together")]
    Rustls(#[from] rustls::Error),
}

/// The certificate and key of a server, as last read from their files.
pub struct ServerIdentity {
    certificate: PathBuf,
    key: PathBuf,
    seen: Option<Read>,
    shown: Shown,
}

impl std::fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerIdentity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// The certificate that handshakes present.
#[derive(Debug, Clone)]
struct Shown(Arc<ArcSwap<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// The contents of both files.
type Read = (Vec<u8>, Zeroizing<Vec<u8>>);

impl ServerIdentity {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// When a file is missing or does not hold what it should.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        // Before they are parsed, so that no change is missed.
        let seen = std::fs::read(certificate).ok().zip(std::fs::read(key).ok().map(Zeroizing::new));
        let shown = Shown(Arc::new(ArcSwap::from_pointee(certified(certificate, key)?)));
        Ok(Self { certificate: certificate.into(), key: key.into(), seen, shown })
    }

    /// TLS 1.2 and 1.3, with the current certificate at each handshake.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(self.shown.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Checks the files every 5 s until `stop` is cancelled, and uses what changed.
    pub async fn follow(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = self.seen.clone();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            let now = self.read().await;
            if now.is_none() || now == seen {
                continue;
            }
            match certified(&self.certificate, &self.key) {
                Ok(certified) => {
                    self.shown.0.store(Arc::new(certified));
                    tracing::info!(file = ?self.certificate, "server certificate reloaded");
                }
                // Perhaps only one of the two is written yet; the other's change is checked as well.
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(file = ?self.certificate, error, "changed server certificate ignored");
                }
            }
            seen = now;
        }
    }

    async fn read(&self) -> Option<Read> {
        let certificate = tokio::fs::read(&self.certificate).await.ok()?;
        Some((certificate, Zeroizing::new(tokio::fs::read(&self.key).await.ok()?)))
    }
}

fn certified(certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| TlsError::Pem(error, certificate.into()))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::Pem(error, key.into()))?;
    if chain.is_empty() {
        return Err(rustls::Error::NoCertificatesPresented.into());
    }
    Ok(CertifiedKey::from_der(chain, key, &provider::default_provider())?)
}
