//! The server side of TLS: a rustls configuration from PEM files, with HTTP/2 and, for gRPC-Web, HTTP/1.1.
//!
//! When the files change, later handshakes present the new certificate and open connections keep the old one. A
//! certificate and a key that do not belong together are ignored.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_util::sync::CancellationToken;

use crate::pki::Watched;

/// Why the server's certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read as PEM.
    #[error("cannot read {1:?}: run `warrengate certs create`, or correct grpc.certificate and grpc.key")]
    Pem(#[source] rustls::pki_types::pem::Error, PathBuf),
    /// The key does not belong to the certificate, or has an unsupported type.
    #[error("the certificate and the key cannot be used together")]
    Rustls(#[from] rustls::Error),
}

/// A server's certificate and key, as they were last read from their files.
pub struct ServerIdentity {
    certificate: PathBuf,
    key: PathBuf,
    files: Watched,
    current: Current,
}

impl std::fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerIdentity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// The certificate that handshakes present.
#[derive(Debug, Clone)]
struct Current(Arc<ArcSwap<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ServerIdentity {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// When a file is missing or has unexpected content.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        // Before the files are read, so that no change is missed.
        let files = Watched::new([certificate.to_owned(), key.to_owned()]);
        let current = Current(Arc::new(ArcSwap::from_pointee(certified(certificate, key)?)));
        Ok(Self { certificate: certificate.into(), key: key.into(), files, current })
    }

    /// TLS 1.2 and 1.3, with the certificate that is current at each handshake.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let mut config =
            ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(self.current.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Reads the files again whenever they change, until stopped.
    pub async fn watch(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.files.changed() => {}
                () = stop.cancelled() => return,
            }
            match certified(&self.certificate, &self.key) {
                Ok(certified) => {
                    self.current.0.store(Arc::new(certified));
                    tracing::info!(file = ?self.certificate, "server certificate reloaded");
                }
                // Perhaps only one of the two files is written yet; the change of the other one is noticed as well.
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(file = ?self.certificate, error, "changed server certificate ignored");
                }
            }
        }
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
