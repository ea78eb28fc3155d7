//! How a message leaves a publisher: with what became of it, once.

use tokio::time::Instant;

use crate::{error::Failure, pb::Outcome, telemetry::Sending};

/// A message and what became of it.
#[derive(Debug)]
pub struct Settled {
    /// The stream's number for it.
    pub order: u64,
    /// The caller's number for it.
    pub sequence: u64,
    /// The message's id.
    pub message_id: String,
    /// Its size, for the stream's window.
    pub bytes: usize,
    /// When it was handed over.
    pub pushed: Option<Instant>,
    /// What became of it.
    pub verdict: Verdict,
    /// Its span, to be ended with the outcome.
    pub span: Option<Box<Sending>>,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The broker confirmed it.
    Confirmed,
    /// The broker has no queue for it.
    Unroutable,
    /// The broker refused it, or never got it; it is not stored.
    Rejected(Failure),
    /// It may be stored or not.
    Unknown(Failure),
}

impl Verdict {
    /// The outcome that callers see, and the stable code of what decided; empty when it is confirmed.
    pub fn outcome(&self) -> (Outcome, &'static str) {
        match self {
            Self::Confirmed => (Outcome::Confirmed, ""),
            Self::Unroutable => (Outcome::Unroutable, "NO_ROUTE"),
            Self::Rejected(failure) => (Outcome::Rejected, failure.reason),
            Self::Unknown(failure) => (Outcome::Unknown, failure.reason),
        }
    }
}
