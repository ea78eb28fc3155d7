//! Client errors: a stable reason, a sentence about the problem, and the next step.
//!
//! No error contains a secret.

use std::{borrow::Cow, error::Error as _, sync::Arc, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::pb::{
    self,
    error::{Classify, Kind},
};

/// Why an operation failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The endpoint is not a gateway address.
    #[error(
        "{0:?} is not a gateway address: use the form https://127.0.0.1:8443 (http:// is for loopback addresses only)"
    )]
    Endpoint(String),
    /// `https://` without a certificate authority, in a build without the feature `system-roots`.
    #[error(
        "no certificate authority is configured: set the gateway's CA certificate in PEM form, or build the client with \
         the feature `system-roots`"
    )]
    NoCertificateAuthority,
    /// The CA certificate is invalid.
    #[error("the CA certificate is invalid: it must be one or more certificates in PEM form")]
    CertificateAuthority(#[source] Arc<tonic::transport::Error>),
    /// The connection could not be established, or the gateway's certificate was not accepted.
    #[error("cannot reach the gateway at {endpoint}: {cause}; {next}")]
    Connect {
        /// The address tried.
        endpoint: String,
        /// The transport's error message.
        cause: String,
        /// Whether the gateway answered with a certificate that is not trusted.
        not_trusted: bool,
        /// What to check.
        next: &'static str,
        /// The complete error; `None` when there was no answer in time.
        #[source]
        source: Option<Arc<tonic::transport::Error>>,
    },
    /// The token contains invalid characters.
    #[error("the token contains invalid characters: pass the JWT alone, without \"Bearer\" and line breaks")]
    TokenForm,
    /// The token has expired, and there is no client secret to renew it with.
    #[error("the token has expired and cannot be renewed: set a new token, or connect with a client id and secret")]
    TokenEnded,
    /// The client id or the secret is empty.
    #[error("the credentials are incomplete: a client id and its secret are needed, or a token")]
    MissingCredentials,
    /// The application's token function failed.
    #[error("the application's token function failed: {0}")]
    TokenSource(Arc<crate::BoxError>),
    /// A message was not confirmed.
    #[error("{0}")]
    Unconfirmed(Box<Unconfirmed>),
    /// No reply arrived within the time limit.
    #[error("no reply within {0:?}")]
    NoReply(Duration),
    /// The gateway refused the call, or the connection failed during it.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// A required environment variable is not set.
    #[error("the environment variable {0} is not set")]
    MissingVariable(&'static str),
    /// The file that `WARRENGATE_CA` names cannot be read.
    #[error("cannot read the CA certificate {path} (WARRENGATE_CA): {source}")]
    CertificateFile {
        /// The file's path.
        path: String,
        /// The system's error.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The publisher or subscription has ended.
    #[error("the client, publisher or subscription is closed: open a new one")]
    Closed,
    /// The peer does not speak `warrengate.v1`.
    #[error("unexpected response from the gateway ({0}); its version may be incompatible with this client")]
    Protocol(&'static str),
}

/// The outcome of a message that was not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// No queue is bound for the exchange and routing key. The message is not stored.
    Unroutable,
    /// The broker or the gateway refused the message. It is not stored.
    Rejected,
    /// The client's grants do not cover the exchange and routing key. The message is not stored.
    Denied,
    /// The message exceeds a limit of the plan. It is not stored; send it again after `retry_after`.
    Throttled,
    /// The message may or may not be stored. Send it again with the same id.
    Unknown,
    /// The message was never sent to a gateway. It is not stored.
    NotSent,
}

impl Outcome {
    /// Its name in all client libraries, for example `NOT_SENT`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unroutable => "UNROUTABLE",
            Self::Rejected => "REJECTED",
            Self::Denied => "DENIED",
            Self::Throttled => "THROTTLED",
            Self::Unknown => "UNKNOWN",
            Self::NotSent => "NOT_SENT",
        }
    }
}

/// Why a message was not confirmed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Unconfirmed {
    /// The outcome.
    pub outcome: Outcome,
    /// The stable reason, in upper snake case.
    pub reason: String,
    /// A description for people.
    pub message: String,
    /// Whether sending the message again, with the same id, is safe and may succeed.
    pub retryable: bool,
    /// When another attempt may succeed, if the gateway sent a time.
    pub retry_after: Option<Duration>,
    /// The id of the message.
    pub message_id: String,
    /// The id of the trace of the message; empty when it is not sampled.
    pub trace_id: String,
}

