//! The gRPC listener: the services behind limits, authentication and gRPC-Web.
//!
//! A request reaches a service with its [`crate::auth::Caller`] in its extensions, unless its path needs no token.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Request};
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, codec::CompressionEncoding, service::Routes, transport::server::TcpConnectInfo};
use tonic_health::pb::health_server::HealthServer;
use tonic_web::GrpcWebLayer;
use tower::{Service as _, ServiceBuilder, service_fn, util::BoxCloneSyncService};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::{
    ConnectionLimits, Listener,
    anonymous::Anonymous,
    audit_layer::AuditLayer,
    authenticate::AuthenticateLayer,
    body_limits::BodyLimitsLayer,
    connection::{Accepted, CloseReason, Protocol},
    deadline::DeadlineLayer,
    health::HealthService,
    http1,
    http2::{self, Http2Limits},
    open_calls::OpenCalls,
    protocol_check,
    trace::TraceLayer,
    unread,
};
use crate::{
    audit::Audit,
    auth::Verifier,
    config::{GrpcConfig, LimitsConfig},
    memory::TenantBudgets,
    pb::{
        self, FILE_DESCRIPTOR_SET, admin_server::AdminServer, auth_server::AuthServer,
        messaging_server::MessagingServer, topology_server::TopologyServer,
    },
    service::{self, AdminService, AuthService, MessagingService, TopologyService},
    stream::connection_end::ConnectionEnd,
    telemetry::{ProcessMetrics, Traces},
};

/// The maximum size of a request in addition to its largest body: headers, properties, and a frame's other messages.
const REQUEST_OVERHEAD: usize = 4 * 1024 * 1024;
/// The maximum size of a request that needs no token.
const OPEN_REQUEST: usize = 64 * 1024;
/// The maximum size of an administrator's request.
const ADMIN_REQUEST: usize = 1024 * 1024;

/// The services of a gateway, and the dependencies of its layers.
pub struct Services {
    /// The data plane.
    pub messaging: MessagingService,
    /// Exchanges, queues and bindings.
    pub topology: TopologyService,
    /// Tokens.
    pub auth: AuthService,
    /// Tenants, clients and plans.
    pub admin: AdminService,
    /// Verifies tokens.
    pub verifier: Arc<Verifier>,
    /// Records refusals.
    pub audit: Audit,
    /// Traces calls.
    pub traces: Traces,
    /// Counts calls, tokens and connections.
    pub metrics: Arc<ProcessMetrics>,
    /// Bounds what is buffered.
    pub memory: TenantBudgets,
}

/// The services behind their layers.
pub(super) type LayeredService = BoxCloneSyncService<Request<Body>, http::Response<Body>, Infallible>;

/// The services behind the layers that authenticate, limit, trace and audit every call. Cloning is cheap.
#[derive(Clone)]
pub struct Api {
    pub(super) service: LayeredService,
    serving: watch::Sender<bool>,
    metrics: Arc<ProcessMetrics>,
    memory: TenantBudgets,
    anonymous_memory: TenantBudgets,
    reflection_memory: TenantBudgets,
}

