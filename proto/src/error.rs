//! Errors as they appear in the API: a kind, a stable reason code, a message, and `google.rpc` details.
//!
//! Each module's error enum implements [`Classify`]; [`Failure`] is what a caller receives. [`Kind::grpc`] and
//! [`Kind::http`] are the only table from errors to status codes. A `Failure` never contains a secret, a message body
//! or the text of a library's error.

use std::{borrow::Cow, time::Duration};

use tonic::Code;

/// What a caller can do about a failure. gRPC and HTTP status codes are derived from this alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is invalid; sending it again does not help.
    Invalid,
    /// The object does not exist, or the caller may not see it.
    NotFound,
    /// The object exists already.
    AlreadyExists,
    /// The request is valid, but not in the current state.
    Precondition,
    /// The caller is not authenticated.
    Unauthenticated,
    /// The caller is authenticated but not permitted.
    Denied,
    /// A limit is exceeded; a later attempt may succeed.
    Exhausted,
    /// The broker, the store or the gateway is temporarily unavailable.
    Unavailable,
    /// The deadline passed; the outcome is unknown.
    Deadline,
    /// The operation conflicted with a concurrent one; start again.
    Aborted,
    /// Not implemented.
    Unimplemented,
    /// An internal error.
    Internal,
}

impl Kind {
    /// The gRPC status code.
    pub const fn grpc(self) -> Code {
        match self {
            Self::Invalid => Code::InvalidArgument,
            Self::NotFound => Code::NotFound,
            Self::AlreadyExists => Code::AlreadyExists,
            Self::Precondition => Code::FailedPrecondition,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Denied => Code::PermissionDenied,
            Self::Exhausted => Code::ResourceExhausted,
            Self::Unavailable => Code::Unavailable,
            Self::Deadline => Code::DeadlineExceeded,
            Self::Aborted => Code::Aborted,
            Self::Unimplemented => Code::Unimplemented,
            Self::Internal => Code::Internal,
        }
    }

    /// The HTTP status code.
    pub const fn http(self) -> u16 {
        match self {
            Self::Invalid | Self::Precondition => 400,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Aborted => 409,
            Self::Unauthenticated => 401,
            Self::Denied => 403,
            Self::Exhausted => 429,
            Self::Unavailable => 503,
            Self::Deadline => 504,
            Self::Unimplemented => 501,
            Self::Internal => 500,
        }
    }

    /// Whether the caller or the request was refused, as opposed to something failing. Refusals are audited.
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::Unauthenticated | Self::Denied | Self::Invalid | Self::NotFound | Self::Exhausted)
    }

    /// The kind of a refusal's status code; `None` for any other code.
    pub const fn of_refusal(code: Code) -> Option<Self> {
        Some(match code {
            Code::Unauthenticated => Self::Unauthenticated,
            Code::PermissionDenied => Self::Denied,
            Code::InvalidArgument => Self::Invalid,
            Code::NotFound => Self::NotFound,
            Code::ResourceExhausted => Self::Exhausted,
            _ => return None,
        })
    }

    /// Whether sending the same request again is safe and may help.
    pub const fn retry_may_help(self) -> bool {
        matches!(self, Self::Exhausted | Self::Unavailable | Self::Aborted)
    }
}

/// How an error appears in the API.
pub trait Classify {
    /// What the caller can do about it.
    fn kind(&self) -> Kind;
    /// A stable code, upper snake case, for programs (`google.rpc.ErrorInfo.reason`).
    fn reason(&self) -> &'static str;
    /// A helpful sentence for people: fixed text and the caller's own validated names only.
    fn message(&self) -> Cow<'static, str>;
    /// The request field that caused it, if any.
    fn field(&self) -> Option<Cow<'static, str>> {
        None
    }
    /// How long to wait before another attempt may succeed.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

/// An error in the form in which a caller receives it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    /// What the caller can do about it.
    pub kind: Kind,
    /// A stable code for programs, in upper snake case.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: Cow<'static, str>,
    /// The request field that caused it.
    pub field: Option<Cow<'static, str>>,
    /// How long to wait before another attempt may succeed.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure without a field and without a waiting time.
    pub fn new(kind: Kind, reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, reason, message: message.into(), field: None, retry_after: None }
    }

    /// A failure for an invalid request field.
    pub fn invalid(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { field: Some(field.into()), ..Self::new(Kind::Invalid, "INVALID_ARGUMENT", message) }
    }

    /// The same failure for this request field.
    #[must_use]
    pub fn on_field(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(field.into());
        self
    }
}

impl<E: Classify> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            kind: error.kind(),
            reason: error.reason(),
            message: error.message(),
            field: error.field(),
            retry_after: error.retry_after(),
        }
    }
}

impl From<Failure> for tonic::Status {
    /// With `google.rpc` details: `ErrorInfo` always, `BadRequest` for a field, `RetryInfo` for a time.
    fn from(failure: Failure) -> Self {
        use tonic_types::{ErrorDetails, StatusExt as _};
        let mut details = ErrorDetails::new();
        details.set_error_info(
            failure.reason,
            "warrengate",
            [("retry_may_help".to_owned(), failure.kind.retry_may_help().to_string())],
        );
        if let Some(field) = &failure.field {
            details.add_bad_request_violation(field.as_ref(), failure.message.as_ref());
        }
        if let Some(after) = failure.retry_after {
            details.set_retry_info(Some(after));
        }
        let message = match &failure.field {
            Some(field) => format!("{field}: {}", failure.message),
            None => failure.message.into_owned(),
        };
        Self::with_error_details(failure.kind.grpc(), message, details)
    }
}

/// The stable reason code in a status, if the gateway sent it.
pub fn reason_of(status: &tonic::Status) -> Option<String> {
    use tonic_types::StatusExt as _;
    status.get_details_error_info().map(|info| info.reason)
}

/// The same status with the trace id in its details: always in `RequestInfo`, and in `ErrorInfo` if there is one.
pub fn with_trace(status: tonic::Status, trace_id: &str) -> tonic::Status {
    use tonic_types::StatusExt as _;
    let mut details = status.get_error_details();
    details.set_request_info(trace_id, "");
    if let Some(mut info) = details.error_info().cloned() {
        info.metadata.insert("trace_id".to_owned(), trace_id.to_owned());
        details.set_error_info(info.reason, info.domain, info.metadata);
    }
    tonic::Status::with_error_details(status.code(), status.message().to_owned(), details)
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn a_status_names_the_field_the_reason_and_the_time() {
        let failure =
            Failure { retry_after: Some(Duration::from_secs(3)), ..Failure::invalid("queue.name", "too long") };
        let status = tonic::Status::from(failure);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "queue.name: too long");
        let details = status.get_error_details();
        assert_eq!(details.error_info().expect("error info").reason, "INVALID_ARGUMENT");
        assert_eq!(details.bad_request().expect("bad request").field_violations[0].field, "queue.name");
        assert_eq!(details.retry_info().expect("retry info").retry_delay, Some(Duration::from_secs(3)));
    }
}
