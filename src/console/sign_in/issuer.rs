//! Signing in at an external issuer with the authorization code flow.
//!
//! Invariant: a session begins only with a token that the `Auth` service accepts, so that the issuer's token decides who
//! the user is, exactly as for every other client of that issuer.

use axum::{
    extract::{Request, State},
    response::{IntoResponse as _, Redirect, Response},
};
use http::StatusCode;
use secrecy::SecretString;

use super::{local, show, too_large, with_cookies};
use crate::{
    audit::AuditContext,
    auth::{self, CodeFlow, PersonTokens, SignInError},
    console::{
        Console,
        calls::{Calls, Token},
        error::PageError,
        layout,
        parts::{Query, param},
        session::{Flow, Renewal, Session},
    },
    error::Kind,
    names::ClientId,
    pb,
    transport::Peer,
};

/// The name of a sign-in in the audit trail.
const METHOD: &str = "console/SignIn";

/// The issuer's name as it is shown: without the scheme.
pub(super) fn name(console: &Console) -> Option<&str> {
    let issuer = console.0.code_flow.as_ref()?.issuer();
    Some(issuer.split_once("://").map_or(issuer, |(_, rest)| rest).trim_end_matches('/'))
}

/// Sends the browser to the issuer.
pub(in crate::console) async fn begin_at_issuer(State(console): State<Console>, query: Query) -> Response {
    let Some(code_flow) = &console.0.code_flow else { return unknown_page() };
    let next = local(param(&query, "next"));
    let begun = match code_flow.begin().await {
        Ok(begun) => begun,
        Err(error) => return refused(&console, next, &page_error(code_flow, &error)),
    };
    match console.sessions().store_flow(&Flow::begin(begun.state, &begun.verifier, next)) {
        Some(cookie) => (with_cookies(vec![cookie]), Redirect::to(&begun.address)).into_response(),
        None => refused(&console, next, &expired()),
    }
}

/// Accepts the browser that returns from the issuer.
pub(in crate::console) async fn return_from_issuer(
    State(console): State<Console>,
    query: Query,
    request: Request,
) -> Response {
    let Some(code_flow) = &console.0.code_flow else { return unknown_page() };
    let Some(peer) = request.extensions().get::<Peer>().cloned() else { return unknown_page() };
    let Some(flow) = console.sessions().own_flow(request.headers(), param(&query, "state")) else {
        return refused(&console, "/", &expired());
    };
    let audit_context = AuditContext::new(console.0.audit.clone(), METHOD, peer.address().to_string());
    let next = local(&flow.next);
    let fail = |error: PageError, reason: &str| {
        audit_context.set_subject("", name(&console).unwrap_or_default());
        audit_context.record_end(Kind::Unauthenticated, reason);
        let mut response = refused(&console, next, &error);
        response.headers_mut().extend(console.sessions().clear_flow().map(|cookie| (http::header::SET_COOKIE, cookie)));
        response
    };
    // RFC 9207: a response of another issuer must not be accepted.
    let named = param(&query, "iss");
    if !named.is_empty() && named != code_flow.issuer() {
        return fail(expired(), "ISSUER_MISMATCH");
    }
    let code = param(&query, "code");
    if code.is_empty() {
        let error = SignInError::Refused(auth::error_code_of_issuer(param(&query, "error")));
        return fail(page_error(code_flow, &error), "SIGN_IN_REFUSED");
    }
    let tokens = match code_flow.finish(code.to_owned(), SecretString::from(flow.verifier)).await {
        Ok(tokens) => tokens,
        Err(error) => {
            let error = page_error(code_flow, &error);
            let reason = error.code().to_owned();
            return fail(error, &reason);
        }
    };
    let (renewal, token, who) = match accepted(&console, &peer, tokens).await {
        Ok(accepted) => accepted,
        Err(error) => {
            let reason = error.code().to_owned();
            return fail(error, &reason);
        }
    };
    let Some(mut cookies) = console.sessions().store(&Session::begin(&who.client_id, renewal, &token)) else {
        return fail(too_large(), "SESSION_TOO_LARGE");
    };
    if let Ok(client) = ClientId::parse(&who.client_id) {
        audit_context.set_client(&client);
    }
    audit_context.done(name(&console));
    cookies.extend(console.sessions().clear_flow());
    // The session's cookie is not sent with a redirect from another site, so the page itself continues.
    (with_cookies(cookies), layout::bounce(next)).into_response()
}

