//! The disposition of a delivery that its consumer did not acknowledge.

use std::time::Duration;

use crate::telemetry::DeadLetterReason;

/// What happens to a delivery that its consumer did not acknowledge.
#[derive(Debug, Clone)]
pub enum Disposition {
    /// Another attempt.
    Retry {
        /// The delay before it; zero means at once.
        delay: Duration,
        /// Why this attempt failed, for the dead letter that it may become.
        reason: String,
    },
    /// It becomes a dead letter.
    DeadLetter {
        /// The reason, for programs.
        code: DeadLetterCode,
        /// The reason, for people.
        reason: String,
        /// The delay of one more retry when the dead-letter queue is full.
        when_full: Duration,
    },
}

impl Disposition {
    /// The delay before the next attempt.
    pub(super) fn delay(&self) -> Duration {
        match self {
            Self::Retry { delay, .. } => *delay,
            Self::DeadLetter { .. } => Duration::ZERO,
        }
    }

    /// Why this attempt failed.
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Retry { reason, .. } | Self::DeadLetter { reason, .. } => reason,
        }
    }
}

/// Why a message became a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterCode {
    /// Its consumer rejected it.
    Rejected,
    /// It has used up its attempts.
    DeliveryLimit,
    /// Its queue was deleted.
    QueueDeleted,
    /// Its headers are too large to be published again.
    HeadersTooLarge,
}

impl DeadLetterCode {
    /// The label of this reason in metrics.
    pub(super) fn metric_label(self) -> DeadLetterReason {
        match self {
            Self::Rejected | Self::HeadersTooLarge => DeadLetterReason::Rejected,
            Self::DeliveryLimit => DeadLetterReason::DeliveryLimit,
            Self::QueueDeleted => DeadLetterReason::QueueDeleted,
        }
    }

    /// The code in dead letters and traces.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::DeliveryLimit => "delivery_limit",
            Self::QueueDeleted => "queue_deleted",
            Self::HeadersTooLarge => "headers_too_large",
        }
    }
}
