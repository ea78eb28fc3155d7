//! Errors as pages: the stable code, the sentence of the service, and what to do.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use maud::{Markup, html};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{parts, user::User};

/// An error that is shown as a page. The layer around all pages renders it.
#[derive(Debug, Clone)]
pub(super) struct PageError {
    pub(super) status: StatusCode,
    code: String,
    message: String,
    trace_id: String,
    retry_after: Option<u64>,
}

impl PageError {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), trace_id: String::new(), retry_after: None }
    }

    pub(super) fn not_found(message: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "PAGE_NOT_FOUND", message)
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_FORM", message)
    }

    /// The stable code.
    pub(super) fn code(&self) -> &str {
        &self.code
    }

    /// Whether the session's token is no longer accepted.
    pub(super) fn ends_session(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }

    /// What the user can do.
    fn advice(&self) -> &'static str {
        match self.status {
            StatusCode::NOT_FOUND => "It may have been deleted meanwhile. Go back to the list.",
            StatusCode::FORBIDDEN => "Ask an administrator of your tenant for a client with the grant that is missing.",
            StatusCode::CONFLICT => "Reload the page to see the current state, and try again.",
            StatusCode::TOO_MANY_REQUESTS => "Wait a moment, and try again.",
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                "Nothing is lost. Wait a moment, and reload the page."
            }
            StatusCode::INTERNAL_SERVER_ERROR => "Tell the operator of this gateway the code and the trace.",
            _ => "Go back, correct the values, and send the form again.",
        }
    }

    /// The content of the page.
    pub(super) fn render(&self, user: Option<&User>) -> Markup {
        html! {
            section.error role="alert" {
                h2 { code { (self.code) } }
                p { (self.message) }
                p { (self.advice()) @if let Some(seconds) = self.retry_after { " It may succeed in " (seconds) " s." } }
                @if !self.trace_id.is_empty() { p.quiet { "Trace " (parts::trace(user, &self.trace_id)) } }
            }
        }
    }

    /// A short form beside other content.
    pub(super) fn note(&self) -> Markup {
        html! { p.error role="alert" { code { (self.code) } " " (self.message) } }
    }
}

impl From<Status> for PageError {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        // Statuses of the gRPC library have no reason.
        let code = crate::error::reason_of(&status).unwrap_or_else(|| format!("{:?}", status.code()).to_uppercase());
        Self {
            status: http_status(status.code()),
            code,
            message: status.message().to_owned(),
            trace_id: details.request_info().map(|info| info.request_id.clone()).unwrap_or_default(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay).map(|delay| delay.as_secs().max(1)),
        }
    }
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