impl std::fmt::Display for Unconfirmed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} [{}]", self.outcome.as_str(), self.message, self.reason)
    }
}

impl Unconfirmed {
    /// The error of a result whose outcome is not `CONFIRMED`.
    pub(super) fn of(result: pb::PublishResult) -> Self {
        let (reason, message) = match result.reason.split_once(": ") {
            Some((reason, message)) => (reason.to_owned(), message.to_owned()),
            None => (result.reason.clone(), result.reason.clone()),
        };
        let outcome = match result.outcome() {
            pb::Outcome::Unroutable => Outcome::Unroutable,
            pb::Outcome::Rejected => Outcome::Rejected,
            pb::Outcome::Denied => Outcome::Denied,
            pb::Outcome::Throttled => Outcome::Throttled,
            _ => Outcome::Unknown,
        };
        let retryable = match outcome {
            Outcome::Throttled | Outcome::Unknown => true,
            Outcome::Rejected => matches!(reason.as_str(), "BROKER_UNREACHABLE" | "BROKER_REJECTED" | "DRAINING"),
            _ => false,
        };
        let retry_after = result.retry_after.and_then(|after| after.try_into().ok());
        let (message_id, trace_id) = (result.message_id, result.trace_id);
        Self { outcome, reason, message, retryable, retry_after, message_id, trace_id }
    }

    /// The error of a message that reached no gateway, because of this error or because its deadline passed.
    pub(super) fn not_sent(message_id: String, cause: Option<&Error>) -> Self {
        let (reason, message, retryable, retry_after) = match cause {
            Some(error) => (error.reason(), error.to_string(), error.is_retryable(), error.retry_after()),
            None => ("NOT_SENT", "no gateway accepted it in time; it is certainly not stored".to_owned(), true, None),
        };
        let (reason, outcome) = (reason.to_owned(), Outcome::NotSent);
        Self { outcome, reason, message, retryable, retry_after, message_id, trace_id: String::new() }
    }
}

/// A decoded gRPC status.
#[derive(Debug, Clone)]
pub struct Refusal {
    code: Code,
    reason: String,
    message: String,
    field: Option<String>,
    retry_after: Option<Duration>,
    retry_may_help: bool,
    trace_id: String,
    from_transport: bool,
}

impl Refusal {
    /// The gRPC status code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The gateway's stable reason code (`google.rpc.ErrorInfo`), in upper snake case; empty if it sent none.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The gateway's message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The request field that caused it.
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// How long to wait before another attempt may succeed.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The id of the trace that recorded the failure; empty when it is not sampled.
    pub fn trace_id(&self) -> &str {
        &self.trace_id
    }

    fn next_step(&self) -> Option<&'static str> {
        Some(match self.code {
            _ if self.from_transport => "the connection was lost; check that the gateway is running, then try again",
            // The gateway's sentences with advice have it after a semicolon.
            _ if self.message.contains("; ") => return None,
            Code::Unauthenticated => "check the client id and secret, or get a new token",
            Code::PermissionDenied => "ask an administrator for a grant, or use another client",
            Code::Unavailable if self.message.contains("try again") => return None,
            Code::Unavailable => "try again in a moment",
            Code::ResourceExhausted => "slow down, or ask for a larger plan",
            Code::Unimplemented => "this gateway does not support it",
            Code::DeadlineExceeded => "the outcome is unknown; check before trying again",
            Code::Internal | Code::Unknown | Code::DataLoss => "see the gateway's log",
            _ => return None,
        })
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.reason.as_str(), self.message.as_str()) {
            ("", "") => write!(f, "{}", self.code)?,
            ("", message) => f.write_str(message)?,
            (reason, message) => write!(f, "{message} [{reason}]")?,
        }
        if let Some(after) = self.retry_after {
            write!(f, " (retry after {:.1} s)", after.as_secs_f64())?;
        }
        self.next_step().map_or(Ok(()), |next| write!(f, "; {next}"))
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let field = details.bad_request().and_then(|bad| bad.field_violations.first()).map(|v| v.field.clone());
        let metadata = |name| details.error_info().and_then(|info| info.metadata.get(name));
        Self::Refused(Box::new(Refusal {
            code: status.code(),
            reason: details.error_info().map(|info| info.reason.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            field: field.filter(|field| !field.is_empty()),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            retry_may_help: metadata("retry_may_help").is_some_and(|value| value == "true"),
            trace_id: metadata("trace_id").cloned().unwrap_or_default(),
            // tonic sets a status's source only if it created the status itself, from a transport error.
            from_transport: status.source().is_some(),
        }))
    }
}

