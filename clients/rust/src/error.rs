//! Client errors: a stable reason, a sentence about the problem, and the next step.
//!
//! No error contains a secret.

use std::{borrow::Cow, error::Error as _, sync::Arc, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::pb::error::{Classify, Kind};

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
        /// What to check.
        next: &'static str,
        /// The complete error.
        #[source]
        source: Arc<tonic::transport::Error>,
    },
    /// The token contains invalid characters.
    #[error("the token contains invalid characters: pass the JWT alone, without \"Bearer\" and line breaks")]
    TokenForm,
    /// The token has expired, and there is no client secret to renew it with.
    #[error("the token has expired and cannot be renewed: set a new token, or connect with a client id and secret")]
    TokenEnded,
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
    #[error("the stream is closed: open a new one")]
    Closed,
    /// The peer does not speak `warrengate.v1`.
    #[error("unexpected response from the gateway ({0}); its version may be incompatible with this client")]
    Protocol(&'static str),
}

/// A decoded gRPC status.
#[derive(Debug, Clone)]
pub struct Refusal {
    code: Code,
    reason: String,
    message: String,
    field: Option<String>,
    retry_after: Option<Duration>,
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
        Self::Refused(Box::new(Refusal {
            code: status.code(),
            reason: details.error_info().map(|info| info.reason.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            field: field.filter(|field| !field.is_empty()),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
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
        Self::Connect { endpoint: endpoint.to_owned(), cause, next, source: Arc::new(source) }
    }
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Endpoint(_) | Self::NoCertificateAuthority | Self::CertificateAuthority(_) | Self::TokenForm => {
                Kind::Invalid
            }
            Self::MissingVariable(_) | Self::CertificateFile { .. } => Kind::Invalid,
            Self::Connect { .. } => Kind::Unavailable,
            Self::TokenEnded => Kind::Unauthenticated,
            Self::Closed => Kind::Precondition,
            Self::Protocol(_) => Kind::Internal,
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
            Self::Endpoint(_) => "BAD_ENDPOINT",
            Self::NoCertificateAuthority => "NO_CERTIFICATE_AUTHORITY",
            Self::CertificateAuthority(_) => "BAD_CERTIFICATE_AUTHORITY",
            Self::MissingVariable(_) => "MISSING_VARIABLE",
            Self::CertificateFile { .. } => "CERTIFICATE_AUTHORITY_FILE",
            Self::Connect { .. } => "GATEWAY_UNREACHABLE",
            Self::TokenForm => "BAD_TOKEN_FORM",
            Self::TokenEnded => "TOKEN_ENDED",
            // The gateway's own reason is not static text; `Refusal::reason` returns it.
            Self::Refused(_) => "REFUSED_BY_GATEWAY",
            Self::Closed => "STREAM_CLOSED",
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
        self.refusal().and_then(Refusal::retry_after)
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
}
