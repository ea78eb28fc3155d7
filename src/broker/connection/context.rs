//! The state that all connections share: options, endpoints, metrics, and the TLS identity of each tenant.
//!
//! Invariant: a tenant's TLS configuration always has its current certificate and trusts the broker CA only (and,
//! during a CA rotation, the next one).

use std::{sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, RootCertStore};

use super::endpoints::Endpoints;
use crate::{
    broker::error::Error,
    config::BrokerConfig,
    names::TenantId,
    pki::{Authority, Leaf, TenantCertificates},
    telemetry::ProcessMetrics,
};

/// Shared by all connections of all tenants.
pub(in crate::broker) struct ConnectionContext {
    pub(in crate::broker) options: BrokerConfig,
    pub(super) metrics: Arc<ProcessMetrics>,
    pub(super) endpoints: Endpoints,
    certificates: Arc<TenantCertificates>,
    roots: ArcSwap<RootCertStore>,
}

/// The TLS identity of a connection.
pub(in crate::broker) struct Identity {
    pub(in crate::broker) tls: Arc<ClientConfig>,
    /// A connection that was opened with another certificate than the tenant's current one is replaced.
    pub(super) leaf: Arc<Leaf>,
}

impl ConnectionContext {
    pub(in crate::broker) fn new(
        options: BrokerConfig,
        certificates: Arc<TenantCertificates>,
        metrics: Arc<ProcessMetrics>,
    ) -> Result<Self, rustls::Error> {
        let roots = ArcSwap::from_pointee(roots(&certificates.authority())?);
        let endpoints = Endpoints::new(options.endpoints.clone());
        Ok(Self { options, metrics, endpoints, certificates, roots })
    }

    /// The tenant's TLS configuration with its current certificate.
    pub(in crate::broker) fn identity(&self, tenant: &TenantId) -> Result<Identity, Error> {
        let leaf = self.current_certificate(tenant)?;
        let tls = ClientConfig::builder()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(leaf.chain_der(), leaf.key_der())
            .map_err(|error| {
                tracing::error!(%tenant, %error, "rustls rejected the tenant's certificate");
                Error::Unreachable(None)
            })?;
        Ok(Identity { tls: Arc::new(tls), leaf })
    }

    /// Issues a new certificate for a tenant unless one was already issued for this request; returns its expiry.
    pub(in crate::broker) fn renew(&self, tenant: &TenantId, requested_at: i64) -> Result<SystemTime, Error> {
        self.certificates.rotated(tenant, requested_at);
        Ok(self.current_certificate(tenant)?.not_after())
    }

    /// The certificate authorities that may have signed the broker's own certificate.
    pub(in crate::broker) fn roots(&self) -> Arc<RootCertStore> {
        self.roots.load_full()
    }

    /// Uses the reloaded authority. Returns whether it signs with another certificate, so that all tenants'
    /// certificates are replaced.
    pub(in crate::broker) fn adopt_authority(&self, authority: Arc<Authority>) -> Result<bool, rustls::Error> {
        self.roots.store(Arc::new(roots(&authority)?));
        Ok(self.certificates.set_authority(authority))
    }

    pub(in crate::broker) fn certificates(&self) -> &TenantCertificates {
        &self.certificates
    }

    fn current_certificate(&self, tenant: &TenantId) -> Result<Arc<Leaf>, Error> {
        self.certificates.current(tenant).map_err(|error| {
            tracing::error!(%tenant, %error, "cannot issue a certificate for the tenant");
            Error::Unreachable(None)
        })
    }
}

fn roots(authority: &Authority) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for trusted in authority.trusted_der() {
        roots.add(trusted.clone())?;
    }
    Ok(roots)
}
