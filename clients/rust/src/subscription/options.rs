//! Subscription options, and the `start` frame that they become. For a stream queue, the frame resumes at the position
//! that was reached.

use std::time::{Duration, SystemTime};

use crate::pb::{self, StreamFirst, StreamLast, StreamNext, stream_position::Position};

/// The gateway's default of [`SubscribeOptions::max_outstanding_messages`], in which case the field is zero.
const DEFAULT_WINDOW: u32 = 256;

/// Options of a subscription.
#[derive(Debug, Clone)]
pub struct SubscribeOptions {
    start: pb::SubscribeStart,
    concurrency: usize,
    max_lease: Duration,
    reconnect_for: Option<Duration>,
}

impl SubscribeOptions {
    /// Consumes this queue, with the gateway's defaults.
    pub fn queue(queue: impl Into<String>) -> Self {
        let start = pb::SubscribeStart { queue: queue.into(), ..Default::default() };
        Self { start, concurrency: 1, max_lease: Duration::from_secs(3_600), reconnect_for: None }
    }

    /// How many deliveries may be unsettled at once: 1 to 10,000. Default: 256.
    #[must_use]
    pub fn max_outstanding_messages(mut self, messages: u32) -> Self {
        self.start.max_outstanding_messages = messages;
        self
    }

    /// How many body bytes may be unsettled at once: up to 256 MiB. Default: 16 MiB.
    #[must_use]
    pub fn max_outstanding_bytes(mut self, bytes: u64) -> Self {
        self.start.max_outstanding_bytes = bytes;
        self
    }

    /// How many handlers of [`crate::Client::consume`] run at a time, 1 to 10,000. Default: 1, which keeps the order.
    /// The window has at least this size.
    #[must_use]
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.clamp(1, 10_000);
        self
    }

    /// How long after its delivery a message's lease is extended while it is not settled; zero: not at all. Default:
    /// 1 h.
    #[must_use]
    pub fn max_lease(mut self, limit: Duration) -> Self {
        self.max_lease = limit;
        self
    }

    /// The lease of each delivery: 10 s to 1 h. It is extended automatically, up to [`Self::max_lease`]. Default: 60 s.
    #[must_use]
    pub fn ack_deadline(mut self, lease: Duration) -> Self {
        self.start.ack_deadline = lease.try_into().ok();
        self
    }

    /// Allows no other consumer on the queue.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        self.start.exclusive = true;
        self
    }

    /// Consumers of higher priority are served first: -128 to 127. Default: 0.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.start.priority = priority;
        self
    }

    /// Acknowledges each delivery as soon as it is sent. A message that is lost in transit is not delivered again.
    #[must_use]
    pub fn auto_ack(mut self) -> Self {
        self.start.auto_ack = true;
        self
    }

    /// Reads a stream queue from its oldest message.
    #[must_use]
    pub fn from_first(self) -> Self {
        self.at(Position::First(StreamFirst {}))
    }

    /// Reads a stream queue from its last chunk.
    #[must_use]
    pub fn from_last(self) -> Self {
        self.at(Position::Last(StreamLast {}))
    }

    /// Reads only new messages of a stream queue (the default).
    #[must_use]
    pub fn from_next(self) -> Self {
        self.at(Position::Next(StreamNext {}))
    }

    /// Reads a stream queue from this offset.
    #[must_use]
    pub fn from_offset(self, offset: u64) -> Self {
        self.at(Position::Offset(offset))
    }

    /// Reads a stream queue from the chunk written at this time, in whole seconds.
    #[must_use]
    pub fn from_time(self, time: SystemTime) -> Self {
        let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        self.at(Position::Timestamp(prost_types::Timestamp { seconds, nanos: 0 }))
    }

    /// How long to try to reconnect when the gateway is unavailable. Default: without a limit.
    #[must_use]
    pub fn reconnect_for(mut self, limit: Duration) -> Self {
        self.reconnect_for = Some(limit);
        self
    }

    fn at(mut self, position: Position) -> Self {
        self.start.position = Some(pb::StreamPosition { position: Some(position) });
        self
    }

    pub(super) fn queue_name(&self) -> &str {
        &self.start.queue
    }

    pub(super) fn handlers(&self) -> usize {
        self.concurrency
    }

    pub(super) fn lease_limit(&self) -> Duration {
        self.max_lease
    }

    pub(super) fn reconnect_limit(&self) -> Option<Duration> {
        self.reconnect_for
    }

    pub(super) fn is_auto_ack(&self) -> bool {
        self.start.auto_ack
    }

    /// The first frame of a stream. A stream queue resumes at this offset.
    pub(super) fn start(&self, resume_from: Option<u64>) -> pb::SubscribeStart {
        let mut start = match resume_from {
            Some(offset) => self.clone().from_offset(offset).start,
            None => self.start.clone(),
        };
        let handlers = u32::try_from(self.concurrency).unwrap_or(u32::MAX);
        let window = match start.max_outstanding_messages {
            0 => DEFAULT_WINDOW,
            window => window,
        };
        if handlers > window {
            start.max_outstanding_messages = handlers;
        }
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_the_first_frame() {
        let options = SubscribeOptions::queue("orders")
            .max_outstanding_messages(10)
            .max_outstanding_bytes(1_000)
            .ack_deadline(Duration::from_secs(30))
            .priority(7)
            .exclusive()
            .auto_ack()
            .max_lease(Duration::from_secs(60))
            .reconnect_for(Duration::from_secs(5));
        let expected = pb::SubscribeStart {
            queue: "orders".into(),
            max_outstanding_messages: 10,
            max_outstanding_bytes: 1_000,
            ack_deadline: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
            priority: 7,
            exclusive: true,
            auto_ack: true,
            ..pb::SubscribeStart::default()
        };
        assert_eq!(options.start(None), expected);
        assert!(options.is_auto_ack());
        let limits = (options.lease_limit(), options.reconnect_limit());
        assert_eq!(limits, (Duration::from_secs(60), Some(Duration::from_secs(5))));
    }

    #[test]
    fn the_window_is_never_smaller_than_the_number_of_handlers() {
        let window = |options: SubscribeOptions| options.start(None).max_outstanding_messages;
        assert_eq!(window(SubscribeOptions::queue("q").concurrency(8)), 0, "the gateway's default is enough");
        assert_eq!(window(SubscribeOptions::queue("q").concurrency(300)), 300);
        assert_eq!(window(SubscribeOptions::queue("q").concurrency(20).max_outstanding_messages(10)), 20);
        assert_eq!(window(SubscribeOptions::queue("q").concurrency(20).max_outstanding_messages(100)), 100);
    }

    #[test]
    fn a_stream_queue_starts_at_the_position_and_resumes_at_the_offset() {
        let position = |start: pb::SubscribeStart| start.position.and_then(|position| position.position);
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        for (options, expected) in [
            (SubscribeOptions::queue("q").from_first(), Position::First(StreamFirst {})),
            (SubscribeOptions::queue("q").from_last(), Position::Last(StreamLast {})),
            (SubscribeOptions::queue("q").from_next(), Position::Next(StreamNext {})),
            (
                SubscribeOptions::queue("q").from_time(at),
                Position::Timestamp(prost_types::Timestamp { seconds: 1, nanos: 0 }),
            ),
        ] {
            assert_eq!(position(options.start(None)), Some(expected));
            assert_eq!(position(options.start(Some(42))), Some(Position::Offset(42)));
        }
    }
}
