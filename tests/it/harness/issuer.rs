//! A small OpenID Connect issuer in the test's own process: discovery, keys that change when told, and a count of who asked.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::{Json, Router, routing::get};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use warrengate::config::{IssuerConfig, KeySource, TenantSource, TokenAlgorithm};

use super::web::base64url;

/// A key, and its public half as the issuer shows it.
pub struct Key {
    pub kid: String,
    pub public: Value,
    private: EncodingKey,
}

impl Key {
    pub fn new(kid: &str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let x = base64url(pair.public_key().as_ref());
        Self {
            kid: kid.into(),
            public: json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": kid, "x": x}),
            private: EncodingKey::from_ed_der(pair.to_pkcs8().unwrap().as_ref()),
        }
    }

    /// A token, as this issuer would sign it.
    pub fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, claims, &self.private).unwrap()
    }
}

pub struct LocalIssuer {
    pub name: String,
    keys: Arc<Mutex<Value>>,
    asked: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl LocalIssuer {
    pub async fn start(keys: &[&Key]) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let name = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let published: Arc<Mutex<Value>> = Arc::default();
        let document = json!({"issuer": name, "jwks_uri": format!("{name}/keys")});
        let router = Router::new().route("/.well-known/openid-configuration", get(async move || Json(document))).route(
            "/keys",
            get({
                let (published, asked) = (Arc::clone(&published), Arc::clone(&asked));
                async move || {
                    asked.fetch_add(1, Ordering::Relaxed);
                    Json(published.lock().unwrap().clone())
                }
            }),
        );
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let issuer = Self { name, keys: published, asked, server };
        issuer.publish(keys);
        issuer
    }

    /// Shows these keys from now on.
    pub fn publish(&self, keys: &[&Key]) {
        self.publish_text(json!({"keys": keys.iter().map(|key| key.public.clone()).collect::<Vec<_>>()}));
    }

    /// Shows this from now on, whatever it is.
    pub fn publish_text(&self, set: Value) {
        *self.keys.lock().unwrap() = set;
    }

    /// How often somebody asked for the keys.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Is away from now on.
    pub fn stop(&self) {
        self.server.abort();
    }

    /// As a gateway is told of it, with keys by discovery, for the tenant of its claim `org`.
    pub fn config(&self) -> IssuerConfig {
        config(&self.name)
    }

    /// The claims of a good token of this client (`app`) of a tenant.
    pub fn claims(&self, tenant: &str, client: &str) -> Value {
        claims(&self.name, tenant, client)
    }
}

pub fn config(issuer: &str) -> IssuerConfig {
    IssuerConfig {
        issuer: issuer.into(),
        keys: KeySource::Discovery,
        ca_certificate: None,
        audience: "warrengate".into(),
        algorithms: TokenAlgorithm::ALL.to_vec(),
        tenant: TenantSource::Claim("org".into()),
        client_claim: "azp".into(),
        grants_claim: "scope".into(),
        refresh_interval: Duration::from_secs(600),
        refresh_at_most_every: Duration::from_millis(500),
    }
}

pub fn claims(issuer: &str, tenant: &str, client: &str) -> Value {
    // A second later than its client was made at the earliest: tokens from before do not count.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 1;
    json!({
        "iss": issuer, "aud": "warrengate", "org": tenant, "azp": client, "iat": now, "exp": now + 600,
        "scope": "openid publish:#:# subscribe:# configure:#",
    })
}
