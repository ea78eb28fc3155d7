//! What can go wrong at the client's end. A `tonic::Status` or a transport's error enters; what leaves tells the
//! application what happened, by a stable reason, and what to do next. No secret is in it.

use std::{borrow::Cow, error::Error as _, sync::Arc, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::error::{Classify, Kind};

/// What went wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The endpoint is no address of a gateway.
    #[error(
        "{0:?} is no gateway address: write it like https://127.0.0.1:8443 (http:// is for loopback addresses only)"
    )]
    Endpoint(String),
    /// `https://` without authorities to trust.
    #[error(
        "nothing says whose certificate to trust: give the gateway's CA certificate as PEM (`warrengate dev` and \
         `warrengate certs` write one), or the system's bundle when the gateway has a public certificate"
    )]
    NoCertificateAuthority,
    /// The CA certificate cannot be used.
    #[error("the CA certificate cannot be used: it must be one or more certificates in PEM form")]
    CertificateAuthority(#[source] Arc<tonic::transport::Error>),
    /// Nothing answers, or not as a gateway that the CA knows.
    #[error("cannot reach the gateway at {endpoint}: {cause}; {next}")]
    Connect {
        /// The address tried.
        endpoint: String,
        /// What the transport says.
        cause: String,
        /// What to try.
        next: &'static str,
        /// All of it.
        #[source]
        source: Arc<tonic::transport::Error>,
    },
    /// A token that cannot be sent.
    #[error("the token has characters that no token has: give the JWT alone, without \"Bearer\" and without line ends")]
    TokenForm,
    /// A newer token is needed, and there is no secret to get one with.
    #[error(
        "the token is at its end and cannot be renewed: set a newer token, or connect with a client id and its secret"
    )]
    TokenEnded,
    /// The gateway, or the way to it, said no.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// A publisher or subscription was used after its end.
    #[error("the stream is closed: open a new one")]
    Closed,
    /// The other side does not speak `warrengate.v1`.
    #[error("the gateway sent something unexpected ({0}): is it an older or newer Warrengate?")]
    Protocol(&'static str),
}

/// A status, decoded.
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

    /// The gateway's stable reason (`google.rpc.ErrorInfo`), upper snake case; empty when it gave none.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The gateway's sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The request field at fault.
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// When another try may succeed.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    fn next_step(&self) -> Option<&'static str> {
        Some(match self.code {
            _ if self.from_transport => "the connection broke: is the gateway still running? Trying again may help",
            Code::Unauthenticated => "check the client id and secret, or get a new token",
            Code::PermissionDenied => "ask an administrator for a grant, or use another client",
            // Most of the gateway's own sentences end so.
            Code::Unavailable if self.message.contains("try again") => return None,
            Code::Unavailable => "try again in a moment",
            Code::ResourceExhausted => "slow down, or ask for a larger plan",
            Code::Unimplemented => "this gateway does not offer it",
            Code::DeadlineExceeded => "it may have happened or not: look before trying again",
            Code::Internal | Code::Unknown | Code::DataLoss => "the gateway's log says more",
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
            write!(f, " (again after {:.1} s)", after.as_secs_f64())?;
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
            // tonic gives a status a source only when it made the status itself, of an error on the way.
            from_transport: status.source().is_some(),
        }))
    }
}

impl Error {
    /// What the gateway said, when it was the gateway that said no.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The gRPC status code, when there is one.
    pub fn code(&self) -> Option<Code> {
        self.refusal().map(Refusal::code)
    }

    /// Whether the way to the gateway broke, or the gateway is away or going away: a new connection may succeed.
    pub fn is_disconnect(&self) -> bool {
        match self {
            Self::Connect { .. } => true,
            Self::Refused(refusal) => refusal.code == Code::Unavailable || refusal.from_transport,
            _ => false,
        }
    }

    pub(super) fn connect(endpoint: &str, source: tonic::transport::Error) -> Self {
        // The innermost error is the one that says something; those around it say "transport error".
        let mut inner: &dyn std::error::Error = &source;
        while let Some(next) = inner.source() {
            inner = next;
        }
        let cause = inner.to_string();
        let next = if cause.contains("certificate") {
            "give the CA that signed this gateway's certificate, and an address that is among the certificate's names"
        } else if cause.contains("refused") {
            "is it running (`warrengate dev` starts one), and is the port right?"
        } else {
            "is it running, and is the address right?"
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
            Self::Connect { .. } => "GATEWAY_UNREACHABLE",
            Self::TokenForm => "BAD_TOKEN_FORM",
            Self::TokenEnded => "TOKEN_ENDED",
            // The gateway's own reason is no static text: `Refusal::reason` has it.
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
    use crate::error::Failure;

    #[test]
    fn a_refusal_keeps_reason_field_and_time_and_says_what_to_do() {
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
    fn what_to_do_is_said_once() {
        let said = |message: &str| Error::from(Status::unavailable(message)).to_string().matches("try again").count();
        assert_eq!((said("draining"), said("the broker does not answer; try again in a moment")), (1, 1));
    }

    #[test]
    fn a_broken_connection_is_told_from_a_refusal_of_the_gateway() {
        let from_gateway = Error::from(Status::internal("a fault"));
        let from_transport = Error::from(Status::from_error("stream reset".into()));
        assert!(!from_gateway.is_disconnect());
        assert!(from_transport.is_disconnect());
        assert!(Error::from(Status::unavailable("draining")).is_disconnect());
    }
}
