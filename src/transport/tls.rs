//! The gateway's own side of TLS. PEM files enter; a rustls configuration that speaks HTTP/2, and HTTP/1.1 for gRPC-Web,
//! leaves.

use std::{path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// Why the server's certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read as PEM.
    #[error("cannot read {1:?}: run `warrengate certs create`, or correct grpc.certificate and grpc.key")]
    Pem(#[source] rustls::pki_types::pem::Error, std::path::PathBuf),
    /// The key does not belong to the certificate, or the like.
    #[error("the certificate and the key are not usable together")]
    Rustls(#[from] rustls::Error),
}

/// TLS 1.2 and 1.3, with the certificate and key of these files.
///
/// # Errors
/// When a file is missing or does not hold what it should.
pub fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| TlsError::Pem(error, certificate.into()))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::Pem(error, key.into()))?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