impl Api {
    /// Puts the layers around the services.
    pub fn new(services: Services, grpc: &GrpcConfig, limits: &LimitsConfig) -> Self {
        let (serving, is_serving) = watch::channel(true);
        let metrics = Arc::clone(&services.metrics);
        let anonymous = Anonymous::new(services.memory.gateway());
        let (anonymous_memory, reflection_memory) = (anonymous.memory(), anonymous.reflection());
        let layers = ServiceBuilder::new()
            .layer(cors(&grpc.cors_origins))
            .layer_fn(protocol_check::ProtocolCheck)
            .map_response(unread::keep)
            .layer(GrpcWebLayer::new())
            .layer(TraceLayer { traces: services.traces.clone(), metrics: Arc::clone(&services.metrics) })
            .layer(AuditLayer::new(services.audit.clone()))
            .layer(DeadlineLayer)
            .layer(AuthenticateLayer::new(Arc::clone(&services.verifier), Arc::clone(&services.metrics)))
            .layer(BodyLimitsLayer {
                tenants: services.memory.clone(),
                anonymous: anonymous.clone(),
                open_calls: OpenCalls::default(),
                streaming: Arc::new(pb::client_streaming_paths().into_iter().collect()),
                server_streaming: Arc::new(pb::server_streaming_paths().into_iter().collect()),
                largest: limits.max_message_bytes + REQUEST_OVERHEAD,
                request_timeout: limits.request_timeout,
                open_timeout: limits.unauthenticated_timeout,
            })
            .map_response(map_decode_errors);
        let memory = services.memory.clone();
        let service = layers.service(routes(services, grpc, limits, is_serving, anonymous));
        let service = BoxCloneSyncService::new(service);
        Self { service, serving, metrics, memory, anonymous_memory, reflection_memory }
    }
}

impl Api {
    /// The memory budgets of the services.
    pub fn memory(&self) -> &TenantBudgets {
        &self.memory
    }
}

/// The gRPC listener, bound and configured.
pub struct GrpcListener {
    /// The port.
    pub listener: Listener,
    /// Certificates.
    pub tls: Arc<ServerConfig>,
    /// Limits of its connections.
    pub connections: ConnectionLimits,
}

/// Serves until `stop` is cancelled, and then until the last connection has ended. Connections get GOAWAY when
/// `goaway` is ready; until then, a new stream on one of them is refused with a reason and a retry delay.
pub async fn serve(
    api: Api,
    limits: &LimitsConfig,
    listener: GrpcListener,
    stop: CancellationToken,
    goaway: impl Future<Output = ()>,
) {
    let Api { service, serving, metrics, memory: _, anonymous_memory, reflection_memory } = api;
    let http2 = Http2Limits {
        max_streams: limits.max_streams_per_connection,
        keepalive_interval: limits.keepalive_interval,
        keepalive_timeout: limits.keepalive_timeout,
        close_timeout: limits.handshake_timeout,
    };
    let close = CancellationToken::new();
    let connections = listener.connections.clone();
    let serve = {
        let close = close.clone();
        move |accepted: Accepted| {
            let Accepted { io, protocol, peer } = accepted;
            let (mut service, close, http2, limits) =
                (service.clone(), close.clone(), http2.clone(), connections.clone());
            let network = peer.network();
            let anonymous_memory = anonymous_memory.of(&network);
            let reflection_memory = reflection_memory.of(&network);
            async move {
                let activity = peer.activity.clone();
                let connection_end = ConnectionEnd::default();
                let of_requests = connection_end.clone();
                let remote = TcpConnectInfo { local_addr: None, remote_addr: Some(peer.address) };
                let service = service_fn(move |mut request: Request<Body>| {
                    // The extension in which tonic and the layers expect the address.
                    request.extensions_mut().insert(remote.clone());
                    request.extensions_mut().insert(peer.clone());
                    request.extensions_mut().insert(of_requests.clone());
                    service.call(request)
                });
                let close = async {
                    tokio::select! {
                        () = close.cancelled() => CloseReason::Shutdown,
                        reason = activity.is_idle(limits.idle_timeout, limits.unauthenticated_timeout) => reason,
                    }
                };
                match protocol {
                    Protocol::Http1 => {
                        let mut service = service;
                        let service = service_fn(move |request: Request<_>| service.call(request.map(Body::new)));
                        http1::serve(io, service, limits.idle_timeout.min(HEADER_TIMEOUT), &activity, close).await
                    }
                    Protocol::Http2 => {
                        let memory = |path: &str| match path.starts_with(http2::REFLECTION) {
                            true => reflection_memory.clone(),
                            false => anonymous_memory.clone(),
                        };
                        let reason = http2::serve(io, service, &http2, &activity, memory, close).await;
                        if matches!(reason, CloseReason::Flood | CloseReason::Protocol) {
                            connection_end.set_closed_by_gateway();
                        }
                        reason
                    }
                }
            }
        }
    };
    let drain = async {
        stop.cancelled().await;
        // Health checks on open connections report it; new connections are not accepted any more.
        let _ = serving.send(false);
        goaway.await;
        close.cancel();
    };
    let serving = listener.listener.serve(Some(listener.tls), listener.connections, metrics, stop.clone(), serve);
    tokio::join!(serving, drain);
}

