//! The tenants' door: the gRPC services behind limits, authentication and gRPC-Web. A request reaches a service with its
//! [`crate::auth::Caller`] in its extensions, or without one, and then only the calls that need none answer.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use http::{HeaderName, HeaderValue};
use tonic::{Request, Status, service::InterceptorLayer, transport::Server};
use tonic_web::GrpcWebLayer;
use tower::ServiceBuilder;
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::{listener::Accepted, trace::TraceLayer, witness::WitnessLayer};
use crate::{
    audit::{Audit, Witness},
    auth::{self, Caller, Verifier},
    config::{GrpcConfig, LimitsConfig},
    error::Failure,
    pb::{
        FILE_DESCRIPTOR_SET, admin_server::AdminServer, auth_server::AuthServer, messaging_server::MessagingServer,
        topology_server::TopologyServer,
    },
    service::{self, AdminService, AuthService, MessagingService, TopologyService},
    telemetry::{Call, ProcessMetrics, TokenCheck, Traces},
};

/// What a request may weigh beside its largest body: headers, properties, and a frame's other messages.
const REQUEST_OVERHEAD: usize = 4 * 1024 * 1024;
/// HTTP/2 header list of a request (RFC 9113, section 6.5.2).
const HEADER_LIST: u32 = 16 * 1024;

/// The services of a gateway.
pub struct Services {
    /// The data plane.
    pub messaging: MessagingService,
    /// Exchanges, queues, bindings.
    pub topology: TopologyService,
    /// Tokens.
    pub auth: AuthService,
    /// Tenants, clients, plans.
    pub admin: AdminService,
    /// Who believes tokens.
    pub verifier: Arc<Verifier>,
    /// Where refusals go.
    pub audit: Audit,
    /// Where calls are traced.
    pub traces: Traces,
    /// Where calls and tokens are counted.
    pub metrics: Arc<ProcessMetrics>,
}

/// Serves until `stop`, and then until the last connection ends. Connections are told to go away (GOAWAY) at `goodbye`: until
/// then a new stream on one of them is told why it is refused, and when to come again.
///
/// # Errors
/// When the transport fails as a whole.
pub async fn serve(
    services: Services,
    grpc: &GrpcConfig,
    limits: &LimitsConfig,
    connections: impl Stream<Item = std::io::Result<Accepted>>,
    stop: impl Future<Output = ()>,
    goodbye: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let largest = limits.max_message_bytes + REQUEST_OVERHEAD;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<MessagingServer<MessagingService>>().await;
    health.set_serving::<TopologyServer<TopologyService>>().await;
    let reflection = grpc.reflection.then(|| {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
    });
    let reflection = match reflection {
        Some(Ok(reflection)) => Some(reflection),
        Some(Err(error)) => {
            // Compiled in, so it cannot be wrong; without it everything else still works.
            tracing::error!(%error, "reflection is not served");
            None
        }
        None => None,
    };
    let (verifier, metrics) = (Arc::clone(&services.verifier), Arc::clone(&services.metrics));
    let layers = ServiceBuilder::new()
        .layer(cors(&grpc.cors_origins))
        .layer(GrpcWebLayer::new())
        .layer(TraceLayer { traces: services.traces.clone(), metrics: services.metrics })
        .layer(WitnessLayer::new(services.audit))
        .layer(InterceptorLayer::new(move |request| authenticate(&verifier, &metrics, request)))
        .map_response(blame_the_client)
        .into_inner();
    Server::builder()
        .accept_http1(true)
        .max_concurrent_streams(limits.max_streams_per_connection)
        .http2_keepalive_interval(Some(limits.keepalive_interval))
        .http2_keepalive_timeout(Some(limits.keepalive_timeout))
        .http2_adaptive_window(Some(true))
        .http2_max_header_list_size(HEADER_LIST)
        .http2_max_pending_accept_reset_streams(Some(64))
        .layer(layers)
        .add_service(MessagingServer::new(services.messaging).max_decoding_message_size(largest))
        .add_service(TopologyServer::new(services.topology))
        .add_service(AuthServer::new(services.auth).max_decoding_message_size(64 * 1024))
        .add_service(AdminServer::new(services.admin).max_decoding_message_size(1024 * 1024))
        .add_service(health_service)
        .add_optional_service(reflection)
        // Their end would be the goodbye.
        .serve_with_incoming_shutdown(connections.chain(stream::pending()), async move {
            stop.await;
            // Those who are connected and ask see it; new ones find the door closed.
            health.set_not_serving::<MessagingServer<MessagingService>>().await;
            health.set_not_serving::<TopologyServer<TopologyService>>().await;
            goodbye.await;
        })
        .await
}

/// Leaves the caller in the extensions; a bad token ends the request, none leaves the decision to the service.
fn authenticate(
    verifier: &Verifier,
    metrics: &ProcessMetrics,
    mut request: Request<()>,
) -> Result<Request<()>, Status> {
    let headers = std::mem::take(request.metadata_mut()).into_headers();
    let result = auth::authenticate(verifier, &headers, request.extensions_mut());
    metrics.token_checked(match &result {
        Ok(()) if request.extensions().get::<Caller>().is_none() => TokenCheck::Missing,
        Ok(()) => TokenCheck::Valid,
        Err(auth::Error::TokenExpired) => TokenCheck::Expired,
        Err(_) => TokenCheck::Invalid,
    });
    let mut headers = headers;
    // Nothing further on can log it.
    headers.remove(http::header::AUTHORIZATION);
    *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
    if let Some(why) = result.as_ref().err().and_then(auth::Error::operator_reason) {
        Witness::of_request(&request).about("", &format!("token: {why}"));
    }
    result.map_err(|error| Status::from(Failure::from(error)))?;
    if let Some(caller) = request.extensions().get::<Caller>() {
        Witness::of_request(&request).recognised(caller.client());
        if let Some(call) = request.extensions().get::<Call>() {
            call.identify(caller.client());
        }
    }
    Ok(request)
}

/// A unary request that cannot be decoded never reaches its service; tonic answers for it, as if the fault were ours.
fn blame_the_client(response: http::Response<tonic::body::Body>) -> http::Response<tonic::body::Body> {
    match Status::from_header_map(response.headers()).and_then(|status| service::malformed(&status)) {
        Some(failure) => Status::from(failure).into_http(),
        None => response,
    }
}

/// Off unless origins are configured. gRPC-Web puts the status into headers that pages may read only when told.
fn cors(origins: &[String]) -> CorsLayer {
    if origins.is_empty() {
        return CorsLayer::new();
    }
    let origins: Vec<_> = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([http::Method::POST])
        // By name: a page may not send `authorization` when all is allowed by an asterisk.
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
