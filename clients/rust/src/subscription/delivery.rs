//! Deliveries and events of a subscription, and negative acknowledgements.

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;

use super::{Settler, window::Settlement};
use crate::pb::{self, NackAction};

/// A message delivered to this consumer. Settle it by exactly one of its methods; later calls have no effect, and
/// neither have calls after the end of its stream, because the message is delivered again.
#[derive(Debug, Clone)]
pub struct Delivery {
    epoch: u64,
    details: pb::Delivery,
    settler: Settler,
}

/// The gateway's limit for a reason, in bytes.
const MAX_REASON: usize = 1_024;

/// For a delivery without a message, which no gateway sends.
static NO_MESSAGE: LazyLock<pb::Message> = LazyLock::new(pb::Message::default);

impl Delivery {
    pub(super) fn new(epoch: u64, details: pb::Delivery, settler: Settler) -> Self {
        Self { epoch, details, settler }
    }

    /// Acknowledges the message.
    pub fn ack(&self) {
        self.settle(Settlement::ack(self.epoch, self.id()));
    }

    /// Delivers the message again after the queue's back-off; counts as a delivery attempt.
    pub fn retry(&self) {
        self.nack(Nack::retry());
    }

    /// Moves the message to the tenant's dead letters, with this reason of at most 1,024 bytes.
    pub fn dead_letter(&self, reason: impl Into<String>) {
        self.nack(Nack::dead_letter().because(reason));
    }

    /// Drops the message.
    pub fn discard(&self) {
        self.nack(Nack::discard());
    }

    /// Rejects the message.
    pub fn nack(&self, nack: Nack) {
        self.settle(Settlement::nack(self.epoch, nack.into_frame(self.id())));
    }

    fn settle(&self, settlement: Settlement) {
        // After the end of the subscription, the message is delivered again.
        let _ = self.settler.send(settlement.only_once());
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Its id on the current stream, as in [`Event::Settled`].
    pub fn id(&self) -> u64 {
        self.details.delivery_id
    }

    /// The message.
    pub fn message(&self) -> &pb::Message {
        self.details.message.as_ref().unwrap_or(&NO_MESSAGE)
    }

    /// The message's body.
    pub fn body(&self) -> &Bytes {
        &self.message().body
    }

    /// The message, without a copy.
    pub fn into_message(self) -> pb::Message {
        self.details.message.unwrap_or_default()
    }

    /// The delivery attempt; 1 is the first one.
    pub fn attempt(&self) -> u32 {
        self.details.attempt
    }

    /// All details: exchange, routing key, attempt, lease, offset.
    pub fn details(&self) -> &pb::Delivery {
        &self.details
    }
}

/// An event of a subscription.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "nearly all events are deliveries")]
pub enum Event {
    /// A message.
    Delivery(Delivery),
    /// The connection to the broker or the gateway was lost. Unsettled messages are delivered again.
    Interrupted {
        /// The cause, for people.
        reason: String,
    },
    /// The connection is established again.
    Resumed,
    /// The stream's token was renewed before it expired. No action is needed.
    Reauthenticated,
    /// Settlements without effect, and expired leases.
    Settled(pb::Settled),
}

/// A negative acknowledgement: what to do with a message that was not processed.
#[derive(Debug, Clone)]
pub struct Nack {
    action: NackAction,
    delay: Option<Duration>,
    reason: String,
}

impl Nack {
    /// Delivers the message again later; counts as a delivery attempt.
    pub fn retry() -> Self {
        Self::new(NackAction::Retry)
    }

    /// Moves the message to the tenant's dead letters.
    pub fn dead_letter() -> Self {
        Self::new(NackAction::DeadLetter)
    }

    /// Drops the message.
    pub fn discard() -> Self {
        Self::new(NackAction::Drop)
    }

    /// The delay before a retry, up to 24 h; the broker keeps the message. Zero means immediately. Default: the queue's
    /// back-off.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// The reason, for the trace and the dead letter; cut to 1,024 bytes.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    fn new(action: NackAction) -> Self {
        Self { action, delay: None, reason: String::new() }
    }

    pub(super) fn into_frame(self, id: u64) -> pb::Nack {
        let delay = self.delay.and_then(|delay| delay.try_into().ok());
        let mut reason = self.reason;
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        pb::Nack { delivery_ids: vec![id], action: self.action.into(), delay, reason }
    }
}
