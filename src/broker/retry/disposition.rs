//! What is to become of a delivery that was not done: words that streams and the resender share, without behaviour.

use std::time::Duration;

use crate::telemetry::DeadLetterReason;

/// What is to become of a delivery that was not done.
#[derive(Debug, Clone)]
pub enum Fate {
    /// Another attempt, after so long.
    Retry {
        /// None or less than 100 ms: now.
        delay: Duration,
        /// Why it failed, for the dead letter that it may become.
        reason: String,
    },
    /// It is given up.
    DeadLetter {
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        reason: String,
        /// How long it goes round once more when the dead letters are full.
        when_full: Duration,
    },
}

impl Fate {
    /// How long it waits.
    pub(in crate::broker) fn delay(&self) -> Duration {
        match self {
            Self::Retry { delay, .. } => *delay,
            Self::DeadLetter { .. } => Duration::ZERO,
        }
    }
}

/// Why a message was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Its consumer said so.
    Rejected,
    /// It had all its attempts.
    DeliveryLimit,
    /// Its queue is gone.
    QueueDeleted,
}

impl Code {
    pub(in crate::broker) fn counted(self) -> DeadLetterReason {
        match self {
            Self::Rejected => DeadLetterReason::Rejected,
            Self::DeliveryLimit => DeadLetterReason::DeliveryLimit,
            Self::QueueDeleted => DeadLetterReason::QueueDeleted,
        }
    }

    /// As dead letters and traces have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::DeliveryLimit => "delivery_limit",
            Self::QueueDeleted => "queue_deleted",
        }
    }
}
