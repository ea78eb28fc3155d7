//! Events of a client's streams, for logs and health checks.

/// What happened to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lifecycle {
    /// A stream is open.
    Connected,
    /// A stream or its connection broke; it is opened again.
    Disconnected,
    /// The gateway is about to stop; its streams move to another one.
    Draining,
    /// The gateway lost its broker.
    Interrupted,
    /// The gateway has its broker again.
    Resumed,
    /// An open stream continues with a newer token.
    Reauthenticated,
    /// Leases expired, and their messages are delivered again.
    LeaseExpired,
    /// The client is closed.
    Closed,
}

impl Lifecycle {
    /// Its name in all client libraries, for example `lease_expired`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Draining => "draining",
            Self::Interrupted => "interrupted",
            Self::Resumed => "resumed",
            Self::Reauthenticated => "reauthenticated",
            Self::LeaseExpired => "lease_expired",
            Self::Closed => "closed",
        }
    }
}

/// An event of a client's streams.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LifecycleEvent {
    /// What happened.
    pub kind: Lifecycle,
    /// `publisher`, `client`, or the queue of a consumer.
    pub source: String,
    /// A description for people; it may be empty.
    pub detail: String,
}
