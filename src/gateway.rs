//! The composition root: a [`Config`] enters, everything is made in flow order, ports are bound before anything is served,
//! and a [`Running`] gateway with its real addresses leaves. Nothing is global: two gateways live side by side in one
//! process, which is how the tests run them.

mod follow;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use secrecy::SecretString;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    audit::Audit,
    auth::{self, Issuer},
    broker::Broker,
    config::Config,
    names::ClientId,
    pb,
    pki::{self, Authority, TenantCertificates, Watched},
    provision::{Inspector, Provisioner, watch_stored},
    service::{AdminService, AuthService, MessagingService, TopologyService},
    store::{self, EncryptionKey, Store},
    stream::{
        drain::Drain,
        session::SessionContext,
        subscribe::{Policies, SubscribeContext},
    },
    telemetry::{self, Certificate, Metrics, MetricsPush, Traces},
    tenant::Tenants,
    transport::{
        self, Connections, Listener, Manners, ServerIdentity, Services,
        ops::{self, OpsState, Readiness},
    },
};

/// How long another gateway's administrative act may go unnoticed.
const REGISTRY_POLL: Duration = Duration::from_millis(500);
/// How long the last refusals may take to be written.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);
/// How long before the drain deadline streams are cut.
const GOODBYE: Duration = Duration::from_secs(5);
/// How long connections stay after the beginning of a drain, so that a new stream is told why it is refused; then they are
/// told to go away, and clients make new ones, to another gateway.
const LAST_REFUSALS: Duration = Duration::from_secs(1);
/// How long calls that are no streams may take after the last stream.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port is taken.
    #[error("cannot listen on {address}: {source}; stop what is there, or configure another address")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The server's certificate.
    #[error("the gateway's certificate: {0}")]
    Tls(#[from] transport::TlsError),
    /// The broker CA.
    #[error("the broker CA ({path:?}): {source}", path = .1, source = .0)]
    Authority(#[source] pki::Error, PathBuf),
    /// The broker CA is refused by rustls.
    #[error("the broker CA is not usable: {0}")]
    Roots(#[from] rustls::Error),
    /// The store.
    #[error("the store: {0}")]
    Store(#[from] store::Error),
    /// The issuer.
    #[error("the token issuer: {0}")]
    Auth(#[from] auth::Error),
    /// Metrics or traces.
    #[error("telemetry: {0}")]
    Telemetry(#[from] telemetry::Error),
    /// The management API.
    #[error("the broker's management API: {0}")]
    Provision(#[from] crate::provision::Error),
}

/// A gateway that serves.
pub struct Running {
    grpc: SocketAddr,
    ops: SocketAddr,
    issuer: String,
    first_administrator: Option<(ClientId, SecretString)>,
    readiness: Readiness,
    drain: Drain,
    drain_limit: Duration,
    stop: CancellationToken,
    closed: CancellationToken,
    broker: Broker,
    traces: Traces,
    tasks: Vec<JoinHandle<()>>,
    ops_task: JoinHandle<()>,
    audit_task: JoinHandle<()>,
    push_task: Option<JoinHandle<()>>,
}

/// Starts a gateway.
pub struct Gateway;

impl Gateway {
    /// Binds, connects to the store, and serves. The broker is not needed to start: streams wait for it, and readiness says
    /// so.
    ///
    /// # Errors
    /// When a port is taken, a file is wrong, or the store cannot be opened.
    pub async fn start(mut config: Config) -> Result<Running, Error> {
        let bind = async |address| Listener::bind(address).await.map_err(|source| Error::Bind { address, source });
        let grpc_listener = bind(config.grpc.listen).await?;
        let ops_listener = bind(config.ops.listen).await?;
        let address =
            |listener: &Listener, address| listener.address().map_err(|source| Error::Bind { address, source });
        let grpc = address(&grpc_listener, config.grpc.listen)?;
        let ops = address(&ops_listener, config.ops.listen)?;
        config.auth.issuer = real_issuer(&config, ops);
        let identity = ServerIdentity::load(&config.grpc.certificate, &config.grpc.key)?;
        let tls = identity.server_config();

        let metrics = Metrics::new(pb::method_paths());
        let store = Store::open(&config.store.url, EncryptionKey::parse(&config.store.encryption_key)?).await?;
        let store = store.timed_by(Arc::clone(metrics.process().store()));
        let (audit, keeper) = Audit::new(store.clone(), &config.audit);
        let issuer = Arc::new(Issuer::start(store.clone(), &config.auth).await?);
        let first_administrator = Issuer::bootstrap_admin(&store).await?;
        let tenants =
            Arc::new(Tenants::load(store.clone(), REGISTRY_POLL).await?.with_outage_grace(config.store.outage_grace));

        // Before it is read, so that no change is missed.
        let authority_files = Watched::new([config.broker.ca_certificate.clone(), config.broker.ca_key.clone()]);
        let authority = Authority::load(&config.broker.ca_certificate, &config.broker.ca_key)
            .map_err(|error| Error::Authority(error, config.broker.ca_certificate.clone()))?;
        let certificates = Arc::new(TenantCertificates::new(Arc::new(authority), config.broker.certificate_lifetime));
        let broker = Broker::new(config.broker.clone(), Arc::clone(&certificates), Arc::clone(metrics.process()))?;
        let provisioner = Arc::new(Provisioner::new(&config.management, &config.broker.ca_certificate)?);
        let inspector = Arc::new(Inspector::new(&config.management, &config.broker.ca_certificate)?);

        let traces = Traces::start(&config.telemetry.traces)?;
        let readiness = Readiness::new();
        let ops_identity = match (&config.ops.certificate, &config.ops.key) {
            (Some(certificate), Some(key)) => Some(ServerIdentity::load(certificate, key)?),
            _ => None,
        };
        let ops_tls = ops_identity.as_ref().map(ServerIdentity::server_config);

        let stop = CancellationToken::new();
        // The ops side goes last: it is what says that the gateway drains.
        let closed = CancellationToken::new();
        let drain = Drain::new(for_streams(config.limits.drain_deadline));
        let session = SessionContext {
            verifier: issuer.verifier(),
            warn_before: config.auth.warn_before_expiry,
            drain: drain.clone(),
            metrics: metrics.clone(),
            traces: traces.clone(),
            max_body_bytes: config.limits.max_message_bytes as u64,
        };
        let policies = Policies::new(Arc::clone(&inspector));
        let subscribe = SubscribeContext {
            broker: broker.clone(),
            inspector: Arc::clone(&inspector),
            policies: policies.clone(),
            heartbeat_interval: config.limits.heartbeat_interval,
        };
        let admin = AdminService::new(
            store,
            Arc::clone(&tenants),
            Arc::clone(&provisioner),
            broker.clone(),
            audit.clone(),
            Arc::clone(&issuer),
        );
        let reconciling = admin.clone().reconcile_periodically(config.broker.reconcile_interval, stop.clone());
        let services = Services {
            messaging: MessagingService::new(Arc::clone(&tenants), session.clone(), subscribe),
            topology: TopologyService::new(
                Arc::clone(&tenants),
                broker.clone(),
                Arc::clone(&inspector),
                policies,
                session,
            ),
            auth: AuthService::new(Arc::clone(&issuer), Arc::clone(&tenants)),
            admin,
            verifier: issuer.verifier(),
            audit: audit.clone(),
            traces: traces.clone(),
            metrics: Arc::clone(metrics.process()),
        };
        metrics.before_each_reading({
            let (issuer, tenants, traces) = (Arc::clone(&issuer), Arc::clone(&tenants), traces.clone());
            let config = config.clone();
            move |metrics| {
                // Files are renewed while the gateway runs.
                certificates_end(metrics, &config);
                authorities_end(metrics, &certificates.authority());
                let (running, waiting) = issuer.secret_checks();
                metrics.process().secret_checks(running, waiting);
                if let Some(end) = certificates.earliest_end() {
                    metrics.process().certificate_ends(Certificate::Tenants, end);
                }
                metrics.process().spans_dropped(traces.dropped());
                metrics.keep_tenants(|tenant| tenants.knows(tenant));
            }
        });

        let manners = |idle| Manners {
            connections: Connections::new(config.limits.max_connections, config.limits.max_connections_per_address),
            handshake: config.limits.handshake_timeout,
            idle,
        };
        let connections = grpc_listener.accept(tls, manners(Some(config.limits.idle_timeout)), stop.clone());
        let mut tasks = Vec::new();
        tasks.push(tokio::spawn({
            let (config, stopped, drain) = (config.clone(), stop.clone().cancelled_owned(), drain.clone());
            async move {
                let goodbye = async move {
                    // Calls between two streams of a client have a connection for a moment; an idle gateway ends at once.
                    let _ = tokio::time::timeout(LAST_REFUSALS, drain.streams_ended()).await;
                };
                let served =
                    Box::pin(transport::serve(services, &config.grpc, &config.limits, connections, stopped, goodbye));
                if let Err(error) = served.await {
                    tracing::error!(%error, "the gRPC server failed");
                }
            }
        }));
        let pushing =
            MetricsPush::new(metrics.clone(), &config.telemetry.metrics, &config.telemetry.traces.service_name)?;
        let push_task = pushing.map(|it| tokio::spawn(it.run(closed.clone().cancelled_owned())));
        let ops_router = ops::router(OpsState::new(Arc::clone(&issuer), readiness.clone(), metrics, audit));
        let ops_task =
            tokio::spawn(transport::serve_ops(ops_router, ops_listener, ops_tls, manners(None), closed.clone()));
        // It ends after the last stream, which may still be refused something.
        let audit_task = tokio::spawn(keeper.run(closed.clone()));
        tasks.extend(
            [Some(identity), ops_identity].into_iter().flatten().map(|it| tokio::spawn(it.follow(stop.clone()))),
        );
        tasks.push(tokio::spawn(reconciling));
        tasks.push(tokio::spawn(follow::authority(
            authority_files,
            config.broker.clone(),
            broker.clone(),
            stop.clone(),
        )));
        tasks.push(tokio::spawn(follow::credentials(Arc::clone(&tenants), broker.clone(), stop.clone())));
        tasks.push(tokio::spawn({
            let (provisioner, stop) = (Arc::clone(&provisioner), stop.clone());
            async move { provisioner.follow_files(stop).await }
        }));
        tasks.push(tokio::spawn({
            let (inspector, stop) = (Arc::clone(&inspector), stop.clone());
            async move { inspector.follow_files(stop).await }
        }));
        tasks.push(tokio::spawn(watch_stored(Arc::clone(&provisioner), Arc::clone(&tenants), stop.clone())));
        tasks.push(tokio::spawn(follow::broker(provisioner, readiness.clone(), stop.clone())));
        tasks.push(tokio::spawn({
            let (verifier, stop) = (issuer.verifier(), stop.clone());
            async move { verifier.follow_issuers(stop).await }
        }));
        tasks.push(tokio::spawn(follow::signing_keys(issuer, tenants.revision(), stop.clone())));
        tasks.push(tokio::spawn({
            let (tenants, stop) = (Arc::clone(&tenants), stop.clone());
            async move { tenants.watch(stop).await }
        }));
        Ok(Running {
            grpc,
            ops,
            issuer: config.auth.issuer,
            first_administrator,
            readiness,
            drain,
            drain_limit: config.limits.drain_deadline,
            stop,
            closed,
            broker,
            traces,
            tasks,
            ops_task,
            audit_task,
            push_task,
        })
    }
}

impl Running {
    /// Where gRPC is served.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Where metrics, probes, keys and tokens are served.
    pub fn ops_address(&self) -> SocketAddr {
        self.ops
    }

    /// Who makes the tokens, as they say it. All gateways of one store must say the same.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Its traces.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// The first administrator and its secret, when this start made it. It cannot be had again.
    pub fn take_first_administrator(&mut self) -> Option<(ClientId, SecretString)> {
        self.first_administrator.take()
    }

    /// Says everywhere that it stops, takes nothing new, and waits for the streams. Near the drain deadline it cuts them, and
    /// at the deadline it is over, whatever a peer does or does not.
    pub async fn shutdown(self) {
        let end = Instant::now() + self.drain_limit;
        let _not_ready = self.readiness.block("draining");
        self.drain.begin();
        self.stop.cancel();
        let streams = Instant::now() + for_streams(self.drain_limit);
        if timeout_at(streams, self.drain.streams_ended()).await.is_err() {
            tracing::warn!("streams did not end in time and are cut");
            self.drain.cut();
            let hand_back = streams + (end - streams) / 2;
            let _ = timeout_at(hand_back, self.drain.streams_ended()).await;
        }
        // Calls that are no streams. What is left then is a socket whose peer is silent: it ends with the process.
        let calls = end.min(Instant::now() + LAST_CALLS);
        let _ = timeout_at(calls, futures_util::future::join_all(self.tasks)).await;
        let _ = timeout_at(end, self.broker.close()).await;
        self.closed.cancel();
        let _ = timeout_at(end.min(Instant::now() + LAST_CALLS), self.ops_task).await;
        // Refusals that were still being counted.
        let _ = timeout_at(end.min(Instant::now() + RECORD_PATIENCE), self.audit_task).await;
        // The last counts, and spans that were not sent yet; a collector that does not answer must not keep the process.
        let _ = timeout_at(
            end,
            futures_util::future::join(self.traces.shutdown(), async {
                if let Some(pushing) = self.push_task {
                    let _ = pushing.await;
                }
            }),
        )
        .await;
    }
}

/// How long streams have of a drain: all but what it takes to hand back what was cut, and to say goodbye to the broker.
fn for_streams(limit: Duration) -> Duration {
    limit - GOODBYE.min(limit / 2)
}

/// The issuer's address by default is that of the ops side, which is known only now when its port was left to the system.
fn real_issuer(config: &Config, ops: SocketAddr) -> String {
    let scheme = if config.ops.certificate.is_some() { "https" } else { "http" };
    match config.auth.issuer == format!("{scheme}://{}", config.ops.listen) {
        true => format!("{scheme}://{ops}"),
        false => config.auth.issuer.clone(),
    }
}

/// Says when the certificates in files end, as far as they can be read; whoever uses one says what is wrong with it.
fn certificates_end(metrics: &Metrics, config: &Config) {
    let files = [
        (Certificate::Gateway, Some(&config.grpc.certificate)),
        (Certificate::Ops, config.ops.certificate.as_ref()),
        (Certificate::Provisioner, Some(&config.management.certificate)),
    ];
    for (which, file) in files {
        let read = file.and_then(|file| std::fs::read_to_string(file).ok());
        if let Some(Ok(certificate)) = read.as_deref().map(pki::inspect) {
            metrics.process().certificate_ends(which, certificate.not_after());
        }
    }
}

/// The same of the broker's authority, as this gateway has taken it: whether it trusts two is what whoever rotates has to know.
fn authorities_end(metrics: &Metrics, authority: &Authority) {
    let process = metrics.process();
    process.certificate_ends(Certificate::BrokerCa, authority.inspection().not_after());
    match authority.trusted_der().get(1).map(|beside| pki::inspect_der(beside)) {
        Some(Ok(beside)) => process.certificate_ends(Certificate::BrokerCaBeside, beside.not_after()),
        _ => process.certificate_is_none(Certificate::BrokerCaBeside),
    }
}