impl Error {
    /// The decoded status, if the call was refused or failed in transit.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The gRPC status code, if there is one.
    pub fn code(&self) -> Option<Code> {
        self.refusal().map(Refusal::code)
    }

    /// Whether the connection was lost or the gateway is unavailable or draining, so that a new connection may succeed.
    pub fn is_disconnect(&self) -> bool {
        match self {
            Self::Connect { .. } => true,
            Self::Refused(refusal) => refusal.code == Code::Unavailable || refusal.from_transport,
            _ => false,
        }
    }

    /// A stable reason in upper snake case: the gateway's, or one of the library such as `CONNECTION_LOST`
    /// (clients/conformance/README.md lists them).
    pub fn reason(&self) -> &str {
        match self {
            Self::Refused(refusal) if !refusal.reason.is_empty() => &refusal.reason,
            Self::Unconfirmed(unconfirmed) => &unconfirmed.reason,
            _ => Classify::reason(self),
        }
    }

    /// Whether the same call is safe to make again and may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { not_trusted, .. } => !not_trusted,
            Self::Unconfirmed(unconfirmed) => unconfirmed.retryable,
            Self::NoReply(_) | Self::TokenSource(_) => true,
            Self::Refused(refusal) => {
                refusal.from_transport
                    || refusal.retry_may_help
                    || refusal.retry_after.is_some()
                    || matches!(refusal.code, Code::Unavailable | Code::Aborted)
            }
            _ => false,
        }
    }

    /// How long to wait before another attempt may succeed, if the gateway sent a time.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unconfirmed(unconfirmed) => unconfirmed.retry_after,
            _ => self.refusal().and_then(Refusal::retry_after),
        }
    }

    /// The outcome, if a message was not confirmed.
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Unconfirmed(unconfirmed) => Some(unconfirmed.outcome),
            _ => None,
        }
    }

    pub(super) fn no_answer(endpoint: &str) -> Self {
        let (endpoint, cause) = (endpoint.to_owned(), "no answer in time".to_owned());
        let next = "check that it is running and that the address is correct";
        Self::Connect { endpoint, cause, not_trusted: false, next, source: None }
    }

    pub(super) fn connect(endpoint: &str, source: tonic::transport::Error) -> Self {
        // Only the innermost error is informative; the outer ones say "transport error".
        let mut inner: &dyn std::error::Error = &source;
        while let Some(next) = inner.source() {
            inner = next;
        }
        let cause = inner.to_string();
        let next = if cause.contains("certificate") {
            "set the CA that signed this gateway's certificate, and use an address that the certificate names"
        } else if cause.contains("InvalidContentType") {
            "this port does not speak TLS; check that it is the gRPC port (8443 by default) and not the ops listener"
        } else if cause.contains("refused") {
            "check that it is running (`warrengate dev` starts one) and that the port is correct"
        } else {
            "check that it is running and that the address is correct"
        };
        let not_trusted = cause.contains("invalid peer certificate");
        Self::Connect { endpoint: endpoint.to_owned(), cause, not_trusted, next, source: Some(Arc::new(source)) }
    }
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Endpoint(_)
            | Self::NoCertificateAuthority
            | Self::CertificateAuthority(_)
            | Self::TokenForm
            | Self::MissingCredentials
            | Self::MissingVariable(_)
            | Self::CertificateFile { .. } => Kind::Invalid,
            Self::Connect { .. } | Self::TokenSource(_) => Kind::Unavailable,
            Self::TokenEnded => Kind::Unauthenticated,
            Self::Closed => Kind::Precondition,
            Self::Protocol(_) => Kind::Internal,
            Self::NoReply(_) => Kind::Deadline,
            Self::Unconfirmed(unconfirmed) => match unconfirmed.outcome {
                Outcome::Unroutable => Kind::NotFound,
                Outcome::Rejected => Kind::Precondition,
                Outcome::Denied => Kind::Denied,
                Outcome::Throttled => Kind::Exhausted,
                Outcome::Unknown => Kind::Unavailable,
                Outcome::NotSent => Kind::Deadline,
            },
            Self::Refused(refusal) => match refusal.code {
                _ if refusal.from_transport => Kind::Unavailable,
                Code::InvalidArgument | Code::OutOfRange => Kind::Invalid,
                Code::NotFound => Kind::NotFound,
                Code::AlreadyExists => Kind::AlreadyExists,
                Code::FailedPrecondition => Kind::Precondition,
                Code::Unauthenticated => Kind::Unauthenticated,
                Code::PermissionDenied => Kind::Denied,
                Code::ResourceExhausted => Kind::Exhausted,
                Code::Unavailable => Kind::Unavailable,
                Code::DeadlineExceeded => Kind::Deadline,
                Code::Aborted | Code::Cancelled => Kind::Aborted,
                Code::Unimplemented => Kind::Unimplemented,
                _ => Kind::Internal,
            },
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Endpoint(_)
            | Self::NoCertificateAuthority
            | Self::CertificateAuthority(_)
            | Self::TokenForm
            | Self::MissingCredentials
            | Self::MissingVariable(_)
            | Self::CertificateFile { .. } => "CONFIGURATION",
            Self::Connect { not_trusted: true, .. } => "CERTIFICATE_NOT_TRUSTED",
            Self::Connect { .. } => "GATEWAY_UNREACHABLE",
            Self::TokenEnded => "TOKEN_EXPIRED",
            Self::TokenSource(_) => "TOKEN_SOURCE_FAILED",
            Self::Refused(refusal) if refusal.from_transport => "CONNECTION_LOST",
            // The gateway's own reason is not static text; `Refusal::reason` returns it.
            Self::Refused(_) => "REFUSED_BY_GATEWAY",
            Self::Unconfirmed(unconfirmed) => unconfirmed.outcome.as_str(),
            Self::NoReply(_) => "REQUEST_TIMEOUT",
            Self::Closed => "CLOSED",
            Self::Protocol(_) => "PROTOCOL",
        }
    }

    fn message(&self) -> Cow<'static, str> {
        self.to_string().into()
    }

    fn field(&self) -> Option<Cow<'static, str>> {
        self.refusal().and_then(Refusal::field).map(|field| field.to_owned().into())
    }

    fn retry_after(&self) -> Option<Duration> {
        Error::retry_after(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::error::Failure;

    #[test]
    fn a_refusal_keeps_reason_field_and_delay_and_names_the_next_step() {
        let failure = Failure {
            retry_after: Some(Duration::from_secs(2)),
            ..Failure::new(Kind::Exhausted, "TOO_MANY_STREAMS", "the plan allows 4 streams").on_field("queue")
        };
        let error = Error::from(Status::from(failure));
        let refusal = error.refusal().expect("a refusal");
        assert_eq!((refusal.code(), refusal.reason()), (Code::ResourceExhausted, "TOO_MANY_STREAMS"));
        assert_eq!((refusal.field(), refusal.retry_after()), (Some("queue"), Some(Duration::from_secs(2))));
        assert!(!error.is_disconnect());
        let text = error.to_string();
        assert!(
            text.contains("4 streams") && text.contains("TOO_MANY_STREAMS") && text.contains("slow down"),
            "{text}"
        );
    }

    #[test]
    fn the_next_step_is_mentioned_once() {
        let mentions =
            |message: &str| Error::from(Status::unavailable(message)).to_string().matches("try again").count();
        assert_eq!((mentions("draining"), mentions("the broker does not answer; try again in a moment")), (1, 1));
    }

    #[test]
    fn a_broken_connection_is_distinguished_from_a_refusal_of_the_gateway() {
        let from_gateway = Error::from(Status::internal("a fault"));
        let from_transport = Error::from(Status::from_error("stream reset".into()));
        assert!(!from_gateway.is_disconnect());
        assert!(from_transport.is_disconnect());
        assert!(Error::from(Status::unavailable("draining")).is_disconnect());
    }

    #[test]
    fn an_outcome_becomes_a_typed_error_that_says_whether_another_attempt_may_help() {
        let wait = prost_types::Duration { seconds: 2, nanos: 0 };
        for (given, outcome, name, reason, retryable, kind) in [
            (pb::Outcome::Unroutable, Outcome::Unroutable, "UNROUTABLE", "NO_ROUTE", false, Kind::NotFound),
            (pb::Outcome::Rejected, Outcome::Rejected, "REJECTED", "QUEUE_FULL", false, Kind::Precondition),
            (pb::Outcome::Rejected, Outcome::Rejected, "REJECTED", "DRAINING", true, Kind::Precondition),
            (pb::Outcome::Denied, Outcome::Denied, "DENIED", "NO_GRANT", false, Kind::Denied),
            (pb::Outcome::Throttled, Outcome::Throttled, "THROTTLED", "MESSAGE_RATE", true, Kind::Exhausted),
            (pb::Outcome::Unknown, Outcome::Unknown, "UNKNOWN", "NO_CONFIRM", true, Kind::Unavailable),
        ] {
            let result = pb::PublishResult {
                outcome: given.into(),
                reason: format!("{reason}: a sentence"),
                retry_after: Some(wait),
                ..pb::PublishResult::default()
            };
            let error = Error::Unconfirmed(Box::new(Unconfirmed::of(result)));
            assert_eq!((error.outcome(), error.reason(), error.is_retryable()), (Some(outcome), reason, retryable));
            assert_eq!((error.kind(), Classify::reason(&error)), (kind, name));
            assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
            let text = error.to_string();
            assert!(text.contains(name) && text.contains("a sentence") && text.contains(reason), "{text}");
        }
        let cause = Error::no_answer("https://gateway:8443");
        let error = Error::Unconfirmed(Box::new(Unconfirmed::not_sent("m".into(), Some(&cause))));
        assert_eq!((error.outcome(), error.reason()), (Some(Outcome::NotSent), "GATEWAY_UNREACHABLE"));
        assert_eq!((error.kind(), error.is_retryable()), (Kind::Deadline, true));
    }

    #[test]
    fn the_status_of_a_refusal_is_kept_and_most_codes_have_a_next_step() {
        for (code, kind, next) in [
            (Code::InvalidArgument, Kind::Invalid, ""),
            (Code::NotFound, Kind::NotFound, ""),
            (Code::AlreadyExists, Kind::AlreadyExists, ""),
            (Code::FailedPrecondition, Kind::Precondition, ""),
            (Code::Unauthenticated, Kind::Unauthenticated, "get a new token"),
            (Code::PermissionDenied, Kind::Denied, "grant"),
            (Code::ResourceExhausted, Kind::Exhausted, "larger plan"),
            (Code::Unavailable, Kind::Unavailable, "try again"),
            (Code::DeadlineExceeded, Kind::Deadline, "check before trying again"),
            (Code::Aborted, Kind::Aborted, ""),
            (Code::Unimplemented, Kind::Unimplemented, "does not support"),
            (Code::DataLoss, Kind::Internal, "the gateway's log"),
        ] {
            let error = Error::from(Status::new(code, "refused"));
            assert_eq!((error.kind(), Classify::reason(&error)), (kind, "REFUSED_BY_GATEWAY"));
            let text = error.to_string();
            assert!(text.contains("refused") && text.contains(next), "{text}");
            let refusal = error.refusal().expect("a refusal");
            assert_eq!((refusal.code(), refusal.message(), refusal.trace_id()), (code, "refused", ""));
        }
    }

    #[test]
    fn the_librarys_own_errors_have_reasons_and_say_whether_another_attempt_may_help() {
        let unreachable = Error::no_answer("https://gateway:8443");
        assert!(unreachable.is_disconnect() && unreachable.outcome().is_none());
        for (error, kind, reason, retryable) in [
            (unreachable, Kind::Unavailable, "GATEWAY_UNREACHABLE", true),
            (Error::MissingCredentials, Kind::Invalid, "CONFIGURATION", false),
            (Error::TokenEnded, Kind::Unauthenticated, "TOKEN_EXPIRED", false),
            (Error::Closed, Kind::Precondition, "CLOSED", false),
        ] {
            assert_eq!((error.kind(), error.reason(), error.is_retryable()), (kind, reason, retryable), "{error}");
            assert_eq!(Classify::retry_after(&error), None);
        }
    }
}
