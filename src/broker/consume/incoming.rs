//! A delivery for the subscriber, and the subscriber's remaining capacity.

use std::time::SystemTime;

use crate::{broker::message::retained::RetainedDelivery, pb::Message};

/// A delivery as the broker gave it.
#[derive(Debug, Default)]
pub struct Incoming {
    /// The channel's number for it.
    pub tag: u64,
    /// The size of its body, properties and headers, as the windows count it.
    pub bytes: usize,
    /// The message, as its producer wrote it.
    pub message: Message,
    /// The exchange it was published to, also after retries.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// In a stream queue.
    pub offset: Option<u64>,
    /// When a gateway accepted it; `None` for messages that were published without a gateway.
    pub accepted: Option<SystemTime>,
    /// What it was made of.
    pub retained: Option<Box<RetainedDelivery>>,
}

/// What the subscriber can take at this moment.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Messages that its window has left.
    pub messages: usize,
    /// Bytes that its window has left.
    pub bytes: usize,
    /// Messages that it has and has not settled.
    pub unsettled: usize,
}

impl Capacity {
    /// Whether a message goes out whatever its size: otherwise one larger than the window would never be delivered.
    pub fn is_idle(self) -> bool {
        self.unsettled == 0
    }
}