/// Why a session was not renewed.
pub(in crate::console) enum NotRefreshed {
    /// The issuer no longer accepts the user.
    Refused,
    /// The issuer does not respond; the old token may still be valid.
    Unavailable,
    /// The issuer has issued a token that the gateway does not accept. This renews it the next time.
    Unchecked(Renewal),
}

/// A newer token of a session, and what renews it the next time.
pub(in crate::console) async fn refreshed(
    console: &Console,
    peer: &Peer,
    refresh: SecretString,
) -> Result<(Renewal, Token), NotRefreshed> {
    let code_flow = console.0.code_flow.as_ref().ok_or(NotRefreshed::Refused)?;
    let tokens = code_flow.refresh(refresh).await.map_err(|error| match error {
        SignInError::Refused(_) => NotRefreshed::Refused,
        SignInError::Busy | SignInError::Unavailable(_) => NotRefreshed::Unavailable,
    })?;
    let renewal = tokens.refresh.clone().map_or(Renewal::None, Renewal::RefreshToken);
    // The gateway may not have the issuer's newest keys yet. If it rejects the user, it also rejects the old token, so
    // no page is shown.
    let accepted = accepted(console, peer, tokens).await.map_err(|_| NotRefreshed::Unchecked(renewal));
    accepted.map(|(renewal, token, _)| (renewal, token))
}

/// Asks the `Auth` service whose token this is, which refuses a token that the gateway does not accept.
async fn accepted(
    console: &Console,
    peer: &Peer,
    tokens: PersonTokens,
) -> Result<(Renewal, Token, pb::WhoAmIResponse), PageError> {
    let calls = Calls::new(console.channel(peer), &tokens.access);
    let who = calls.auth().who_am_i(pb::WhoAmIRequest {}).await?.into_inner();
    let expires = who.token_expires.as_ref().and_then(|time| u64::try_from(time.seconds).ok()).unwrap_or_default();
    let renewal = tokens.refresh.map_or(Renewal::None, Renewal::RefreshToken);
    Ok((renewal, Token { secret: tokens.access, expires }, who))
}

fn refused(console: &Console, next: &str, error: &PageError) -> Response {
    show(console, error.status, next, "", None, Some(error))
}

fn unknown_page() -> Response {
    PageError::not_found("this gateway has no sign-in at an issuer").into_response()
}

fn expired() -> PageError {
    let text = "this sign-in is too old or was not begun in this browser; try again";
    PageError::new(StatusCode::FORBIDDEN, "FORM_EXPIRED", text)
}

fn page_error(code_flow: &CodeFlow, error: &SignInError) -> PageError {
    match error {
        SignInError::Busy => {
            let text = "many people are signing in; try again in a moment";
            PageError::new(StatusCode::TOO_MANY_REQUESTS, "SIGN_IN_BUSY", text)
        }
        SignInError::Refused(code) => {
            let text = format!("the issuer refused the sign-in ({code}); ask its administrator");
            PageError::new(StatusCode::FORBIDDEN, "SIGN_IN_REFUSED", text)
        }
        SignInError::Unavailable(why) => {
            code_flow.log_unavailable(why);
            let text = "the issuer cannot be reached, or its response is invalid; the gateway's log has the reason";
            PageError::new(StatusCode::SERVICE_UNAVAILABLE, "SIGN_IN_UNAVAILABLE", text)
        }
    }
}
