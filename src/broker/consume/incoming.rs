//! A delivery for the subscriber, and the subscriber's remaining capacity.

use std::time::SystemTime;

use crate::{broker::message::retained::RetainedDelivery, pb::Message};

/// A delivery, converted from the broker's form.
#[derive(Debug, Default)]
pub struct Incoming {
    /// The channel's number for it.
    pub tag: u64,
    /// The size of its body, properties and headers, as it counts in the windows.
    pub bytes: usize,
    /// The memory that it needs: more than its size if it has many headers.
    pub weight: usize,
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
    /// Its offset in a stream queue.
    pub offset: Option<u64>,
    /// When a gateway accepted it; `None` for messages that were published without a gateway.
    pub accepted: Option<SystemTime>,
    /// The original delivery, for publishing it again.
    pub retained: Option<Box<RetainedDelivery>>,
}

/// The number and size of the messages that the subscriber can receive now.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// The free messages of its window.
    pub messages: usize,
    /// The free bytes of its window.
    pub bytes: usize,
    /// The messages that it has received and not settled.
    pub unsettled: usize,
}

impl Capacity {
    /// Whether a message of any size may be delivered. Otherwise one larger than the window would never be delivered.
    pub fn is_idle(self) -> bool {
        self.unsettled == 0
    }
}
