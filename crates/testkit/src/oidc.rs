//! A small OpenID Connect issuer in the test's own process: discovery, keys that change on command, a request counter,
//! and a sign-in without a page, as if somebody was signed in at the issuer already.

mod sign_in;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::{Json, Router, routing::get};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use self::sign_in::SignIn;
pub use self::sign_in::{CLIENT_ID, CLIENT_SECRET};

/// An Ed25519 signing key.
pub struct Key {
    /// Its id, the `kid` of tokens.
    pub kid: String,
    /// Its public half as a JSON Web Key.
    pub public: Value,
    private: EncodingKey,
}

impl Key {
    /// Generates a key with this id.
    pub fn new(kid: &str) -> Self {
        let pair = Ed25519KeyPair::generate().expect("a key can be generated");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        Self {
            kid: kid.into(),
            public: json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": kid, "x": x}),
            private: EncodingKey::from_ed_der(pair.to_pkcs8().expect("a key can be encoded").as_ref()),
        }
    }

    /// A token with these claims, signed with this key.
    pub fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, claims, &self.private).expect("claims can be signed")
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// A running issuer; dropping it ends it.
#[derive(Debug)]
pub struct Issuer {
    name: String,
    keys: Arc<Mutex<Value>>,
    requests: Arc<AtomicUsize>,
    sign_in: Arc<SignIn>,
    server: AbortOnDropHandle<()>,
}

impl Issuer {
    /// Starts an issuer that publishes these keys.
    ///
    /// # Panics
    /// When no port can be opened.
    pub async fn start(keys: &[&Key]) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let name = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(AtomicUsize::new(0));
        let published: Arc<Mutex<Value>> = Arc::default();
        let document = json!({
            "issuer": name,
            "jwks_uri": format!("{name}/keys"),
            "authorization_endpoint": format!("{name}/authorize"),
            "token_endpoint": format!("{name}/token"),
        });
        let sign_in = Arc::new(SignIn::new(&name));
        let router = Router::new()
            .merge(sign_in::routes(&sign_in))
            .route("/.well-known/openid-configuration", get(async move || Json(document)))
            .route(
                "/keys",
                get({
                    let (published, requests) = (Arc::clone(&published), Arc::clone(&requests));
                    async move || {
                        requests.fetch_add(1, Ordering::Relaxed);
                        Json(published.lock().unwrap_or_else(PoisonError::into_inner).clone())
                    }
                }),
            );
        let server = AbortOnDropHandle::new(tokio::spawn(async move {
            axum::serve(listener, router).await.expect("the server runs until it is aborted");
        }));
        let issuer = Self { name, keys: published, requests, sign_in, server };
        issuer.publish(keys);
        issuer
    }

    /// The issuer's identifier, which is its address.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Publishes these keys from now on.
    pub fn publish(&self, keys: &[&Key]) {
        self.publish_document(json!({"keys": keys.iter().map(|key| key.public.clone()).collect::<Vec<_>>()}));
    }

    /// Publishes this document from now on in place of a key set.
    pub fn publish_document(&self, document: Value) {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = document;
    }

    /// Everybody who signs in receives the token that this function returns.
    pub fn sign_in_with(&self, token: impl Fn() -> String + Send + Sync + 'static) {
        self.sign_in.set_token(token);
    }

    /// Accepts no refresh token from now on.
    pub fn end_sessions(&self) {
        self.sign_in.end_sessions();
    }

    /// How often a refresh token was used.
    pub fn refreshes(&self) -> usize {
        self.sign_in.refreshes()
    }

    /// How often the keys were requested.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Stops answering.
    pub fn stop(&self) {
        self.server.abort();
    }
}
