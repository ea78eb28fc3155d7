//! The operations listener, HTTP or HTTPS: probes, metrics, public keys, and tokens by OAuth 2.0.
//!
//! No request needs a token. Every answer is the same for everyone, except for a token to a client that knows its secret.

mod readiness;
mod token;

pub use readiness::{Block, Readiness};

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use serde_json::json;

use crate::{
    audit::Audit,
    auth::Issuer,
    telemetry::{Metrics, MetricsFormat},
};

/// A token request has no reason to be longer, in bytes.
const MAX_BODY: usize = 16 * 1024;

/// What the handlers answer from. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct OpsState {
    issuer: Arc<Issuer>,
    readiness: Readiness,
    metrics: Metrics,
    audit: Audit,
}

impl OpsState {
    /// With the issuer of tokens, what must be ready, what is counted, and where refusals go.
    pub fn new(issuer: Arc<Issuer>, readiness: Readiness, metrics: Metrics, audit: Audit) -> Self {
        Self { issuer, readiness, metrics, audit }
    }
}

/// The operations listener; with the metrics, unless they have a listener of their own.
pub fn router(state: OpsState, has_metrics: bool) -> Router {
    let router = if has_metrics { metrics_routes() } else { probes() };
    router
        .route("/.well-known/jwks.json", get(jwks))
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/oauth2/token", post(token::token))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
}

/// The listener of the metrics.
pub fn metrics_router(state: OpsState) -> Router {
    metrics_routes().with_state(state)
}

fn metrics_routes() -> Router<OpsState> {
    probes().route("/metrics", get(metrics))
}

fn probes() -> Router<OpsState> {
    Router::new().route("/livez", get(async || "ok\n")).route("/readyz", get(readyz))
}

async fn readyz(State(state): State<OpsState>) -> impl IntoResponse {
    let waiting = state.readiness.waiting();
    let status = if waiting.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": waiting.is_empty(), "waiting_for": waiting })))
}

/// A browser sees Prometheus' text; Prometheus asks for OpenMetrics, and gets exemplars.
async fn metrics(State(state): State<OpsState>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = MetricsFormat::accepted_by(accept);
    state.metrics.process().ready(state.readiness.waiting().is_empty());
    ([(header::CONTENT_TYPE, format.content_type())], state.metrics.render(format))
}

/// Shorter than the overlap of a rotation, so that nobody trusts an old set of keys for too long.
const CACHED: [(header::HeaderName, &str); 1] = [(header::CACHE_CONTROL, "public, max-age=60")];

async fn jwks(State(state): State<OpsState>) -> impl IntoResponse {
    (CACHED, Json(state.issuer.jwks()))
}

async fn discovery(State(state): State<OpsState>) -> impl IntoResponse {
    let issuer = state.issuer.name();
    let document = json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}/.well-known/jwks.json"),
        "token_endpoint": format!("{issuer}/oauth2/token"),
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        // Required by OpenID Connect Discovery; there is no authorization endpoint, and no id token.
        "response_types_supported": [],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["EdDSA"],
    });
    (CACHED, Json(document))
}

#[cfg(test)]
mod tests;
