//! The outcome of a publish.

use tokio::time::Instant;

use crate::{error::Failure, pb::Outcome, telemetry::Sending};

/// A message with its status.
#[derive(Debug)]
pub struct PublishOutcome {
    /// The number that the stream has given it.
    pub order: u64,
    /// The number that the caller has given it.
    pub sequence: u64,
    /// The message's id.
    pub message_id: String,
    /// Its size, for the stream's window.
    pub bytes: usize,
    /// When it was pushed to the publisher.
    pub pushed: Option<Instant>,
    /// Whether it is stored.
    pub status: PublishStatus,
    /// Its span, to be ended with the outcome.
    pub span: Option<Box<Sending>>,
}

/// Whether a message is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishStatus {
    /// The broker confirmed it.
    Confirmed,
    /// No queue is bound for it; it is not stored.
    Unroutable,
    /// The broker rejected it, or never received it; it is not stored.
    Rejected(Failure),
    /// It may be stored or not.
    Unknown(Failure),
}

impl PublishStatus {
    /// The outcome as callers see it, and the stable code of the reason, which is empty when it is confirmed.
    pub fn outcome(&self) -> (Outcome, &'static str) {
        match self {
            Self::Confirmed => (Outcome::Confirmed, ""),
            Self::Unroutable => (Outcome::Unroutable, "NO_ROUTE"),
            Self::Rejected(failure) => (Outcome::Rejected, failure.reason),
            Self::Unknown(failure) => (Outcome::Unknown, failure.reason),
        }
    }
}
