//! Who has which connection. A [`TenantScope`] enters; publishers, consumers and topology handles bound to that tenant's
//! links leave. A tenant without open streams costs an entry in a map, and after the idle time not even that.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    ConsumeSpec, Consumer, DeadLetters, Error, Publisher, Resender, SharingLookup, Topology,
    connection::{
        context::Shared,
        slot::{Link, Purpose},
    },
    retry::delay_queues::Delays,
};
use crate::{
    config::BrokerConfig,
    names::{QueueName, TenantId},
    pki::{Authority, TenantCertificates},
    telemetry::{ProcessMetrics, TenantMetrics},
    tenant::TenantScope,
};

/// How many tenants' connections are looked after at the same time: one whose broker node does not answer holds up no other.
const AT_ONCE: usize = 8;

/// The broker, as the streams and the services see it. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    shared: Arc<Shared>,
    links: Arc<RwLock<HashMap<TenantId, Arc<Links>>>>,
    /// Says that certificates were replaced.
    due: Arc<Notify>,
    /// Ends the sweeping of idle connections with the last clone.
    _sweeper: Arc<tokio_util::sync::DropGuard>,
}

/// A tenant's two connections, and what is known of its delay queues.
pub(super) struct Links {
    pub(super) publish: Link,
    pub(super) consume: Link,
    pub(super) delays: Delays,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("endpoints", &self.shared.options.endpoints).finish_non_exhaustive()
    }
}

impl Broker {
    /// Nothing is connected until a stream needs it. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the broker CA cannot be trusted.
    pub fn new(
        options: BrokerConfig,
        certificates: Arc<TenantCertificates>,
        metrics: Arc<ProcessMetrics>,
    ) -> Result<Self, rustls::Error> {
        let idle_timeout = options.idle_timeout;
        let shared = Arc::new(Shared::new(options, certificates, metrics)?);
        let links: Arc<RwLock<HashMap<TenantId, Arc<Links>>>> = Arc::default();
        let stop = CancellationToken::new();
        let due = Arc::new(Notify::new());
        tokio::spawn(sweep(Arc::downgrade(&links), idle_timeout, Arc::clone(&due), stop.clone()));
        Ok(Self { shared, links, due, _sweeper: Arc::new(stop.drop_guard()) })
    }

    /// A publisher with a channel of its own. Nothing is connected until the first message.
    pub fn publisher(&self, scope: &TenantScope) -> Publisher {
        Publisher::new(self.links(scope.tenant()), self.shared.options.publish_deadline)
    }

    /// A consumer with a channel of its own.
    ///
    /// # Errors
    /// When the queue is missing or cannot be consumed so, or the broker cannot be reached.
    pub async fn consumer(
        &self,
        scope: &TenantScope,
        spec: &ConsumeSpec,
        lookup: SharingLookup,
    ) -> Result<Consumer, Error> {
        Consumer::open(&self.links(scope.tenant()), spec, lookup).await
    }

    /// Sends a queue's deliveries round again. Nothing is connected until there is one.
    pub fn resender(&self, scope: &TenantScope, queue: QueueName, metrics: Arc<TenantMetrics>) -> Resender {
        let (links, deadline) = (self.links(scope.tenant()), self.shared.options.publish_deadline);
        Resender::new(links, deadline, queue, scope.clone(), metrics)
    }

    /// The tenant's dead letters.
    pub fn dead_letters(&self, scope: &TenantScope) -> DeadLetters {
        DeadLetters::new(self.links(scope.tenant()), self.shared.options.publish_deadline)
    }

    /// The tenant's exchanges, queues and bindings.
    pub fn topology(&self, scope: &TenantScope) -> Topology {
        Topology::new(self.links(scope.tenant()))
    }

