//! What all links share: how to reach the broker, and as whom. A tenant enters, and the TLS side of its connections leaves:
//! its certificate as it is now, and the broker CA as the only root.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use rustls::{ClientConfig, RootCertStore};

use super::Error;
use crate::{
    config::{BrokerConfig, Endpoint},
    names::TenantId,
    pki::TenantCertificates,
};

/// What all links share.
pub(super) struct Shared {
    pub(super) options: BrokerConfig,
    certificates: Arc<TenantCertificates>,
    roots: Arc<RootCertStore>,
    next_endpoint: AtomicUsize,
}

/// What a connection shows for itself.
pub(super) struct Identity {
    pub(super) tls: Arc<ClientConfig>,
}

impl Shared {
    pub(super) fn new(options: BrokerConfig, certificates: Arc<TenantCertificates>, roots: RootCertStore) -> Self {
        Self { options, certificates, roots: Arc::new(roots), next_endpoint: AtomicUsize::new(0) }
    }

    /// The TLS side of a tenant: its certificate as it is now, and the broker CA as the only root.
    pub(super) fn identity(&self, tenant: &TenantId) -> Result<Identity, Error> {
        let leaf = self.certificates.current(tenant).map_err(|error| {
            tracing::error!(%tenant, %error, "no certificate for the tenant");
            Error::Unreachable(None)
        })?;
        let tls = ClientConfig::builder()
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_auth_cert(leaf.chain_der(), leaf.key_der())
            .map_err(|error| {
                tracing::error!(%tenant, %error, "the tenant's certificate is not accepted by rustls");
                Error::Unreachable(None)
            })?;
        Ok(Identity { tls: Arc::new(tls) })
    }

    pub(super) fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    pub(super) fn endpoints_from_next(&self) -> impl Iterator<Item = &Endpoint> {
        let all = &self.options.endpoints;
        let first = self.next_endpoint.fetch_add(1, Ordering::Relaxed) % all.len().max(1);
        all.iter().cycle().skip(first).take(all.len())
    }
}
