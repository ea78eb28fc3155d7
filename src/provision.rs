//! Administration of the broker over RabbitMQ's management HTTP API, separate from the data path: mutual TLS with an
//! identity of its own that has permissions in no vhost. [`Provisioner`] creates a tenant's vhost, user and limits and
//! reports the changes; [`Inspector`] reads the objects in one tenant's vhost.
//!
//! Invariant: every operation can be repeated. A second run, or two at the same time, have the same result.

mod ages;
mod client;
mod figures;
mod http;
mod inspect;
mod policies;
mod queue_metrics;
mod quota;
mod reconcile;
mod rows;
mod status;
mod stored;
mod usage;

pub use figures::{QueueFigures, TenantFigures};
pub use inspect::Inspector;
pub use queue_metrics::watch as watch_queues;
pub use quota::{Quota, Slot};
pub use reconcile::{Provisioner, Reconciled};
pub use rows::{BindingInfo, ExchangeInfo, QueueInfo};
pub use status::{BrokerState, NodeState};
pub use stored::watch as watch_stored;
pub use usage::BrokerUsage;

use std::{borrow::Cow, time::Duration};

use reqwest::StatusCode;

use crate::{
    error::{Classify, Kind},
    memory::{self, Full},
};

pub use crate::broker::DEAD_LETTERS;

/// A failed request to the broker's management API.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings cannot be used: an address, a certificate or a key.
    #[error("management: {what}")]
    Settings {
        /// The setting, and the problem with it.
        what: String,
        /// The cause.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// No endpoint responded in time.
    #[error("the broker's management API does not respond; the broker may be starting, try again in a moment")]
    Unavailable(#[source] Cause),
    /// One side does not accept the other's certificate.
    #[error(
        "the broker's management API and the gateway do not accept each other's certificates; run \"warrengate doctor\""
    )]
    Untrusted(#[source] Cause),
    /// The broker does not accept the provisioner's credentials.
    #[error("the broker rejected the provisioner's credentials; run \"warrengate doctor\"")]
    Refused(#[source] Cause),
    /// The broker has no such object.
    #[error("the broker has no such object")]
    NotFound,
    /// An unexpected answer.
    #[error("the broker's management API sent an unexpected response")]
    Answer(#[source] Cause),
    /// The response is too large for the gateway's memory.
    #[error("the list is longer than the gateway can return; narrow it down, for example to one exchange")]
    TooLarge,
    /// The memory budget cannot take the answer at the moment.
    #[error("the gateway has no memory for this list at the moment; try again later")]
    NoMemory(#[from] Full),
}

/// The cause of a failed request for the log, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Cause(String);

impl Cause {
    fn of(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        Self(text)
    }
}

impl Error {
    fn settings(what: impl Into<String>) -> Self {
        Self::Settings { what: what.into(), source: None }
    }

    fn of_status(status: StatusCode, cause: Cause) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::Refused(cause),
            status if status.is_server_error() => Self::Unavailable(cause),
            _ => Self::Answer(cause),
        }
    }

    /// Whether another attempt may help, because the broker is unreachable or a certificate is being renewed.
    const fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Untrusted(_))
    }
}

impl From<reqwest::Error> for Error {
    fn from(error: reqwest::Error) -> Self {
        let cause = Cause::of(&error);
        match error.status() {
            Some(status) => Self::of_status(status, cause),
            None if is_about_certificates(&error) => Self::Untrusted(cause),
            None if error.is_decode() => Self::Answer(cause),
            None => Self::Unavailable(cause),
        }
    }
}

/// Whether the error is about certificates. The HTTP client reports an unreachable broker and an untrusted one in the
/// same way, but they need different actions of the operator.
fn is_about_certificates(error: &reqwest::Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if cause.is::<rustls::Error>() {
            return true;
        }
        // `io::Error::source` skips the error that it wraps; `get_ref` returns that one.
        let wrapped = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = wrapped.map_or_else(|| cause.source(), |wrapped| Some(wrapped));
    }
    false
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Unavailable(_) => Kind::Unavailable,
            Self::NotFound => Kind::NotFound,
            Self::TooLarge | Self::NoMemory(_) => Kind::Exhausted,
            Self::Settings { .. } | Self::Untrusted(_) | Self::Refused(_) | Self::Answer(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Settings { .. } => "BROKER_ADMIN_SETTINGS",
            Self::Unavailable(_) => "BROKER_ADMIN_UNAVAILABLE",
            Self::Untrusted(_) => "BROKER_ADMIN_UNTRUSTED",
            Self::Refused(_) => "BROKER_ADMIN_REFUSED",
            Self::NotFound => "BROKER_OBJECT_NOT_FOUND",
            Self::Answer(_) => "BROKER_ADMIN_BAD_RESPONSE",
            Self::TooLarge => "RESULT_TOO_LARGE",
            Self::NoMemory(_) => "MEMORY_EXHAUSTED",
        }
    }

    fn message(&self) -> Cow<'static, str> {
        match self {
            // Paths and addresses of the operator are not shown to callers.
            Self::Settings { .. } => "the gateway's settings for the broker's management API cannot be used".into(),
            other => other.to_string().into(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable(_) => Some(Duration::from_secs(2)),
            Self::NoMemory(_) => Some(memory::RETRY_AFTER),
            _ => None,
        }
    }
}
