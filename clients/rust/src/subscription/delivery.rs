//! What a subscription hands to the application, and what the application says about it.

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;

use crate::pb::{self, NackAction};

/// A message handed to this consumer, once. Settle it within its lease.
#[derive(Debug, Clone)]
pub struct Delivery {
    epoch: u64,
    details: pb::Delivery,
}

/// What a delivery without a message has; no gateway sends one.
static NO_MESSAGE: LazyLock<pb::Message> = LazyLock::new(pb::Message::default);

impl Delivery {
    pub(super) fn new(epoch: u64, details: pb::Delivery) -> Self {
        Self { epoch, details }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Its number on the present stream, as [`Event::Settled`] names it.
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

    /// All of it: exchange, routing key, attempt, lease, offset.
    pub fn details(&self) -> &pb::Delivery {
        &self.details
    }
}

/// What happens on a subscription.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "nearly all events are deliveries")]
pub enum Event {
    /// A message.
    Delivery(Delivery),
    /// The link to the broker or to the gateway is gone. What was delivered and is not settled comes again.
    Interrupted {
        /// A sentence for people.
        reason: String,
    },
    /// The link is back.
    Resumed,
    /// The gateway warned that the token ends, and the stream goes on with a newer one; nothing is to be done.
    Reauthenticated,
    /// Settlements without effect, and leases that ran out.
    Settled(pb::Settled),
}

/// What is to become of a message that was not done.
#[derive(Debug, Clone)]
pub struct Nack {
    action: NackAction,
    delay: Option<Duration>,
    reason: String,
}

impl Nack {
    /// Try again later; uses up one of the queue's delivery attempts.
    pub fn retry() -> Self {
        Self::new(NackAction::Retry)
    }

    /// To the tenant's dead letters, now.
    pub fn dead_letter() -> Self {
        Self::new(NackAction::DeadLetter)
    }

    /// Forget it.
    pub fn discard() -> Self {
        Self::new(NackAction::Drop)
    }

    /// For a retry: how long to wait before it, up to 24 h, kept by the broker; zero is at once. Default: the queue's back-off.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Why, for the trace and the dead letter; at most 1,024 bytes.
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
        pb::Nack { delivery_ids: vec![id], action: self.action.into(), delay, reason: self.reason }
    }
}
