//! What all links share: how to reach the broker, and as whom. A tenant enters, and the TLS side of its connections leaves:
//! its certificate as it is now, and the broker CA as the only root (with another one beside it while the two change places).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    broker::Error,
    config::{BrokerConfig, Endpoint},
    names::TenantId,
    pki::{Authority, Leaf, TenantCertificates},
    telemetry::ProcessMetrics,
};

/// What all links share.
pub(in crate::broker) struct Shared {
    pub(in crate::broker) options: BrokerConfig,
    pub(in crate::broker) metrics: Arc<ProcessMetrics>,
    certificates: Arc<TenantCertificates>,
    roots: ArcSwap<RootCertStore>,
    health: Mutex<Health>,
    /// Connections in the making at each endpoint, of all tenants.
    connecting: Vec<Semaphore>,
}

/// Which endpoints to try first.
struct Health {
    next: usize,
    /// When each failed last, unless it has worked since.
    failed: Vec<Option<Instant>>,
}

/// How many connections are made at an endpoint at the same time. A handshake costs the broker some milliseconds of a core;
/// more at once than it has time for end in a storm: each takes longer than `connect_timeout`, is given up and begun anew,
/// while the broker works on those that were given up.
const CONNECTING: usize = 8;
/// How long an endpoint that failed is tried after the others.
const DISTRUST: Duration = Duration::from_secs(30);

/// What a connection shows for itself.
pub(in crate::broker) struct Identity {
    pub(in crate::broker) tls: Arc<ClientConfig>,
    /// A connection that shows it is replaced when it is not the tenant's current one any more.
    pub(in crate::broker) leaf: Arc<Leaf>,
}

impl Shared {
    pub(in crate::broker) fn new(
        options: BrokerConfig,
        certificates: Arc<TenantCertificates>,
        metrics: Arc<ProcessMetrics>,
    ) -> Result<Self, rustls::Error> {
        let roots = ArcSwap::from_pointee(roots(&certificates.authority())?);
        let health = Mutex::new(Health { next: 0, failed: vec![None; options.endpoints.len()] });
        let connecting = options.endpoints.iter().map(|_| Semaphore::new(CONNECTING)).collect();
        Ok(Self { options, metrics, certificates, roots, health, connecting })
    }

    /// The TLS side of a tenant: its certificate as it is now, and the broker CA as the only root.
    pub(in crate::broker) fn identity(&self, tenant: &TenantId) -> Result<Identity, Error> {
        let leaf = self.certificates.current(tenant).map_err(|error| {
            tracing::error!(%tenant, %error, "no certificate for the tenant");
            Error::Unreachable(None)
        })?;
        let tls = ClientConfig::builder()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(leaf.chain_der(), leaf.key_der())
            .map_err(|error| {
                tracing::error!(%tenant, %error, "the tenant's certificate is not accepted by rustls");
                Error::Unreachable(None)
            })?;
        Ok(Identity { tls: Arc::new(tls), leaf })
    }

    /// Makes a new certificate for a tenant when it was asked for at this moment and none was made for that; when it ends.
    pub(in crate::broker) fn renew(&self, tenant: &TenantId, asked: i64) -> Result<SystemTime, Error> {
        self.certificates.rotated(tenant, asked);
        let leaf = self.certificates.current(tenant).map_err(|error| {
            tracing::error!(%tenant, %error, "no certificate for the tenant");
            Error::Unreachable(None)
        })?;
        Ok(leaf.not_after())
    }

    /// Whom the broker's own certificate has to be of.
    pub(in crate::broker) fn roots(&self) -> Arc<RootCertStore> {
        self.roots.load_full()
    }

    /// Another reading of the authority's files; whether all tenants' certificates are made anew by it.
    pub(in crate::broker) fn follow(&self, authority: Arc<Authority>) -> Result<bool, rustls::Error> {
        self.roots.store(Arc::new(roots(&authority)?));
        Ok(self.certificates.follow(authority))
    }

    pub(in crate::broker) fn certificates(&self) -> &TenantCertificates {
        &self.certificates
    }

    /// Waits until one more connection may be made at this endpoint: first come, first served. An endpoint that does not
    /// answer so holds up nobody at the others.
    pub(in crate::broker) async fn turn(&self, endpoint: usize) -> Option<SemaphorePermit<'_>> {
        // Never closed; and without a place a connection is still better than none.
        self.connecting[endpoint].acquire().await.ok()
    }

    /// All endpoints in the order to try them: those that work first, beginning with another one each time; then those that
    /// failed lately, beginning with the one that failed first.
    pub(in crate::broker) fn endpoints(&self) -> Vec<(usize, &Endpoint)> {
        let mut health = self.health();
        let order = health.order(Instant::now());
        health.next = health.next.wrapping_add(1);
        order.into_iter().map(|index| (index, &self.options.endpoints[index])).collect()
    }

    /// Remembers whether an endpoint took a connection.
    pub(in crate::broker) fn tried(&self, endpoint: usize, works: bool) {
        self.health().failed[endpoint] = (!works).then(Instant::now);
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn roots(authority: &Authority) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for trusted in authority.trusted_der() {
        roots.add(trusted.clone())?;
    }
    Ok(roots)
}

impl Health {
    fn order(&self, now: Instant) -> Vec<usize> {
        let count = self.failed.len();
        let mut order: Vec<_> = (0..count).map(|index| (index + self.next) % count).collect();
        let distrusted = |index: usize| self.failed[index].filter(|failed| now.duration_since(*failed) < DISTRUST);
        // Stable: none, which works, is first.
        order.sort_by_key(|index| distrusted(*index));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_failed_is_tried_last_for_a_while() {
        let now = Instant::now();
        let mut health = Health { next: 0, failed: vec![None; 3] };
        assert_eq!(health.order(now), [0, 1, 2]);
        health.next = 1;
        assert_eq!(health.order(now), [1, 2, 0]);
        health.failed[1] = Some(now);
        assert_eq!(health.order(now), [2, 0, 1]);
        health.failed[2] = Some(now + Duration::from_secs(1));
        assert_eq!(health.order(now + Duration::from_secs(1)), [0, 1, 2]);
        assert_eq!(health.order(now + Duration::from_secs(60)), [1, 2, 0]);
    }
}