/// How long the headers of an HTTP/1.1 request may take, and how long a connection is kept between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

fn routes(
    services: Services,
    grpc: &GrpcConfig,
    limits: &LimitsConfig,
    is_serving: watch::Receiver<bool>,
    anonymous: Anonymous,
) -> Routes {
    const GZIP: CompressionEncoding = CompressionEncoding::Gzip;
    let largest = limits.max_message_bytes + REQUEST_OVERHEAD;
    let health = HealthService::new(is_serving, anonymous);
    // Most gRPC libraries accept gzip without being configured to, and compressing each frame of a stream costs both sides
    // more than sending it.
    let messaging = MessagingServer::new(services.messaging).max_decoding_message_size(largest).accept_compressed(GZIP);
    let mut routes = Routes::new(messaging)
        .add_service(
            TopologyServer::new(services.topology)
                .max_decoding_message_size(ADMIN_REQUEST)
                .accept_compressed(GZIP)
                .send_compressed(GZIP),
        )
        .add_service(
            AuthServer::new(services.auth)
                .max_decoding_message_size(OPEN_REQUEST)
                .accept_compressed(GZIP)
                .send_compressed(GZIP),
        )
        .add_service(
            AdminServer::new(services.admin)
                .max_decoding_message_size(ADMIN_REQUEST)
                .accept_compressed(GZIP)
                .send_compressed(GZIP),
        )
        .add_service(HealthServer::new(health).max_decoding_message_size(OPEN_REQUEST).accept_compressed(GZIP));
    if grpc.reflection {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        };
        // Some tools only support the older version.
        match (builder().build_v1(), builder().build_v1alpha()) {
            (Ok(v1), Ok(v1alpha)) => {
                routes = routes
                    .add_service(v1.max_decoding_message_size(OPEN_REQUEST).accept_compressed(GZIP))
                    .add_service(v1alpha.max_decoding_message_size(OPEN_REQUEST).accept_compressed(GZIP));
            }
            // Compiled in, so it is always valid; without it, everything else still works.
            (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "reflection is not served"),
        }
    }
    routes.prepare()
}

/// Corrects the status of unary requests that tonic cannot decode, which it reports as server errors.
fn map_decode_errors(response: http::Response<Body>) -> http::Response<Body> {
    match Status::from_header_map(response.headers()).and_then(|status| service::malformed(&status)) {
        Some(failure) => Status::from(failure).into_http(),
        None => response,
    }
}

/// Disabled unless origins are configured. gRPC-Web sends the status in headers, which pages can only read if they are
/// exposed.
fn cors(origins: &[String]) -> CorsLayer {
    if origins.is_empty() {
        return CorsLayer::new();
    }
    let origins: Vec<_> = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([http::Method::POST])
        // Listed by name, because an asterisk does not include `authorization`.
        .allow_headers(
            ["authorization", "content-type", "x-grpc-web", "x-user-agent", "grpc-timeout", "connect-protocol-version"]
                .into_iter()
                .chain(["traceparent", "tracestate"])
                .map(HeaderName::from_static)
                .collect::<Vec<_>>(),
        )
        .expose_headers(
            ["grpc-status", "grpc-message", "grpc-status-details-bin", "x-trace-id"].map(HeaderName::from_static),
        )
        .max_age(Duration::from_secs(3600))
}
