//! The composition root: creates the components of a gateway from a [`Config`], binds its ports, and starts its tasks.
//!
//! Ports are bound before anything is served. Nothing is global: two gateways can run in one process, as they do in the
//! tests.

mod parts;
mod record;
mod supervisor;
mod watch;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use secrecy::SecretString;
use tokio::time::{Instant, timeout_at};

use self::{
    parts::Parts,
    supervisor::{Supervisor, TaskGroup},
};
use crate::{
    auth,
    broker::Broker,
    config::{Config, Network},
    console::{self, Console},
    long_work,
    names::ClientId,
    pki,
    provision::{watch_queues, watch_stored},
    store,
    stream::drain::Drain,
    telemetry::{self, ListenerKind, MetricsPush, Traces},
    transport::{
        self, Api, ConnectionLimits, Connections, GrpcListener, Listener, ServerIdentity,
        ops::{self, OpsState, Readiness},
    },
};

/// How often the registry polls the store for changes without a notification.
const REGISTRY_POLL: Duration = Duration::from_millis(200);
/// How long writing the last audit events may take at shutdown.
const AUDIT_GRACE: Duration = Duration::from_secs(5);
/// How long before the drain deadline the remaining streams are ended.
const CUT_BEFORE_DEADLINE: Duration = Duration::from_secs(5);
/// How long connections stay open after the beginning of a drain, so that new streams are refused with a reason. After
/// that they get GOAWAY, and clients connect to another gateway.
const GOAWAY_GRACE: Duration = Duration::from_secs(1);
/// How long unary calls may take after the last stream.
const UNARY_GRACE: Duration = Duration::from_secs(1);

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port is in use.
    #[error("cannot listen on {address}: {source}; stop the program that uses it, or configure another address")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The server's certificate is invalid.
    #[error("the gateway's certificate: {0}")]
    Tls(#[from] transport::TlsError),
    /// The broker CA is invalid.
    #[error("the broker CA ({path:?}): {source}", path = .1, source = .0)]
    Authority(#[source] pki::Error, PathBuf),
    /// rustls does not accept the broker CA.
    #[error("the broker CA cannot be used: {0}")]
    Roots(#[from] rustls::Error),
    /// The store cannot be opened.
    #[error("the store: {0}")]
    Store(#[from] store::Error),
    /// The issuer cannot be started.
    #[error("the token issuer: {0}")]
    Auth(#[from] auth::Error),
    /// Metrics or traces cannot be set up.
    #[error("telemetry: {0}")]
    Telemetry(#[from] telemetry::Error),
    /// The client of the management API cannot be created.
    #[error("the broker's management API: {0}")]
    Provision(#[from] crate::provision::Error),
    /// The console cannot be set up.
    #[error("the console: {0}")]
    Console(#[from] console::Error),
}

/// A running gateway.
pub struct RunningGateway {
    grpc: SocketAddr,
    ops: SocketAddr,
    metrics: Option<SocketAddr>,
    console: Option<SocketAddr>,
    issuer: String,
    first_administrator: Option<(ClientId, SecretString)>,
    readiness: Readiness,
    drain: Drain,
    drain_limit: Duration,
    broker: Broker,
    traces: Traces,
    supervisor: Supervisor,
    /// Tasks that end at the beginning of a drain.
    serving: TaskGroup,
    /// Tasks that end when the broker's connections are closed: the operations listener reports the drain until then,
    /// and the last streams are audited.
    closing: TaskGroup,
}

/// Starts a gateway.
pub struct Gateway;

impl Gateway {
    /// Binds the ports, connects to the store, and serves. The broker need not be reachable: streams wait for it, and
    /// the gateway is not ready.
    ///
    /// # Errors
    /// When a port is in use, a file is invalid, or the store cannot be opened.
    pub async fn start(mut config: Config) -> Result<RunningGateway, Error> {
        long_work::use_for_decoding();
        let (grpc_listener, grpc) = bind(config.grpc.listen, ListenerKind::Grpc).await?;
        let (ops_listener, ops) = bind(config.ops.listen, ListenerKind::Ops).await?;
        let metrics_listener = match config.ops.metrics_listen {
            Some(address) => Some(bind(address, ListenerKind::Metrics).await?),
            None => None,
        };
        let console_listener = match config.console.listen {
            Some(address) => Some(bind(address, ListenerKind::Console).await?),
            None => None,
        };
        config.auth.issuer = real_issuer(&config, ops);
        let grpc_identity = ServerIdentity::load(&config.grpc.certificate, &config.grpc.key)?;
        let ops_identity = optional_identity(config.ops.certificate.as_deref(), config.ops.key.as_deref())?;
        let console_identity = optional_identity(config.console.certificate.as_deref(), config.console.key.as_deref())?;
        let parts = Parts::create(&config).await?;
        let metrics_push =
            MetricsPush::new(parts.metrics.clone(), &config.telemetry.metrics, &config.telemetry.traces.service_name)?;
        parts.watch_metrics(&config);

        let readiness = Readiness::new();
        let drain = Drain::new(for_streams(config.limits.drain_deadline));
        let supervisor = Supervisor::new(readiness.clone());
        let serving = supervisor.group();
        let closing = supervisor.group();

        let (grpc_limits, ops_limits, console_limits) = connection_limits(&config);
        let grpc_server =
            GrpcListener { listener: grpc_listener, tls: grpc_identity.server_config(), connections: grpc_limits };
        let entry = parts::entry(grpc);
        let services = parts.services(&config, &drain, &readiness, &entry);
        let admin = services.admin.clone();
        let api = Api::new(services, &config.grpc, &config.limits);
        serve_grpc(&serving, api.clone(), &config, grpc_server, drain.clone());
        serving.spawn("reconciliation", admin.reconcile_periodically(config.broker.reconcile_interval, serving.stop()));
        let ops_state =
            OpsState::new(Arc::clone(&parts.issuer), readiness.clone(), parts.metrics.clone(), parts.audit.clone());
        let ops_tls = ops_identity.as_ref().map(ServerIdentity::server_config);
        let process = parts.metrics.process();
        let serve = |router, listener, limits| {
            transport::serve_http(router, listener, ops_tls.clone(), limits, Arc::clone(process), closing.stop())
        };
        let metrics_address = metrics_listener.as_ref().map(|(_, address)| *address);
        if let Some((listener, _)) = metrics_listener {
            let router = ops::metrics_router(ops_state.clone());
            closing.spawn("metrics listener", serve(router, listener, ops_limits.clone()));
        }
        let router = ops::router(ops_state, metrics_address.is_none());
        closing.spawn("operations listener", serve(router, ops_listener, ops_limits));
        let console_address = console_listener.as_ref().map(|(_, address)| *address);
        if let Some((listener, address)) = console_listener {
            let router =
                Console::new(api, parts.store.clone(), parts.audit.clone(), &config, address, serving.stop())?.router();
            let (tls, process) = (console_identity.as_ref().map(ServerIdentity::server_config), Arc::clone(process));
            let served = transport::serve_http(router, listener, tls, console_limits, process, serving.stop());
            serving.spawn("console listener", served);
        }
        if let Some(push) = metrics_push {
            closing.spawn("metrics export", push.run(closing.stop().cancelled_owned()));
        }
        // A gateway that drains still has streams, so it is listed until the end.
        closing.spawn("gateway record", record::keep(parts.store.clone(), entry, closing.stop()));
        serving.spawn("grpc certificate", grpc_identity.watch(serving.stop()));
        if let Some(identity) = ops_identity {
            serving.spawn("operations certificate", identity.watch(serving.stop()));
        }
        if let Some(identity) = console_identity {
            serving.spawn("console certificate", identity.watch(serving.stop()));
        }
        let (broker, traces) = (parts.broker.clone(), parts.traces.clone());
        let first_administrator = watch(parts, &config, &readiness, &serving, &closing);
        Ok(RunningGateway {
            grpc,
            ops,
            metrics: metrics_address,
            console: console_address,
            issuer: config.auth.issuer,
            first_administrator,
            readiness,
            drain,
            drain_limit: config.limits.drain_deadline,
            broker,
            traces,
            supervisor,
            serving,
            closing,
        })
    }
}

async fn bind(address: SocketAddr, kind: ListenerKind) -> Result<(Listener, SocketAddr), Error> {
    let failed = |source| Error::Bind { address, source };
    let listener = Listener::bind(address, kind).await.map_err(failed)?;
    let address = listener.address().map_err(failed)?;
    Ok((listener, address))
}

/// The certificate and the key of a listener for which they are optional.
fn optional_identity(certificate: Option<&Path>, key: Option<&Path>) -> Result<Option<ServerIdentity>, Error> {
    Ok(match (certificate, key) {
        (Some(certificate), Some(key)) => Some(ServerIdentity::load(certificate, key)?),
        _ => None,
    })
}

/// The limits of the gRPC listener, the operations listener and the console's listener.
fn connection_limits(config: &Config) -> (ConnectionLimits, ConnectionLimits, ConnectionLimits) {
    let limits = &config.limits;
    let of = |connections, trusted_proxies: &[Network]| ConnectionLimits {
        connections,
        handshake_timeout: limits.handshake_timeout,
        idle_timeout: limits.idle_timeout,
        unauthenticated_timeout: limits.unauthenticated_timeout,
        body_timeout: Some(limits.unauthenticated_timeout),
        trusted_proxies: trusted_proxies.into(),
    };
    let grpc = Connections::new(
        limits.max_connections,
        limits.max_connections_per_address,
        limits.max_unauthenticated_connections_per_address,
    );
    let (ops, console) = (grpc.for_other_listener(), grpc.for_other_listener());
    (
        of(grpc, &config.grpc.trusted_proxies),
        of(ops, &config.ops.trusted_proxies),
        // The console reads bodies of users only, except at the sign-in, and users have more time.
        ConnectionLimits { body_timeout: None, ..of(console, &config.console.trusted_proxies) },
    )
}

fn serve_grpc(tasks: &TaskGroup, api: Api, config: &Config, listener: GrpcListener, drain: Drain) {
    let (limits, stop) = (config.limits.clone(), tasks.stop());
    tasks.spawn("grpc listener", async move {
        let goaway = async {
            // Clients need the connection to open a new stream; an idle gateway ends it at once.
            let _ = tokio::time::timeout(GOAWAY_GRACE, drain.streams_ended()).await;
        };
        Box::pin(transport::serve(api, &limits, listener, stop, goaway)).await;
    });
}

/// Starts the tasks that watch files, the store and the broker.
fn watch(
    parts: Parts,
    config: &Config,
    readiness: &Readiness,
    serving: &TaskGroup,
    closing: &TaskGroup,
) -> Option<(ClientId, SecretString)> {
    let Parts { issuer, tenants, broker, provisioner, inspector, metrics, .. } = parts;
    // It ends after the last stream, which may still have refusals to record.
    closing.spawn("audit writer", parts.audit_writer.run(closing.stop()));
    let authority = watch::authority(parts.authority_files, config.broker.clone(), broker.clone(), serving.stop());
    serving.spawn("broker authority", authority);
    let (lanes, stop) = (broker.clone(), closing.stop());
    closing.spawn("publish lanes", async move {
        tokio::select! {
            () = lanes.lane_failed() => {}
            () = stop.cancelled() => {}
        }
    });
    serving.spawn("broker credentials", watch::credentials(Arc::clone(&tenants), broker, serving.stop()));
    serving.spawn("queue figures", watch_queues(Arc::clone(&provisioner), metrics, serving.stop()));
    serving.spawn("stored messages", watch_stored(Arc::clone(&provisioner), Arc::clone(&tenants), serving.stop()));
    serving.spawn("broker readiness", watch::broker(Arc::clone(&provisioner), readiness.clone(), serving.stop()));
    let stop = serving.stop();
    serving.spawn("provisioner files", async move { provisioner.watch_files(stop).await });
    let stop = serving.stop();
    serving.spawn("inspector files", async move { inspector.watch_files(stop).await });
    let (verifier, stop) = (issuer.verifier(), serving.stop());
    serving.spawn("external issuers", async move {
        verifier.refresh_issuers(stop.clone()).await;
        // Without external issuers, there are no keys to refresh.
        stop.cancelled().await;
    });
    serving.spawn("signing keys", watch::signing_keys(issuer, tenants.revision(), serving.stop()));
    let stop = serving.stop();
    serving.spawn("registry", async move { tenants.watch(stop).await });
    parts.first_administrator
}

impl RunningGateway {
    /// The address of gRPC.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// The address of tokens, keys, probes and, unless they have a separate listener, metrics.
    pub fn ops_address(&self) -> SocketAddr {
        self.ops
    }

    /// The address of metrics and probes, if they have a separate listener.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// The address of the web console, if it is on.
    pub fn console_address(&self) -> Option<SocketAddr> {
        self.console
    }

    /// The `iss` of the gateway's tokens. All gateways of one store must have the same.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The traces of the gateway.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// The first administrator and its secret, if this start created it. They cannot be read again.
    pub fn take_first_administrator(&mut self) -> Option<(ClientId, SecretString)> {
        self.first_administrator.take()
    }

    /// Waits until a background task fails, that is ends or panics while the gateway is running, and returns its name.
    /// The gateway is not ready from then on and should be shut down.
    pub async fn failed(&self) -> &'static str {
        self.supervisor.failed().await
    }

    /// The names of the background tasks, for tests.
    #[doc(hidden)]
    pub fn task_names(&self) -> Vec<&'static str> {
        self.supervisor.names()
    }

    /// Makes a background task panic, for tests.
    #[doc(hidden)]
    pub fn kill_task(&self, name: &str) {
        self.supervisor.kill(name);
    }

    /// Reports the drain everywhere, accepts nothing new, and waits for the streams. Near the drain deadline the
    /// remaining streams are ended, and at the deadline the function returns in any case.
    pub async fn shutdown(self) {
        let end = Instant::now() + self.drain_limit;
        let _not_ready = self.readiness.block("draining");
        self.drain.begin();
        self.serving.stop().cancel();
        let streams = Instant::now() + for_streams(self.drain_limit);
        if timeout_at(streams, self.drain.streams_ended()).await.is_err() {
            tracing::warn!("ending the streams that did not end in time");
            self.drain.cut();
            let hand_back = streams + (end - streams) / 2;
            let _ = timeout_at(hand_back, self.drain.streams_ended()).await;
        }
        // After the unary calls, only sockets with unresponsive peers are left; they end with the process.
        let unary = end.min(Instant::now() + UNARY_GRACE);
        let _ = timeout_at(unary, self.serving.ended()).await;
        let _ = timeout_at(end, self.broker.close()).await;
        self.closing.stop().cancel();
        // The last metrics, audit events and spans; a collector that does not respond must not delay the end of the
        // process.
        let closing = end.min(Instant::now() + AUDIT_GRACE);
        let _ = timeout_at(
            end,
            futures_util::future::join(self.traces.shutdown(), timeout_at(closing, self.closing.ended())),
        )
        .await;
    }
}

/// How much of a drain is for streams: all but the time to requeue unsettled messages and to close the broker's
/// connections.
fn for_streams(limit: Duration) -> Duration {
    limit - CUT_BEFORE_DEADLINE.min(limit / 2)
}

/// By default, the issuer is the address of the operations listener, whose port may be known only after binding.
fn real_issuer(config: &Config, ops: SocketAddr) -> String {
    let scheme = if config.ops.certificate.is_some() { "https" } else { "http" };
    match config.auth.issuer == format!("{scheme}://{}", config.ops.listen) {
        true => format!("{scheme}://{ops}"),
        false => config.auth.issuer.clone(),
    }
}
