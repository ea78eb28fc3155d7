//! [`Broker`], the entry point of the data path: publishers, consumers and topology handles, each bound to the
//! connections of one tenant. A tenant without open streams costs an entry in a map, which is removed after the idle
//! time.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, Weak},
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{context::ConnectionContext, tenant_connections::TenantConnections},
    consume::consumer::{ConsumeSpec, Consumer, SharingLookup},
    dead_letters::handle::DeadLetters,
    error::Error,
    peek::{self, PeekSpec, Peeked},
    publish::{lane, lanes::Lanes, publisher::Publisher},
    recent_queues::RecentQueues,
    retry::{delay_queues::DelayQueues, redeliverer::Redeliverer},
    topology::{self, QueueState, Topology},
};
use crate::{
    config::BrokerConfig,
    memory::MemoryBudget,
    names::{QueueName, TenantId},
    pki::{Authority, TenantCertificates},
    telemetry::{ProcessMetrics, TenantMetrics},
    tenant::{Observer, TenantScope},
};

/// How many tenants' connections are maintained concurrently, so that a broker node that does not respond delays no
/// other tenant.
const CONCURRENT_MAINTENANCE: usize = 8;
/// An unused channel slows all others on its connection, so a publish lane without publishers is closed after this
/// time.
const LANE_IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// How many queues of an observed tenant are read at the same time.
const CONCURRENT_STATES: usize = 8;

/// All connections of this gateway to the broker. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    context: Arc<ConnectionContext>,
    connections: Arc<ConnectionMap>,
    delay_queues: Arc<DelayQueues>,
    recent_queues: Arc<RecentQueues>,
    /// Notified when certificates were replaced.
    renewal_due: Arc<Notify>,
    /// Set when the task of a publish lane has panicked.
    lane_failed: watch::Sender<bool>,
    /// Ends the maintenance task with the last clone.
    _maintenance: Arc<tokio_util::sync::DropGuard>,
}