    /// Makes a new certificate for a tenant, as it was asked for at this moment, and connects anew with it, before the
    /// connections with the old one go; when it ends.
    ///
    /// # Errors
    /// When there is no new connection; the old ones stay.
    pub async fn renew_credentials(&self, tenant: &TenantId, asked: i64) -> Result<SystemTime, Error> {
        let expires = self.shared.renew(tenant, asked)?;
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner).get(tenant).map(Arc::clone);
        if let Some(links) = links {
            tokio::try_join!(links.publish.renew_if_due(), links.consume.renew_if_due())?;
        }
        Ok(expires)
    }

    /// Hears that a tenant's certificate was asked to be made anew at this moment, at another gateway: its connections are
    /// replaced in the background.
    pub fn credentials_rotated(&self, tenant: &TenantId, asked: i64) {
        if self.shared.certificates().rotated(tenant, asked) {
            self.due.notify_one();
        }
    }

    /// Takes another reading of the authority's files: whom to trust from now on, and who signs. When that is another one,
    /// all tenants' connections are replaced in the background. Whether it is.
    ///
    /// # Errors
    /// When it cannot be trusted; then all stays as it is.
    pub fn follow_authority(&self, authority: Authority) -> Result<bool, rustls::Error> {
        let is_another = self.shared.follow(Arc::new(authority))?;
        if is_another {
            self.due.notify_one();
        }
        Ok(is_another)
    }

    /// Closes a tenant's connections at once, after it was suspended or deleted.
    pub async fn close_tenant(&self, tenant: &TenantId) {
        let links = self.links.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
        if let Some(links) = links {
            tokio::join!(links.publish.close(), links.consume.close());
        }
    }

    /// Closes everything, at shutdown; about a second at most.
    pub async fn close(&self) {
        let all: Vec<_> = self.links.write().unwrap_or_else(PoisonError::into_inner).drain().collect();
        // At the same time: a broker that does not answer costs a second in all, not for each tenant.
        let closing = all.iter().map(|(_, links)| async { tokio::join!(links.publish.close(), links.consume.close()) });
        futures_util::future::join_all(closing).await;
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn links(&self, tenant: &TenantId) -> Arc<Links> {
        if let Some(links) = self.links.read().unwrap_or_else(PoisonError::into_inner).get(tenant) {
            return Arc::clone(links);
        }
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        let link = |purpose| Link::new(tenant.clone(), purpose, Arc::clone(&self.shared));
        Arc::clone(links.entry(tenant.clone()).or_insert_with(|| {
            let (publish, consume) = (link(Purpose::Publish), link(Purpose::Consume));
            Arc::new(Links { publish, consume, delays: Delays::default() })
        }))
    }
}

/// Replaces connections that show a certificate of before, closes idle ones, and forgets tenants that have none.
async fn sweep(
    links: std::sync::Weak<RwLock<HashMap<TenantId, Arc<Links>>>>,
    timeout: Duration,
    due: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval((timeout / 4).clamp(Duration::from_millis(100), Duration::from_secs(10)));
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = due.notified() => {}
            () = stop.cancelled() => return,
        }
        let Some(links) = links.upgrade() else { return };
        let all: Vec<_> = {
            let links = links.read().unwrap_or_else(PoisonError::into_inner);
            links.iter().map(|(tenant, links)| (tenant.clone(), Arc::clone(links))).collect()
        };
        let links = &links;
        let turns = futures_util::stream::iter(all).for_each_concurrent(AT_ONCE, async |(tenant, held)| {
            // One that cannot be had now is tried again with the next turn; the old one stays meanwhile.
            let _ = held.publish.renew_if_due().await;
            let _ = held.consume.renew_if_due().await;
            let publish = held.publish.close_if_idle(timeout).await;
            let consume = held.consume.close_if_idle(timeout).await;
            if publish && consume {
                let mut links = links.write().unwrap_or_else(PoisonError::into_inner);
                // Two holders, the map and this loop: no stream has it.
                if Arc::strong_count(&held) == 2 {
                    links.remove(&tenant);
                }
            }
        });
        turns.await;
    }
}
