//! The user of a request: a session whose token was accepted by the `Auth` service.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse as _, Redirect, Response},
};
use http::request::Parts;
use maud::{Markup, html};

use super::{Console, calls::Calls, session::Session};
use crate::pb;

/// A user who is signed in. Cloning is cheap.
#[derive(Clone)]
pub(super) struct User(Arc<Inner>);

struct Inner {
    console: Console,
    session: Session,
    who: pb::WhoAmIResponse,
    calls: Calls,
    path: String,
}

/// Why a request with a session has no user.
#[derive(Debug, Clone, Copy)]
pub(super) struct SessionEnded;

impl User {
    pub(super) fn new(console: &Console, session: Session, who: pb::WhoAmIResponse, calls: Calls, path: &str) -> Self {
        Self(Arc::new(Inner { console: console.clone(), session, who, calls, path: path.to_owned() }))
    }

    /// The services, called with the user's token.
    pub(super) fn calls(&self) -> &Calls {
        &self.0.calls
    }

    pub(super) fn client_id(&self) -> &str {
        &self.0.who.client_id
    }

    /// The user's tenant; empty for a platform administrator.
    pub(super) fn tenant(&self) -> &str {
        &self.0.who.tenant
    }

    pub(super) fn is_platform(&self) -> bool {
        self.0.who.tenant.is_empty()
    }

    pub(super) fn grants(&self) -> pb::Grants {
        self.0.who.grants.clone().unwrap_or_default()
    }

    pub(super) fn administers(&self) -> bool {
        self.0.who.grants.as_ref().is_some_and(|grants| grants.administer)
    }

    /// Whether the user may read the usage, the audit events, the figures and the streams of the tenant.
    pub(super) fn observes(&self) -> bool {
        self.is_platform() || self.0.who.grants.as_ref().is_some_and(|grants| grants.observe)
    }

    pub(super) fn session(&self) -> &Session {
        &self.0.session
    }

    /// Whether the session was signed out after the request had begun.
    pub(super) async fn is_signed_out(&self) -> bool {
        self.0.console.is_signed_out(&self.0.session).await
    }

    pub(super) fn path(&self) -> &str {
        &self.0.path
    }

    pub(super) fn console(&self) -> &Console {
        &self.0.console
    }

    /// How long the body of a request may take.
    pub(super) fn body_timeout(&self) -> Duration {
        self.0.console.0.body_timeout
    }

    /// The address of a trace, if `console.trace_url` is set.
    pub(super) fn trace_url(&self, trace_id: &str) -> Option<String> {
        let url = self.0.console.0.trace_url.as_ref()?;
        let is_id = trace_id.len() == 32 && trace_id.chars().all(|c| c.is_ascii_hexdigit());
        is_id.then(|| url.replace(crate::config::TRACE_ID, trace_id))
    }

    /// The field that every form must have.
    pub(super) fn csrf(&self) -> Markup {
        html! { input type="hidden" name="csrf" value=(self.0.session.csrf); }
    }
}

impl FromRequestParts<Console> for User {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &Console) -> Result<Self, Response> {
        if let Some(user) = parts.extensions.get::<Self>() {
            return Ok(user.clone());
        }
        let next = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        if comes_from_another_site(parts) {
            return Err(super::layout::bounce(next).into_response());
        }
        // A form cannot be sent again after the sign-in.
        let next = if parts.method == http::Method::GET { next } else { "/" };
        let reason = if parts.extensions.get::<SessionEnded>().is_some() { "ended" } else { "" };
        Err(Redirect::to(&super::sign_in::address(next, reason)).into_response())
    }
}

/// Whether a link on another site, such as in a message about an alert, led here. Browsers do not send the session with
/// such a request, but they send it with a request of the page itself.
fn comes_from_another_site(parts: &Parts) -> bool {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_other = ["cross-site", "same-site"].contains(&header("sec-fetch-site"));
    parts.method == http::Method::GET && is_other && header("sec-fetch-mode") == "navigate"
}

impl OptionalFromRequestParts<Console> for User {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Console) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}