/// The tenants that have connections.
type ConnectionMap = RwLock<HashMap<TenantId, Arc<Lanes>>>;

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("endpoints", &self.context.options.endpoints).finish_non_exhaustive()
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
        let context = Arc::new(ConnectionContext::new(options, certificates, metrics)?);
        let connections: Arc<ConnectionMap> = Arc::default();
        let stop = CancellationToken::new();
        let renewal_due = Arc::new(Notify::new());
        tokio::spawn(maintain(Arc::downgrade(&connections), idle_timeout, Arc::clone(&renewal_due), stop.clone()));
        let _maintenance = Arc::new(stop.drop_guard());
        let (delay_queues, recent_queues) = (Arc::default(), Arc::default());
        let lane_failed = watch::Sender::new(false);
        Ok(Self { context, connections, delay_queues, recent_queues, renewal_due, lane_failed, _maintenance })
    }

    /// A publisher, which shares channels with the tenant's others. Nothing is connected until the first message.
    pub fn publisher(&self, scope: &TenantScope) -> Publisher {
        Publisher::new(self.lanes(scope.tenant()))
    }

    /// A consumer with a channel of its own, whose deliveries are charged to this budget.
    ///
    /// # Errors
    /// When the queue is missing or cannot be consumed like this, or the broker cannot be reached.
    pub async fn consumer(
        &self,
        scope: &TenantScope,
        spec: &ConsumeSpec,
        lookup: SharingLookup,
        memory: MemoryBudget,
    ) -> Result<Consumer, Error> {
        Consumer::open(&self.lanes(scope.tenant()).connections, spec, lookup, memory).await
    }

    /// Publishes a queue's deliveries again. Nothing is connected until there is one.
    pub fn redeliverer(&self, scope: &TenantScope, queue: QueueName, metrics: Arc<TenantMetrics>) -> Redeliverer {
        let (lanes, delay_queues) = (self.lanes(scope.tenant()), Arc::clone(&self.delay_queues));
        Redeliverer::new(lanes, delay_queues, queue, scope.clone(), metrics)
    }

    /// The tenant's dead letters.
    pub fn dead_letters(&self, scope: &TenantScope) -> DeadLetters {
        DeadLetters::new(self.lanes(scope.tenant()))
    }

    /// The first messages of a queue, which stay there.
    ///
    /// # Errors
    /// When the queue is missing or does not allow it, or the broker cannot be reached.
    pub async fn peek(&self, scope: &TenantScope, spec: PeekSpec) -> Result<Peeked, Error> {
        // The reference to the lanes keeps the connections from being closed as unused.
        let lanes = self.lanes(scope.tenant());
        peek::peek(Arc::clone(&lanes.connections), spec).await
    }

    /// The present states of some of the observed tenant's queues, by name; those that do not exist are left out.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub async fn observed_queues(
        &self,
        observer: &Observer,
        names: Vec<QueueName>,
    ) -> Result<HashMap<String, QueueState>, Error> {
        let lanes = self.lanes(observer.tenant());
        let mut states = HashMap::new();
        for some in names.chunks(CONCURRENT_STATES) {
            let asked: Vec<_> =
                some.iter().map(|name| state_of(Arc::clone(&lanes.connections), name.clone())).collect();
            for (name, state) in futures_util::future::join_all(asked).await {
                match state {
                    Ok(state) => drop(states.insert(name.to_string(), state)),
                    Err(error) if error.is_connection_error() => return Err(error),
                    Err(_) => {}
                }
            }
        }
        Ok(states)
    }

    /// The tenant's exchanges, queues and bindings.
    pub fn topology(&self, scope: &TenantScope) -> Topology {
        Topology::new(self.lanes(scope.tenant()), Arc::clone(&self.recent_queues))
    }

    /// Issues a new certificate for a tenant, unless one was issued for this request, and replaces the tenant's
    /// connections. New connections are opened before the old ones are closed. Returns the certificate's expiry.
    ///
    /// # Errors
    /// When a new connection cannot be opened; the old ones are kept.
    pub async fn renew_credentials(&self, tenant: &TenantId, requested_at: i64) -> Result<SystemTime, Error> {
        let expires = self.context.renew(tenant, requested_at)?;
        let lanes = self.connections.read().unwrap_or_else(PoisonError::into_inner).get(tenant).map(Arc::clone);
        if let Some(lanes) = lanes {
            lanes.connections.renew_if_due().await?;
        }
        Ok(expires)
    }

    /// Records that a new certificate of a tenant was requested at this time on another gateway. The tenant's
    /// connections are replaced in the background.
    pub fn credentials_rotated(&self, tenant: &TenantId, requested_at: i64) {
        if self.context.certificates().rotated(tenant, requested_at) {
            self.renewal_due.notify_one();
        }
    }

    /// Uses the reloaded authority: the trusted certificates and the signer. Returns whether the signer has
    /// changed; if so, all tenants' connections are replaced in the background.
    ///
    /// # Errors
    /// When it cannot be trusted; then nothing changes.
    pub fn adopt_authority(&self, authority: Authority) -> Result<bool, rustls::Error> {
        let has_changed = self.context.adopt_authority(Arc::new(authority))?;
        if has_changed {
            self.renewal_due.notify_one();
        }
        Ok(has_changed)
    }

    /// Closes a tenant's connections at once, after it was suspended or deleted.
    pub async fn close_tenant(&self, tenant: &TenantId) {
        let lanes = self.connections.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
        if let Some(lanes) = lanes {
            lanes.connections.close().await;
        }
    }

    /// Closes all connections at shutdown, within about a second.
    pub async fn close(&self) {
        let all: Vec<_> = self.connections.write().unwrap_or_else(PoisonError::into_inner).drain().collect();
        // Concurrently, so that a broker that does not respond costs a second in total and not for each tenant.
        futures_util::future::join_all(all.iter().map(|(_, lanes)| lanes.connections.close())).await;
    }

    /// Waits until the task of a publish lane panics. Its messages are then settled as unknown.
    pub async fn lane_failed(&self) {
        // `self` owns the sender, so the channel is not closed.
        let _ = self.lane_failed.subscribe().wait_for(|has_failed| *has_failed).await;
    }

    pub(super) fn context(&self) -> &Arc<ConnectionContext> {
        &self.context
    }

    fn lanes(&self, tenant: &TenantId) -> Arc<Lanes> {
        if let Some(lanes) = self.connections.read().unwrap_or_else(PoisonError::into_inner).get(tenant) {
            return Arc::clone(lanes);
        }
        let mut all = self.connections.write().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let connections = Arc::new(TenantConnections::new(tenant.clone(), &self.context));
            let options = &self.context.options;
            let idle_timeout = LANE_IDLE_TIMEOUT.min(options.idle_timeout);
            let failed = self.lane_failed.clone();
            Arc::new(Lanes::new(connections, options.publish_deadline, idle_timeout, lane::start, failed))
        };
        Arc::clone(all.entry(tenant.clone()).or_insert_with(new))
    }
}

async fn state_of(connections: Arc<TenantConnections>, name: QueueName) -> (QueueName, Result<QueueState, Error>) {
    let state = topology::queue_state(&connections, name.as_str()).await;
    (name, state)
}

/// Replaces connections whose certificate is outdated, closes idle ones, and removes the entries of tenants that have
/// none.
async fn maintain(
    connections: Weak<ConnectionMap>,
    timeout: Duration,
    renewal_due: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval((timeout / 4).clamp(Duration::from_millis(100), Duration::from_secs(10)));
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = renewal_due.notified() => {}
            () = stop.cancelled() => return,
        }
        let Some(map) = connections.upgrade() else { return };
        let all: Vec<_> = map.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect();
        let map = &map;
        let maintenance = futures_util::stream::iter(all).for_each_concurrent(CONCURRENT_MAINTENANCE, async |lanes| {
            let tenant = &lanes.connections;
            // A connection that cannot be replaced now is tried again in the next round; the old one is kept until
            // then.
            let _ = tenant.renew_if_due().await;
            let publish = tenant.publish.close_if_idle(timeout).await;
            let consume = tenant.consume.close_if_idle(timeout).await;
            if publish && consume {
                let mut map = map.write().unwrap_or_else(PoisonError::into_inner);
                // Only the map and this task have a reference to the lanes, and only the lanes to the connections, so
                // no stream uses them.
                if Arc::strong_count(&lanes) == 2 && Arc::strong_count(tenant) == 1 {
                    map.remove(&tenant.tenant);
                }
            }
        });
        maintenance.await;
    }
}
