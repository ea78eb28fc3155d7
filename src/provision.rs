//! The administrator's path to the broker, apart from the data path: RabbitMQ's HTTP API over mutual TLS, with an identity of
//! its own that may enter no vhost. A tenant's name and plan enter; what leaves is a broker that has the tenant's wall and
//! limits, and the list of what had to change ([`Provisioner`]); or, for one admitted tenant, a look at what is inside its
//! vhost ([`Inspector`]). Everything here can be repeated: a second run, or two at once, end in the same state.

mod api;
mod inspect;
mod policies;
mod quota;
mod reconcile;
mod rows;
mod stored;
mod usage;

pub use inspect::Inspector;
pub use quota::{Quota, Slot};
pub use reconcile::Provisioner;
pub use rows::{BindingInfo, ExchangeInfo, QueueInfo};
pub use stored::watch as watch_stored;
pub use usage::BrokerUsage;

use std::{borrow::Cow, time::Duration};

use rabbitmq_http_client::error::HttpClientError;
use reqwest::StatusCode;

use crate::error::{Classify, Kind};

pub use crate::broker::DEAD_LETTERS;

/// What went wrong between the gateway and the broker's HTTP API.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings cannot be used: an address, a certificate or a key.
    #[error("management: {what}")]
    Settings {
        /// Which, and what is wrong with it.
        what: String,
        /// The cause.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// No endpoint answered in time.
    #[error("the broker's administration does not answer; the broker may be starting, try again in a moment")]
    Unavailable(#[source] Cause),
    /// The certificate of one side is not accepted by the other.
    #[error(
        "the broker's administration and the gateway do not accept each other's certificates; \"warrengate doctor\" says \
         what to mend"
    )]
    Untrusted(#[source] Cause),
    /// The broker does not accept the gateway's administrator.
    #[error("the broker refuses the gateway's administrator; \"warrengate doctor\" says what to mend")]
    Refused(#[source] Cause),
    /// There is no such thing at the broker.
    #[error("the broker has no such object")]
    NotFound,
    /// The broker answered something that was not expected.
    #[error("the broker's administration gave an answer that the gateway does not understand")]
    Answer(#[source] Cause),
    /// The answer is larger than what the gateway keeps in memory.
    #[error("there is more than the gateway can list at once; narrow it down, for example to one exchange")]
    TooLarge,
}

/// What the HTTP client or the broker said, for the log: one line, without the client's stack traces and bodies.
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

    /// Whether another try may help: the broker is away, or a certificate is just being renewed.
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

impl From<HttpClientError> for Error {
    fn from(error: HttpClientError) -> Self {
        let said = error.error_details().and_then(|details| details.reason().map(str::to_owned));
        match error {
            HttpClientError::RequestError { error, .. } => error.into(),
            error => match error.status_code() {
                Some(status) => Self::of_status(status, Cause(format!("{error}: {}", said.unwrap_or_default()))),
                None => Self::Answer(Cause::of(&error)),
            },
        }
    }
}

/// A broker that is away and one that cannot be trusted look the same to the HTTP client, but not to who has to mend it.
fn is_about_certificates(error: &reqwest::Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if cause.is::<rustls::Error>() {
            return true;
        }
        // An `io::Error` shows what it wraps by `get_ref`, and only what is behind that by `source`.
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
            Self::TooLarge => Kind::Exhausted,
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
        }
    }

    fn message(&self) -> Cow<'static, str> {
        match self {
            // A path or an address of the operator's, which callers have no business with.
            Self::Settings { .. } => "the gateway's settings for the broker's administration cannot be used".into(),
            other => other.to_string().into(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self, Self::Unavailable(_)).then_some(Duration::from_secs(2))
    }
}
