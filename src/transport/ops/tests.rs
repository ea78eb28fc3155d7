//! Tests of the operations listener over HTTP: probes, keys, and OAuth 2.0 tokens.

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, Request},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;
use crate::{
    config::{AuditConfig, AuthConfig},
    store::{EncryptionKey, Store},
};

struct Ops {
    router: Router,
    issuer: Arc<Issuer>,
    readiness: Readiness,
    secret: String,
}

async fn ops() -> Ops {
    let key = EncryptionKey::parse(&EncryptionKey::generate()).expect("a key");
    let store = Store::open(&"sqlite::memory:".into(), key).await.expect("a store");
    let (_, secret) = Issuer::bootstrap_admin(&store).await.expect("the store responds").expect("created");
    let (audit, _keeper) = Audit::new(store.clone(), &AuditConfig::for_test());
    let issuer = Arc::new(Issuer::start(store, &AuthConfig::for_test()).await.expect("an issuer"));
    let readiness = Readiness::new();
    let state = OpsState::new(issuer.clone(), readiness.clone(), Metrics::default(), audit);
    Ops { router: router(state, true), issuer, readiness, secret: secret.expose_secret().to_owned() }
}

impl Ops {
    async fn send(&self, request: Request<Body>) -> (StatusCode, HeaderMap, String) {
        let response = self.router.clone().oneshot(request).await.expect("answered");
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 1 << 20).await.expect("a body");
        (parts.status, parts.headers, String::from_utf8(bytes.to_vec()).expect("text"))
    }

    async fn get(&self, path: &str) -> (StatusCode, HeaderMap, String) {
        self.send(Request::get(path).body(Body::empty()).expect("a request")).await
    }

    async fn token(&self, basic: Option<&str>, form: &str) -> (StatusCode, HeaderMap, Value) {
        let mut request = Request::post("/oauth2/token").header("content-type", "application/x-www-form-urlencoded");
        if let Some(basic) = basic {
            request = request.header("authorization", format!("Basic {}", STANDARD.encode(basic)));
        }
        let (status, headers, body) = self.send(request.body(form.to_owned().into()).expect("a request")).await;
        assert_eq!(headers["cache-control"], "no-store");
        (status, headers, serde_json::from_str(&body).expect("JSON"))
    }
}

#[tokio::test]
async fn tokens_are_issued_for_basic_credentials_and_for_a_form() {
    let ops = ops().await;
    let basic = format!("admin:{}", ops.secret);
    let encoded = basic.replace('_', "%5F").replace('-', "%2d");
    let form = format!("grant_type=client_credentials&client_id=admin&client_secret={}", ops.secret);
    for (basic, form) in [
        (Some(basic.as_str()), "grant_type=client_credentials"),
        (Some(encoded.as_str()), "grant_type=client_credentials&client_id=admin&scope=any"),
        (None, form.as_str()),
    ] {
        let (status, _, body) = ops.token(basic, form).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        assert_eq!((body["token_type"].as_str(), body["expires_in"].as_u64()), (Some("Bearer"), Some(3600)));
        let token = body["access_token"].as_str().expect("a token");
        assert_eq!(ops.issuer.verifier().verify(token).expect("a caller").client().as_str(), "admin");
    }
}

#[tokio::test]
async fn refusals_have_the_error_codes_of_rfc_6749() {
    let ops = ops().await;
    let basic = format!("admin:{}", ops.secret);
    let both = format!("grant_type=client_credentials&client_id=admin&client_secret={}", ops.secret);
    for (basic, form, status, code) in [
        (None, "", 400, "invalid_request"),
        (None, "grant_type=client_credentials&grant_type=client_credentials", 400, "invalid_request"),
        (None, "grant_type=password&username=x", 400, "unsupported_grant_type"),
        (None, "grant_type=client_credentials", 401, "invalid_client"),
        (None, "grant_type=client_credentials&client_secret=x", 400, "invalid_request"),
        (None, "grant_type=client_credentials&client_id=admin&client_secret=x", 401, "invalid_client"),
        (Some("admin:wrong"), "grant_type=client_credentials", 401, "invalid_client"),
        (Some("no colon"), "grant_type=client_credentials", 401, "invalid_client"),
        (Some("admin:%zz"), "grant_type=client_credentials", 401, "invalid_client"),
        (Some(basic.as_str()), "grant_type=client_credentials&client_id=else", 400, "invalid_request"),
        (Some(basic.as_str()), both.as_str(), 400, "invalid_request"),
    ] {
        let (got, headers, body) = ops.token(basic, form).await;
        assert_eq!((got.as_u16(), body["error"].as_str()), (status, Some(code)), "{form}");
        assert_eq!(headers.contains_key("www-authenticate"), status == 401, "{form}");
        assert!(!body["error_description"].as_str().expect("a sentence").contains('"'));
    }
    let json = Request::post("/oauth2/token").header("content-type", "application/json");
    assert_eq!(ops.send(json.body("{}".into()).expect("a request")).await.0, StatusCode::BAD_REQUEST);
    let long = format!("grant_type=client_credentials&pad={}", "x".repeat(MAX_BODY));
    assert_eq!(ops.token(None, &long).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(ops.get("/oauth2/token").await.0, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn the_gateway_is_ready_without_blocks() {
    let ops = ops().await;
    assert_eq!(ops.get("/livez").await.0, StatusCode::OK);
    let (one, two) = (ops.readiness.block("store"), ops.readiness.block("store"));
    drop(one);
    let (status, _, body) = ops.get("/readyz").await;
    assert_eq!(
        (status, body.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"ready":false,"waiting_for":["store"]}"#)
    );
    drop(two);
    assert_eq!(ops.get("/readyz").await.0, StatusCode::OK);
}

#[tokio::test]
async fn metrics_can_have_a_listener_of_their_own() {
    let ops = ops().await;
    let audit = Audit::new(
        Store::open(&"sqlite::memory:".into(), EncryptionKey::parse(&EncryptionKey::generate()).expect("a key"))
            .await
            .expect("a store"),
        &AuditConfig::for_test(),
    )
    .0;
    let state = OpsState::new(ops.issuer.clone(), ops.readiness.clone(), Metrics::default(), audit);
    for (router, path, status) in [
        (router(state.clone(), false), "/metrics", 404),
        (router(state.clone(), false), "/readyz", 200),
        (router(state.clone(), false), "/.well-known/jwks.json", 200),
        (metrics_router(state.clone()), "/metrics", 200),
        (metrics_router(state.clone()), "/readyz", 200),
        (metrics_router(state.clone()), "/.well-known/jwks.json", 404),
    ] {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        assert_eq!(router.oneshot(request).await.expect("answered").status().as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn keys_discovery_and_metrics_are_shown() {
    let ops = ops().await;
    let (_, headers, body) = ops.get("/.well-known/jwks.json").await;
    assert_eq!(headers["content-type"], "application/json");
    let keys: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((keys["keys"][0]["crv"].as_str(), keys["keys"][0].get("d")), (Some("Ed25519"), None));
    let (_, _, body) = ops.get("/.well-known/openid-configuration").await;
    let document: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(document["issuer"], "https://auth.example");
    assert_eq!(document["token_endpoint"], "https://auth.example/oauth2/token");
    let (status, headers, body) = ops.get("/metrics").await;
    assert_eq!(
        (status, headers["content-type"].to_str().unwrap_or_default().starts_with("text/plain")),
        (StatusCode::OK, true)
    );
    assert!(body.contains("warrengate_published_total"), "{body}");
}
