//! One delivery that is published again: its destination and its state.

use std::time::{Duration, SystemTime};

use lapin::BasicProperties;
use tokio::time::Instant;

use super::disposition::{DeadLetterCode, Disposition};
use crate::{
    broker::{
        gateway_objects::{DEAD_LETTERS, DELAY_EXCHANGE},
        message::{
            delay_bucket::DelayBucket,
            retained::{Failure, RetainedDelivery},
            size::fits_a_frame,
        },
        publish::pending::PendingPublish,
    },
    names::{ExchangeName, QueueName},
};

/// How long a message that does not fit into its full queue waits in a delay queue.
const FULL_QUEUE_DELAY: Duration = Duration::from_secs(1);

/// One delivery to be published again.
pub(super) struct Job {
    pub(super) tag: u64,
    pub(super) delivery: Box<RetainedDelivery>,
    pub(super) disposition: Disposition,
    failed_at: SystemTime,
    /// When its delay ends.
    pub(super) due: Instant,
    pub(super) state: JobState,
    /// Whether it was counted in the tenant's rates.
    pub(super) is_counted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobState {
    /// Can be published now.
    Ready,
    /// Is tried again when its timer fires, or earlier when the object that it needs has been declared.
    Waiting,
    /// Has been passed to the publisher.
    Publishing,
    /// Is confirmed by a new delay queue, whose messages the broker may still lose; the old copy is kept until the
    /// timer fires.
    Settling,
}

/// The destination of a job's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    Queue,
    Delay(DelayBucket),
    DeadLetters,
}

impl Job {
    pub(super) fn new(tag: u64, delivery: Box<RetainedDelivery>, disposition: Disposition) -> Self {
        let due = Instant::now() + disposition.delay();
        let (failed_at, state) = (SystemTime::now(), JobState::Ready);
        Self { tag, delivery, disposition, failed_at, due, state, is_counted: false }
    }

    pub(super) fn destination(&self) -> Destination {
        match &self.disposition {
            Disposition::Retry { delay, .. } if delay.is_zero() => Destination::Queue,
            Disposition::Retry { delay, .. } => {
                Destination::Delay(DelayBucket::of(*delay, *self.delivery.properties().priority()))
            }
            Disposition::DeadLetter { .. } => Destination::DeadLetters,
        }
    }

    /// Makes it a dead letter, because its queue does not exist any more.
    pub(super) fn queue_deleted(&mut self) {
        self.dead_letter(DeadLetterCode::QueueDeleted, self.disposition.reason().to_owned());
    }

    fn dead_letter(&mut self, code: DeadLetterCode, reason: String) {
        self.disposition = Disposition::DeadLetter { code, reason, when_full: FULL_QUEUE_DELAY };
    }

    /// Sends it to a delay queue because its destination is full; returns whether this is the first time.
    pub(super) fn delay_because_full(&mut self) -> bool {
        let delay = match &self.disposition {
            Disposition::Retry { delay, .. } if delay.is_zero() => FULL_QUEUE_DELAY,
            Disposition::Retry { .. } | Disposition::DeadLetter { code: DeadLetterCode::HeadersTooLarge, .. } => {
                return false;
            }
            Disposition::DeadLetter { when_full, .. } => *when_full,
        };
        self.disposition = Disposition::Retry { delay, reason: self.disposition.reason().to_owned() };
        self.due = Instant::now() + delay;
        true
    }

    /// Ends its delay, which was over before a delay queue accepted the message.
    pub(super) fn end_delay(&mut self) {
        self.disposition = Disposition::Retry { delay: Duration::ZERO, reason: self.disposition.reason().to_owned() };
    }

    pub(super) fn publish(&mut self, order: u64, queue: &QueueName) -> PendingPublish {
        let mut properties = self.properties(queue);
        if !fits_a_frame(&properties) && self.destination() != Destination::DeadLetters {
            let reason = format!("{} (its headers are too large to be published again)", self.disposition.reason());
            self.dead_letter(DeadLetterCode::HeadersTooLarge, reason);
            properties = self.properties(queue);
        }
        let (exchange, key) = match self.destination() {
            Destination::Queue => ("", queue.as_str()),
            Destination::Delay(_) => (DELAY_EXCHANGE, queue.as_str()),
            Destination::DeadLetters => (DEAD_LETTERS, ""),
        };
        let exchange = ExchangeName::of_gateway(exchange);
        PendingPublish::republish(order, exchange, key.to_owned(), self.delivery.body().clone(), properties)
    }

    fn properties(&self, queue: &QueueName) -> BasicProperties {
        let failure = Failure { reason: self.disposition.reason().to_owned(), at: self.failed_at };
        match &self.disposition {
            Disposition::DeadLetter { code, .. } => {
                self.delivery.as_dead_letter(&failure, queue.as_str(), code.as_str())
            }
            Disposition::Retry { .. } => match self.destination() {
                Destination::Delay(bucket) => self.delivery.after_failure(&failure, Some(bucket)),
                _ => self.delivery.after_failure(&failure, None),
            },
        }
    }
}
