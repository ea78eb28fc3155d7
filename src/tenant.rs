//! Admission of tenants in the running gateway. A [`TenantScope`] proves that the tenant and the client of a verified
//! [`Caller`](crate::auth::Caller) are admitted, and every entry point of the broker requires one. Only
//! [`Tenants::admit`] creates it, from the latest snapshot of the store, and it reports when it ends.

mod budget;
mod effective;
mod locks;
mod observer;
mod plan;
mod registry;
mod revoked_keys;
mod scope;
mod snapshot;
mod state;

pub use budget::{Budget, InFlightPermit, Limit, RateCheck, STORED_INTERVAL, Usage};
pub use effective::EffectiveGrants;
pub use locks::{CallPermit, TenantCalls, TenantLocks};
pub use observer::Observer;
pub use plan::Plan;
pub use registry::Tenants;
pub use scope::{Administrator, StreamPermit, TenantScope};

use std::{borrow::Cow, time::Duration};

use crate::error::{Classify, Kind};

/// The action of a caller. Admission checks the tenant and the client, and for `Administer` the grant; access to
/// individual exchanges and queues is checked where their names are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send messages.
    Publish,
    /// Receive messages.
    Subscribe,
    /// Declare, delete and bind exchanges and queues.
    Configure,
    /// Manage the clients of its own tenant.
    Administer,
    /// Inspect exchanges and queues.
    Inspect,
}

/// Why a caller is not admitted, or no longer admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A platform administrator's token on the data plane.
    #[error(
        "this token belongs to a platform administrator, who has no tenant and therefore no messages; \
         use the token of a tenant's client, such as \"acme.app\""
    )]
    NoTenant,
    /// Its tenant does not exist.
    #[error("the tenant of this token does not exist any more, or never existed")]
    Unknown,
    /// Its tenant is suspended.
    #[error("this token's tenant is suspended; a platform administrator can resume it")]
    Suspended,
    /// The client does not exist for this token: it was never created, was deleted, or uses tokens of another issuer.
    #[error(
        "this token's client does not exist here; an administrator can create it, or bind it to the token's issuer"
    )]
    UnknownClient,
    /// The client was revoked.
    #[error("this token's client is revoked; ask an administrator for another client")]
    Revoked,
    /// The client's secret was replaced, or the token's signing key was revoked.
    #[error("this token has been revoked; fetch a new one with the client's current secret")]
    TokenRevoked,
    /// The client was created recently on another gateway, and this one has not read it yet.
    #[error("this client is so new that this gateway does not know it yet; try again in a moment")]
    NotYetKnown {
        /// When to retry.
        retry_after: Duration,
    },
    /// The store has been unavailable for longer than the outage grace.
    #[error("the gateway's database has been unavailable for too long, so callers cannot be admitted; try again later")]
    StoreUnavailable,
    /// The client may not administer.
    #[error("this client may not administer; an administrator can grant it")]
    NotAdministrator,
    /// The client may not observe.
    #[error("this client may not observe its tenant; an administrator can grant it (observe)")]
    NotObserver,
    /// Re-authentication with another client's token.
    #[error("a stream can only be re-authenticated with a token of the same client")]
    OtherCaller,
    /// The plan's limit of streams is reached.
    #[error("the tenant has {max} open streams here, as many as its plan allows; close one, or ask for a larger plan")]
    TooManyStreams {
        /// The plan's limit.
        max: u32,
    },
    /// A message exceeds one of the plan's rates, or the tenant stores as much as its plan allows.
    #[error("over the plan's limit")]
    Throttled {
        /// The exceeded limit.
        limit: Limit,
        /// When the message can be sent.
        retry_after: Duration,
    },
    /// Too many calls of the tenant are waiting.
    #[error("too many calls of this tenant are in flight on this gateway; make fewer at the same time")]
    TooManyCalls,
    /// The plan's limit of these objects is reached.
    #[error("the tenant has {max} {what}, as many as its plan allows; delete some, or ask for a larger plan")]
    TooMany {
        /// The kind of object: `queues`, `exchanges` or `bindings`.
        what: &'static str,
        /// The plan's limit.
        max: u32,
    },
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::NoTenant | Self::Suspended | Self::NotAdministrator | Self::NotObserver | Self::OtherCaller => {
                Kind::Denied
            }
            Self::Unknown | Self::UnknownClient | Self::Revoked | Self::TokenRevoked => Kind::Unauthenticated,
            Self::TooManyStreams { .. } | Self::Throttled { .. } | Self::TooMany { .. } | Self::TooManyCalls => {
                Kind::Exhausted
            }
            Self::NotYetKnown { .. } | Self::StoreUnavailable => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NoTenant => "TENANT_REQUIRED",
            Self::Unknown => "TENANT_NOT_FOUND",
            Self::Suspended => "TENANT_SUSPENDED",
            Self::UnknownClient => "CLIENT_UNKNOWN",
            Self::Revoked => "CLIENT_REVOKED",
            Self::TokenRevoked => "TOKEN_WITHDRAWN",
            Self::NotYetKnown { .. } => "CLIENT_NOT_YET_KNOWN",
            Self::StoreUnavailable => "REGISTRY_STALE",
            Self::NotAdministrator => "ADMINISTER_NOT_GRANTED",
            Self::NotObserver => "OBSERVE_NOT_GRANTED",
            Self::OtherCaller => "REAUTHENTICATED_AS_ANOTHER",
            Self::TooManyStreams { .. } => "TOO_MANY_STREAMS",
            Self::Throttled { limit: Limit::MessageRate, .. } => "MESSAGE_RATE",
            Self::Throttled { limit: Limit::ByteRate, .. } => "BYTE_RATE",
            Self::Throttled { limit: Limit::StoredMessages, .. } => "STORED_MESSAGES",
            Self::Throttled { limit: Limit::StoredBytes, .. } => "STORED_BYTES",
            Self::TooManyCalls => "TOO_MANY_CALLS_IN_FLIGHT",
            Self::TooMany { what: "queues", .. } => "TOO_MANY_QUEUES",
            Self::TooMany { what: "exchanges", .. } => "TOO_MANY_EXCHANGES",
            Self::TooMany { .. } => "TOO_MANY_BINDINGS",
        }
    }

    fn message(&self) -> Cow<'static, str> {
        match self {
            // Returned for every message over the limit, so no text is formatted.
            Self::Throttled { limit, .. } => match limit {
                Limit::MessageRate => "more messages per second than the plan allows; send it again after retry_after",
                Limit::ByteRate => "more bytes per second than the plan allows; send it again after retry_after",
                Limit::StoredMessages => {
                    "the queues contain as many messages as the plan allows; consume or purge some"
                }
                Limit::StoredBytes => "the queues contain as many bytes as the plan allows; consume or purge some",
            }
            .into(),
            _ => self.to_string().into(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyStreams { .. } | Self::TooManyCalls => Some(Duration::from_secs(1)),
            Self::NotYetKnown { retry_after } | Self::Throttled { retry_after, .. } => Some(*retry_after),
            Self::TooMany { .. } => Some(Duration::from_secs(5)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
