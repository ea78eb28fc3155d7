//! The web console: pages for platform administrators and for tenants, rendered on the server.
//!
//! Invariant: the console has no authority of its own. Every page calls the gRPC services with the token of the user
//! who is signed in, through all layers of the gRPC listener, so that it can do nothing that the user's grants do not
//! allow, and everything that it does is in the audit trail.

mod admin;
mod assets;
mod calls;
mod clients;
mod error;
mod form;
mod guard;
mod layout;
mod page_memory;
mod parts;
mod session;
mod sign_in;
mod tenant;
mod trail;
mod user;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{get, post},
};
use tokio_util::sync::CancellationToken;

use self::{
    error::PageError,
    page_memory::PageMemory,
    session::{Session, Sessions},
    user::User,
};
use crate::{
    audit::Audit,
    auth::CodeFlow,
    config::{Config, SIGN_IN_RETURN},
    store::Store,
    transport::{Api, LocalChannel, Peer},
};

pub use self::session::Error;

/// How long a page waits for the store to answer whether its session was signed out.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);

/// The console of a gateway. Cloning is cheap.
#[derive(Clone)]
pub struct Console(Arc<Inner>);

struct Inner {
    api: Api,
    /// Has the sessions that were signed out.
    store: Store,
    sessions: Sessions,
    memory: PageMemory,
    /// The origin of its pages, if it is not the one that requests name.
    origin: Option<String>,
    is_tls: bool,
    trace_url: Option<String>,
    /// The sign-in at an issuer, if it is configured.
    code_flow: Option<CodeFlow>,
    audit: Audit,
    /// How long the body of a request may take.
    body_timeout: Duration,
    /// The same limit for a user who is not signed in.
    anonymous_body_timeout: Duration,
    stop: CancellationToken,
}

impl Console {
    /// The console of these services, which is served at this address until `stop` is cancelled.
    ///
    /// # Errors
    /// When the key of sessions is invalid.
    pub fn new(
        api: Api,
        store: Store,
        audit: Audit,
        config: &Config,
        address: SocketAddr,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let console = &config.console;
        let is_tls = console.certificate.is_some();
        // A proxy in front of a plain listener may provide TLS.
        let is_https = console.origin.as_ref().map_or(is_tls, |origin| origin.starts_with("https://"));
        Ok(Self(Arc::new(Inner {
            memory: PageMemory::new(api.memory().gateway()),
            api,
            store,
            audit,
            code_flow: console.sign_in.as_ref().and_then(|sign_in| CodeFlow::new(sign_in, &config.auth.issuers)),
            sessions: Sessions::new(console.session_key.as_ref(), is_https, address.port())?,
            origin: console.origin.clone(),
            is_tls,
            trace_url: console.trace_url.clone(),
            body_timeout: config.limits.request_timeout,
            anonymous_body_timeout: config.limits.unauthenticated_timeout,
            stop,
        })))
    }

    /// The routes of all pages.
    pub fn router(self) -> Router {
        Router::new()
            .route("/", get(home))
            .route("/sign-in", get(sign_in::page).post(sign_in::submit))
            .route("/sign-in/issuer", get(sign_in::begin_at_issuer))
            .route(SIGN_IN_RETURN, get(sign_in::return_from_issuer))
            .route("/sign-out", post(sign_in::sign_out))
            .route("/assets/{version}/{name}", get(assets::serve))
            .route("/favicon.ico", get(assets::icon))
            .merge(admin::routes())
            .merge(tenant::routes())
            .merge(clients::routes())
            .merge(trail::routes())
            .fallback(missing)
            .layer(from_fn_with_state(self.clone(), guard::guard))
            .with_state(self)
    }

    /// A channel to the services on behalf of this peer.
    fn channel(&self, peer: &Peer) -> LocalChannel {
        LocalChannel::new(&self.0.api, peer.clone())
    }

    /// Waits until the gateway stops.
    async fn stopped(self) {
        self.0.stop.cancelled().await;
    }

    /// Whether a session was signed out on any gateway. While the store does not answer, what this gateway knows
    /// applies, as it does for grants.
    async fn is_signed_out(&self, session: &Session) -> bool {
        if self.sessions().is_signed_out(session) {
            return true;
        }
        if self.sessions().was_checked(session) {
            return false;
        }
        let asked = self.0.store.is_session_ended(&session.client_id, session.id(), session.began());
        match tokio::time::timeout(STORE_TIMEOUT, asked).await {
            Ok(Ok(true)) => {
                self.sessions().sign_out(session);
                true
            }
            Ok(Ok(false)) => {
                self.sessions().set_checked(session);
                false
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Ends a session on all gateways. Returns whether the store has recorded it; on this gateway it has ended in any
    /// case.
    async fn sign_out(&self, session: &Session) -> bool {
        self.sessions().sign_out(session);
        let recorded = self.0.store.end_session(&session.client_id, session.id(), session::MAX_AGE);
        matches!(tokio::time::timeout(STORE_TIMEOUT, recorded).await, Ok(Ok(())))
    }

    fn memory(&self) -> &PageMemory {
        &self.0.memory
    }

    fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }
}

async fn home(user: User) -> Result<parts::Html, PageError> {
    match user.is_platform() {
        true => admin::overview(user).await,
        false => tenant::overview(user).await,
    }
}

async fn missing() -> PageError {
    PageError::not_found("this page does not exist; use the links above")
}
