//! The operations listener, HTTP or HTTPS: probes, metrics, public keys, and OAuth 2.0 tokens.
//!
//! No request needs a token. All responses are the same for everyone, except tokens, which require the secret of a
//! client.

mod readiness;
mod token;

pub use readiness::{Block, Readiness};

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use bytes::Bytes;
use serde_json::json;

use crate::{
    audit::Audit,
    auth::Issuer,
    telemetry::{Metrics, MetricsFormat},
};

/// The maximum size of a token request in bytes.
const MAX_BODY: usize = 16 * 1024;
/// How long rendered metrics are served again.
const RENDERED_FOR: Duration = Duration::from_millis(250);

/// The state of the handlers. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct OpsState {
    issuer: Arc<Issuer>,
    readiness: Readiness,
    metrics: Metrics,
    rendered: Arc<Mutex<Vec<Rendered>>>,
    audit: Audit,
}

/// The metrics in one format, as they were a moment ago.
#[derive(Debug)]
struct Rendered {
    content_type: &'static str,
    at: Instant,
    text: Bytes,
}

impl OpsState {
    /// Creates the state from the issuer of tokens, the readiness, the metrics and the audit trail.
    pub fn new(issuer: Arc<Issuer>, readiness: Readiness, metrics: Metrics, audit: Audit) -> Self {
        Self { issuer, readiness, metrics, rendered: Arc::default(), audit }
    }

    /// The metrics, rendered at most four times a second: nobody needs a token to read them.
    fn render(&self, format: MetricsFormat) -> Bytes {
        let mut rendered = self.rendered.lock().unwrap_or_else(PoisonError::into_inner);
        rendered.retain(|rendered| rendered.at.elapsed() < RENDERED_FOR);
        let content_type = format.content_type();
        if let Some(known) = rendered.iter().find(|known| known.content_type == content_type) {
            return known.text.clone();
        }
        self.metrics.process().ready(self.readiness.waiting().is_empty());
        let text = Bytes::from(self.metrics.render(format));
        rendered.push(Rendered { content_type, at: Instant::now(), text: text.clone() });
        text
    }
}

/// The routes of the operations listener, including metrics unless they have a listener of their own.
pub fn router(state: OpsState, has_metrics: bool) -> Router {
    let router = if has_metrics { metrics_routes() } else { probes() };
    router
        .route("/.well-known/jwks.json", get(jwks))
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/oauth2/token", post(token::token))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
}

/// The routes of the metrics listener.
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

/// Browsers get Prometheus' text format; Prometheus requests OpenMetrics, which includes exemplars.
async fn metrics(State(state): State<OpsState>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = MetricsFormat::accepted_by(accept);
    ([(header::CONTENT_TYPE, format.content_type())], state.render(format))
}

/// Shorter than the overlap of a key rotation, so that no cached key set is used for too long.
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
        // Required by OpenID Connect Discovery; the gateway has no authorization endpoint and no id tokens.
        "response_types_supported": [],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["EdDSA"],
    });
    (CACHED, Json(document))
}

#[cfg(test)]
mod tests;
