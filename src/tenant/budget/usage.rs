//! Usage of a tenant on this gateway, for its limits and meters. The counters are kept when the plan changes or the
//! tenant is suspended, so that open streams and messages in flight remain counted.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

/// The current usage of a tenant on this gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Open streams.
    pub streams: u32,
    /// Published messages in flight.
    pub in_flight_messages: u64,
    /// Their bytes.
    pub in_flight_bytes: u64,
    /// Messages published during the last second.
    pub messages_per_second: u64,
    /// Their bytes.
    pub bytes_per_second: u64,
}

/// The number of messages over which their mean overhead is computed.
const OVERHEAD_MESSAGES: f64 = 256.0;

#[derive(Debug)]
pub(in crate::tenant) struct UsageCounters {
    streams: AtomicU32,
    in_flight: (AtomicU64, AtomicU64),
    /// In all queues, from the last measurement.
    stored: (AtomicU64, AtomicU64),
    /// Messages published since the start, to find the tenants that published since the last measurement.
    published: AtomicU64,
    seconds: Mutex<Seconds>,
    start: Instant,
}

/// Messages and bytes of the current and the previous second.
#[derive(Debug, Default)]
struct Seconds {
    number: u64,
    now: (u64, u64),
    before: (u64, u64),
    /// The mean size of properties and headers of recently published messages.
    overhead: f64,
}

impl Seconds {
    fn advance_to(&mut self, number: u64) {
        match number.saturating_sub(self.number) {
            0 => return,
            1 => self.before = std::mem::take(&mut self.now),
            _ => (self.before, self.now) = Default::default(),
        }
        self.number = number;
    }
}

impl Default for UsageCounters {
    fn default() -> Self {
        Self {
            streams: AtomicU32::default(),
            in_flight: Default::default(),
            stored: Default::default(),
            published: AtomicU64::default(),
            seconds: Mutex::default(),
            start: Instant::now(),
        }
    }
}

impl UsageCounters {
    /// Counts one more stream, unless that exceeds `max` (0: unlimited).
    pub(in crate::tenant) fn open_stream(&self, max: u32) -> bool {
        let more = |open: u32| if max == 0 || open < max { open.checked_add(1) } else { None };
        self.streams.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    pub(in crate::tenant) fn close_stream(&self) {
        self.streams.fetch_sub(1, Relaxed);
    }

    pub(in crate::tenant) fn streams(&self) -> u32 {
        self.streams.load(Relaxed)
    }

    pub(super) fn acquired(&self, messages: u64, bytes: u64) {
        self.in_flight.0.fetch_add(messages, Relaxed);
        self.in_flight.1.fetch_add(bytes, Relaxed);
    }

    pub(super) fn released(&self, messages: u64, bytes: u64) {
        self.in_flight.0.fetch_sub(messages, Relaxed);
        self.in_flight.1.fetch_sub(bytes, Relaxed);
    }

    /// `overhead` is the part of the bytes that the broker does not count as stored.
    pub(super) fn published(&self, messages: u64, bytes: u64, overhead: u64) {
        self.published.fetch_add(messages, Relaxed);
        let number = self.start.elapsed().as_secs();
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        seconds.advance_to(number);
        seconds.now = (seconds.now.0 + messages, seconds.now.1 + bytes);
        if messages > 0 {
            let (each, share) = (overhead as f64 / messages as f64, (messages as f64 / OVERHEAD_MESSAGES).min(1.0));
            seconds.overhead += (each - seconds.overhead) * share;
        }
    }

    pub(in crate::tenant) fn ever_published(&self) -> u64 {
        self.published.load(Relaxed)
    }

    /// Stored messages and their bytes: RabbitMQ counts bodies only, so the recent mean of properties and headers is
    /// added.
    pub(super) fn stored(&self) -> (u64, u64) {
        (self.stored.0.load(Relaxed), self.stored.1.load(Relaxed))
    }

    pub(in crate::tenant) fn set_stored(&self, messages: u64, bytes: u64) {
        let overhead = self.seconds.lock().unwrap_or_else(PoisonError::into_inner).overhead;
        self.stored.0.store(messages, Relaxed);
        self.stored.1.store(bytes.saturating_add((messages as f64 * overhead) as u64), Relaxed);
    }

    pub(in crate::tenant) fn usage(&self) -> Usage {
        let elapsed = self.start.elapsed();
        let (now, before) = {
            let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
            seconds.advance_to(elapsed.as_secs());
            (seconds.now, seconds.before)
        };
        // The last second covers the part of the previous calendar second that the current one lacks.
        let rest = u64::from(1_000 - elapsed.subsec_millis());
        let last = |now: u64, before: u64| now + before.saturating_mul(rest) / 1_000;
        Usage {
            streams: self.streams(),
            in_flight_messages: self.in_flight.0.load(Relaxed),
            in_flight_bytes: self.in_flight.1.load(Relaxed),
            messages_per_second: last(now.0, before.0),
            bytes_per_second: last(now.1, before.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_second_covers_parts_of_two_calendar_seconds() {
        let mut seconds = Seconds { number: 7, now: (3, 30), before: (9, 90), overhead: 0.0 };
        seconds.advance_to(7);
        assert_eq!((seconds.now, seconds.before), ((3, 30), (9, 90)));
        seconds.advance_to(8);
        assert_eq!((seconds.now, seconds.before), ((0, 0), (3, 30)));
        seconds.advance_to(10);
        assert_eq!((seconds.now, seconds.before), ((0, 0), (0, 0)));
    }

    #[test]
    fn streams_are_counted_up_to_the_limit() {
        let used = UsageCounters::default();
        assert!(used.open_stream(1) && !used.open_stream(1) && used.open_stream(0));
        used.close_stream();
        assert_eq!(used.usage().streams, 1);
    }
}
