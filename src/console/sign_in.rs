//! Signing in with a client's id and secret or at an issuer, and signing out.

mod issuer;

use axum::{
    extract::{Request, State},
    response::{AppendHeaders, IntoResponse, Redirect, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header::SET_COOKIE};
use maud::html;
use secrecy::SecretString;

use super::{
    Console,
    calls::issue_token,
    error::PageError,
    form::Form,
    layout,
    parts::{self, Query, param},
    session::{Renewal, Session},
    user::User,
};
use crate::transport::Peer;

pub(super) use self::issuer::{NotRefreshed, begin_at_issuer, refreshed, return_from_issuer};

/// The address of the sign-in page, from which the user returns to `next`.
pub(super) fn address(next: &str, reason: &str) -> String {
    let mut query = Vec::new();
    if next != "/" {
        query.push(("next", next));
    }
    if !reason.is_empty() {
        query.push(("reason", reason));
    }
    parts::address("/sign-in", &query)
}

/// A path of the console; anything else, such as the address of another site, is replaced by the first page.
fn local(next: &str) -> &str {
    let is_path = next.starts_with('/') && !next.starts_with("//") && !next.contains('\\');
    if is_path && next.chars().all(|c| c.is_ascii_graphic()) { next } else { "/" }
}

pub(super) async fn page(State(console): State<Console>, user: Option<User>, query: Query) -> Response {
    let next = local(param(&query, "next"));
    if user.is_some() {
        return Redirect::to(next).into_response();
    }
    let notice = match param(&query, "reason") {
        "ended" => Some("Your session has ended. Sign in again."),
        "out" => Some("You are signed out."),
        "out-here" => Some(
            "You are signed out here. The store did not answer, so a copy of the session is accepted by other gateways until \
             its token expires.",
        ),
        _ => None,
    };
    show(&console, StatusCode::OK, next, "", notice, None)
}

fn show(
    console: &Console,
    status: StatusCode,
    next: &str,
    client_id: &str,
    notice: Option<&str>,
    error: Option<&PageError>,
) -> Response {
    let Some((token, cookie)) = console.sessions().new_form() else {
        let text = "the form cannot be created; see the gateway's log";
        return PageError::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", text).into_response();
    };
    let content = html! {
        @if let Some(notice) = notice { p.notice role="status" { (notice) } }
        @if let Some(error) = error { (error.note()) }
        @if let Some(name) = issuer::name(console) {
            p { a.button href=(parts::address("/sign-in/issuer", &[("next", next)])) { "Sign in at " (name) } }
        }
        form.sign-in method="post" action="/sign-in" {
            input type="hidden" name="csrf" value=(token);
            input type="hidden" name="next" value=(next);
            label { "Client id"
                input name="client_id" value=(client_id) required autocomplete="username" autocapitalize="none"
                    spellcheck="false" maxlength="100" autofocus[client_id.is_empty()]; }
            label { "Client secret"
                input name="client_secret" type="password" required autocomplete="current-password" maxlength="200"
                    autofocus[!client_id.is_empty()]; }
            button.primary { "Sign in" }
        }
        p.quiet {
            "A platform administrator signs in as " code { "admin" } ", a tenant's client as " code { "tenant.name" }
            ". A client can see and do here what its grants allow."
        }
    };
    (status, AppendHeaders([(SET_COOKIE, cookie)]), layout::open_page("Sign in", content)).into_response()
}

pub(super) async fn submit(State(console): State<Console>, request: Request) -> Response {
    let headers = request.headers().clone();
    let Some(peer) = request.extensions().get::<Peer>().cloned() else {
        return PageError::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "no address").into_response();
    };
    let fields = match console.sign_in_form(request).await {
        Ok(fields) => fields,
        Err(error) => return error.into_response(),
    };
    let (next, client_id) = (local(fields.text("next")), fields.text("client_id"));
    if !console.sessions().is_own_form(&headers, fields.raw("csrf")) {
        let text = "this form is too old, or your browser does not accept cookies from this site; try again";
        let error = PageError::new(StatusCode::FORBIDDEN, "FORM_EXPIRED", text);
        return show(&console, StatusCode::FORBIDDEN, next, client_id, None, Some(&error));
    }
    let secret = SecretString::from(fields.text("client_secret").to_owned());
    let token = match issue_token(console.channel(&peer), client_id, &secret).await {
        Ok(token) => token,
        Err(status) => {
            let error = PageError::from(status);
            return show(&console, error.status, next, client_id, None, Some(&error));
        }
    };
    let session = Session::begin(client_id, Renewal::Secret(secret), &token);
    let Some(mut cookies) = console.sessions().store(&session) else {
        let error = too_large();
        return show(&console, error.status, next, client_id, None, Some(&error));
    };
    cookies.extend(console.sessions().clear_form());
    (with_cookies(cookies), Redirect::to(next)).into_response()
}

fn too_large() -> PageError {
    let text = "the token has more grants or groups than fit into the cookies of a browser; sign in as another client";
    PageError::new(StatusCode::BAD_REQUEST, "SESSION_TOO_LARGE", text)
}

pub(super) async fn sign_out(State(console): State<Console>, form: Form) -> Response {
    let reason = if console.sign_out(form.user.session()).await { "out" } else { "out-here" };
    (with_cookies(console.sessions().clear()), Redirect::to(&address("/", reason))).into_response()
}

fn with_cookies(cookies: Vec<HeaderValue>) -> HeaderMap {
    cookies.into_iter().map(|cookie| (SET_COOKIE, cookie)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_in_returns_to_paths_of_the_console_only() {
        for path in ["/", "/queues/a?page=2"] {
            assert_eq!(local(path), path);
        }
        for other in ["", "//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/a\r\nb"]
        {
            assert_eq!(local(other), "/", "{other:?}");
        }
        assert_eq!(address("/queues?a=b", "ended"), "/sign-in?next=%2Fqueues%3Fa%3Db&reason=ended");
    }
}
