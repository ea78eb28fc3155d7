//! The authorization code flow of the issuer: codes and refresh tokens that are valid once, PKCE, and the secret of one
//! client.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Form, Json, Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Redirect, Response},
    routing::{get, post},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

/// The only client at which people may sign in.
pub const CLIENT_ID: &str = "console";
/// Its secret, with a character that HTTP Basic needs encoded (RFC 6749, section 2.3.1).
pub const CLIENT_SECRET: &str = "secret of the console: 100%";

type Fields = HashMap<String, String>;

pub(super) struct SignIn {
    issuer: String,
    token: Mutex<Option<Arc<dyn Fn() -> String + Send + Sync>>>,
    /// The challenge and the redirect address of each code.
    codes: Mutex<HashMap<String, (String, String)>>,
    refresh_tokens: Mutex<HashSet<String>>,
    refreshes: AtomicUsize,
}

impl std::fmt::Debug for SignIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignIn").finish_non_exhaustive()
    }
}

impl SignIn {
    pub(super) fn new(issuer: &str) -> Self {
        Self {
            issuer: issuer.to_owned(),
            token: Mutex::default(),
            codes: Mutex::default(),
            refresh_tokens: Mutex::default(),
            refreshes: AtomicUsize::new(0),
        }
    }

    pub(super) fn set_token(&self, token: impl Fn() -> String + Send + Sync + 'static) {
        *locked(&self.token) = Some(Arc::new(token));
    }

    pub(super) fn end_sessions(&self) {
        locked(&self.refresh_tokens).clear();
    }

    pub(super) fn refreshes(&self) -> usize {
        self.refreshes.load(Ordering::Relaxed)
    }

    fn tokens(&self) -> Response {
        let Some(token) = locked(&self.token).clone() else { return refusal("access_denied") };
        let refresh = random();
        locked(&self.refresh_tokens).insert(refresh.clone());
        Json(json!({"access_token": token(), "token_type": "Bearer", "refresh_token": refresh})).into_response()
    }
}

pub(super) fn routes(sign_in: &Arc<SignIn>) -> Router {
    Router::new().route("/authorize", get(authorize)).route("/token", post(token)).with_state(Arc::clone(sign_in))
}

async fn authorize(State(sign_in): State<Arc<SignIn>>, Query(query): Query<Fields>) -> Response {
    let field = |name: &str| query.get(name).map_or("", String::as_str);
    let is_right = field("client_id") == CLIENT_ID
        && field("response_type") == "code"
        && field("code_challenge_method") == "S256"
        && field("scope").split(' ').any(|scope| scope == "openid");
    if !is_right || field("state").is_empty() || field("redirect_uri").is_empty() {
        return (StatusCode::BAD_REQUEST, format!("{query:?}")).into_response();
    }
    let code = random();
    let known = (field("code_challenge").to_owned(), field("redirect_uri").to_owned());
    locked(&sign_in.codes).insert(code.clone(), known);
    let (redirect, state) = (field("redirect_uri"), field("state"));
    Redirect::to(&format!("{redirect}?code={code}&state={state}&iss={}", sign_in.issuer)).into_response()
}

async fn token(State(sign_in): State<Arc<SignIn>>, headers: HeaderMap, Form(form): Form<Fields>) -> Response {
    // As RFC 6749 requires it: both are encoded as in a form before they are encoded for HTTP Basic.
    let expected = STANDARD.encode(format!("{CLIENT_ID}:secret+of+the+console%3A+100%25"));
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok());
    if authorization != Some(&format!("Basic {expected}")) {
        return refusal("invalid_client");
    }
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    match field("grant_type") {
        "authorization_code" => {
            let known = locked(&sign_in.codes).remove(field("code"));
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, field("code_verifier").as_bytes());
            match known {
                Some((challenge, redirect))
                    if challenge == URL_SAFE_NO_PAD.encode(digest) && redirect == field("redirect_uri") =>
                {
                    sign_in.tokens()
                }
                _ => refusal("invalid_grant"),
            }
        }
        "refresh_token" => {
            sign_in.refreshes.fetch_add(1, Ordering::Relaxed);
            let is_known = locked(&sign_in.refresh_tokens).remove(field("refresh_token"));
            if is_known { sign_in.tokens() } else { refusal("invalid_grant") }
        }
        _ => refusal("unsupported_grant_type"),
    }
}

fn refusal(code: &str) -> Response {
    let answer: Json<Value> = Json(json!({"error": code}));
    (StatusCode::BAD_REQUEST, answer).into_response()
}

fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
