//! The layer around all pages: it refuses requests from other sites, finds the user of the session, renews the
//! session's token, renders errors, and sets the headers that restrict what a page can do.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Redirect, Response},
};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{self, HOST, ORIGIN, SET_COOKIE},
};
use tonic::{Code, Status};

use super::{
    Console,
    calls::{self, Calls},
    error::PageError,
    layout, page_memory,
    session::{Renewal, Session},
    sign_in,
    user::{SessionEnded, User},
};
use crate::{error::Failure, pb, transport::Peer};

/// Nothing is loaded from other sites, and no page contains a script or a style.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                   form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

const HEADERS: [(header::HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CSP),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

pub(super) async fn guard(State(console): State<Console>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let is_asset = path.starts_with("/assets/");
    let peer = request.extensions().get::<Peer>().cloned();
    let mut cookies = Vec::new();
    let mut user = None;
    let mut response = if !is_safe(request.method()) && !console.is_same_origin(request.headers()) {
        let text = "the form was sent by a page of another site, or without the header Origin";
        PageError::new(StatusCode::FORBIDDEN, "CROSS_SITE_REQUEST", text).into_response()
    } else {
        let found = if is_asset {
            Found::Nobody
        } else {
            console.find(request.headers().clone(), peer, &path, &mut cookies).await
        };
        match found {
            Found::User(found) => {
                let memory = console.memory().reserve(found.tenant(), &path);
                request.extensions_mut().insert(found.clone());
                user = Some(found);
                match memory {
                    Ok(permit) => page_memory::charged(next.run(request).await, permit),
                    Err(full) => PageError::from(Status::from(Failure::from(full))).into_response(),
                }
            }
            Found::Ended => {
                cookies = console.sessions().clear();
                request.extensions_mut().insert(SessionEnded);
                next.run(request).await
            }
            Found::Nobody => next.run(request).await,
            Found::Unknown(error) => error.into_response(),
        }
    };
    if let Some(error) = response.extensions_mut().remove::<PageError>() {
        response = match error.ends_session() {
            true => {
                cookies = console.sessions().clear();
                Redirect::to(&sign_in::address("/", "ended")).into_response()
            }
            false => (error.status, layout::error_page(user.as_ref(), &error)).into_response(),
        };
    }
    let headers = response.headers_mut();
    if !headers.contains_key(SET_COOKIE) {
        headers.extend(cookies.into_iter().map(|cookie| (SET_COOKIE, cookie)));
    }
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !is_asset {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

fn is_safe(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// The result of the search for the user of a request.
enum Found {
    User(User),
    /// The request carries no valid session.
    Nobody,
    /// It was signed out, its client was revoked, its secret was rotated, or its tenant was suspended.
    Ended,
    /// The services do not answer.
    Unknown(PageError),
}

impl Console {
    /// Whether a form was sent by a page of the console. Browsers without `Sec-Fetch-Site` send `Origin`.
    fn is_same_origin(&self, headers: &HeaderMap) -> bool {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("invalid"));
        let origin = text(ORIGIN.as_str());
        let own = self.0.origin.clone().unwrap_or_else(|| {
            let scheme = if self.0.is_tls { "https" } else { "http" };
            format!("{scheme}://{}", text(HOST.as_str()).unwrap_or_default())
        });
        match text("sec-fetch-site") {
            // The pages' referrer policy makes browsers send "null" as the origin.
            Some("same-origin") => origin.is_none_or(|origin| origin == "null" || origin == own),
            Some(_) => false,
            None => origin == Some(own.as_str()),
        }
    }

    async fn find(&self, headers: HeaderMap, peer: Option<Peer>, path: &str, cookies: &mut Vec<HeaderValue>) -> Found {
        let (Some(session), Some(peer)) = (self.sessions().read(&headers), peer) else { return Found::Nobody };
        if self.is_signed_out(&session).await {
            return Found::Ended;
        }
        let session = match self.renewed(session, &peer).await {
            Ok((session, stored)) => {
                *cookies = stored;
                session
            }
            Err(Ended) => return Found::Ended,
        };
        let calls = Calls::new(self.channel(&peer), &session.token);
        match calls.auth().who_am_i(pb::WhoAmIRequest {}).await {
            Ok(who) => Found::User(User::new(self, session, who.into_inner(), calls, path)),
            Err(status) if is_final(&status) => Found::Ended,
            Err(status) => Found::Unknown(status.into()),
        }
    }

    /// The session with a new token if the old one ends soon, and the headers that store it.
    async fn renewed(&self, session: Session, peer: &Peer) -> Result<(Session, Vec<HeaderValue>), Ended> {
        if !session.is_due() {
            return Ok((session, Vec::new()));
        }
        match &session.renewal {
            Renewal::Secret(secret) => {
                let token = calls::issue_token(self.channel(peer), &session.client_id, secret).await;
                match token.map(|token| session.renewed(session.renewal.clone(), &token)) {
                    Ok(renewed) => Ok(self.stored(session, renewed)),
                    Err(status) if is_final(&status) => Err(Ended),
                    // The old token is still valid; the next request tries again.
                    Err(_) => Ok((session, Vec::new())),
                }
            }
            Renewal::RefreshToken(_) => {
                let latest = self.sessions().renewal_of(&session);
                let mut latest = latest.lock().await;
                let newest = match &*latest {
                    Some(renewed) if renewed.is_newer_than(&session) => renewed.clone(),
                    _ => session.clone(),
                };
                // Another request of this browser may have renewed the session a moment ago.
                if !newest.is_due() {
                    return Ok(self.stored(session, newest));
                }
                let Renewal::RefreshToken(refresh) = &newest.renewal else { return Err(Ended) };
                match sign_in::refreshed(self, peer, refresh.clone()).await {
                    Ok((renewal, token)) => {
                        let renewed = newest.renewed(renewal, &token);
                        *latest = Some(renewed.clone());
                        Ok(self.stored(session, renewed))
                    }
                    Err(sign_in::NotRefreshed::Refused) => Err(Ended),
                    Err(sign_in::NotRefreshed::Unavailable) => Ok((session, Vec::new())),
                    // The old refresh token is used up, and the old access token still valid.
                    Err(sign_in::NotRefreshed::Unchecked(renewal)) => {
                        let kept = newest.with_renewal(renewal);
                        *latest = Some(kept.clone());
                        Ok(self.stored(session, kept))
                    }
                }
            }
            Renewal::None => Ok((session, Vec::new())),
        }
    }

    /// The renewed session with the headers that store it; the old one if the new one does not fit into cookies.
    fn stored(&self, session: Session, renewed: Session) -> (Session, Vec<HeaderValue>) {
        match self.sessions().store(&renewed) {
            Some(cookies) => (renewed, cookies),
            None => (session, Vec::new()),
        }
    }
}

/// Whether the gateway now rejects the client or its token.
fn is_final(status: &Status) -> bool {
    matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
}

/// The gateway now rejects the session's client.
struct Ended;
