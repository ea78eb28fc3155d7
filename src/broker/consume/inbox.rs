//! Deliveries that the broker has sent and the subscriber has not received yet.
//!
//! Invariant: the bodies in the inbox fit into the rest of the subscriber's byte window, or belong to one message that
//! is larger than the window. For all other deliveries, the inbox contains only the tag and the size, in order, until
//! they are returned to the queue.

use std::collections::VecDeque;

use super::incoming::{Capacity, Incoming};

/// How much weight of messages with headers counts as a byte of a frame.
const WEIGHT_OF_A_BYTE: usize = 4;

/// The deliveries received and not yet passed on.
#[derive(Default)]
pub(super) struct Inbox {
    ready: VecDeque<Incoming>,
    ready_bytes: usize,
    excess: VecDeque<Excess>,
    /// The number of requeued deliveries that are expected here again.
    expected: usize,
    /// The mean size of recent deliveries.
    mean: f64,
}

/// A delivery whose body was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Excess {
    pub(super) tag: u64,
    pub(super) bytes: usize,
    pub(super) offset: Option<u64>,
}

impl Inbox {
    /// The number of messages with their bodies.
    pub(super) fn len(&self) -> usize {
        self.ready.len()
    }

    /// Their size.
    pub(super) fn bytes(&self) -> usize {
        self.ready_bytes
    }

    /// The tags of all deliveries, with and without bodies.
    pub(super) fn tags(&self) -> impl Iterator<Item = u64> {
        self.ready.iter().map(|delivery| delivery.tag).chain(self.excess.iter().map(|excess| excess.tag))
    }

    /// The oldest delivery that did not fit.
    pub(super) fn first_excess(&self) -> Option<Excess> {
        self.excess.front().copied()
    }

    /// How many messages of the recent mean size fit into this many bytes.
    pub(super) fn fit(&self, bytes: usize) -> usize {
        (bytes as f64 / self.mean.max(1.0)) as usize
    }

    /// Whether a delivery of this size is stored with its body. Once one did not fit, no later one is stored, which
    /// preserves the order, except for requeued deliveries that are expected here again.
    pub(super) fn keeps(&self, bytes: usize, redelivered: bool, capacity: Capacity, spare: usize) -> bool {
        let in_order = self.excess.is_empty() || (self.expected > 0 && redelivered);
        let fits = self.ready_bytes.saturating_add(bytes) <= capacity.bytes;
        in_order && (fits || (self.ready.len() < spare))
    }

    /// Adds a delivery with its body.
    pub(super) fn keep(&mut self, delivery: Incoming) {
        self.seen(delivery.bytes);
        if delivery.redelivered && !self.excess.is_empty() {
            self.expected = self.expected.saturating_sub(1);
        }
        self.ready_bytes += delivery.bytes;
        self.ready.push_back(delivery);
    }

    /// Adds the tag and size of a delivery whose body was dropped.
    pub(super) fn drop_body(&mut self, excess: Excess) {
        self.seen(excess.bytes);
        self.excess.push_back(excess);
    }

    fn seen(&mut self, bytes: usize) {
        let bytes = bytes as f64;
        self.mean += if self.mean == 0.0 { bytes } else { (bytes - self.mean) / 8.0 };
    }

    /// The next batch in order: at most so many messages, of `frame` bytes together unless it is one larger message,
    /// within the capacity unless nothing else is unsettled. Messages with many headers count as larger, because encoding
    /// them takes longer.
    pub(super) fn next_batch(&mut self, most: usize, frame: usize, capacity: Capacity) -> Vec<Incoming> {
        let (mut count, mut bytes, mut weight) = (0, 0, 0);
        for delivery in self.ready.iter().take(most.min(capacity.messages)) {
            bytes += delivery.bytes;
            weight += delivery.weight;
            let fits = bytes <= capacity.bytes || (capacity.is_idle() && count == 0);
            let is_too_large = bytes > frame || weight / WEIGHT_OF_A_BYTE > frame;
            if !fits || (is_too_large && count > 0) {
                bytes -= delivery.bytes;
                break;
            }
            count += 1;
        }
        self.ready_bytes -= bytes;
        self.ready.drain(..count).collect()
    }

    /// Removes everything that did not fit.
    pub(super) fn take_excess(&mut self) -> VecDeque<Excess> {
        self.expected = 0;
        std::mem::take(&mut self.excess)
    }

    /// Removes the oldest of the deliveries that did not fit, as many as fit now, and expects to receive them again.
    pub(super) fn take_fitting(&mut self, capacity: Capacity) -> Vec<Excess> {
        let mut left = capacity.bytes.saturating_sub(self.ready_bytes);
        let mut fitting = Vec::new();
        while let Some(next) = self.excess.front().copied()
            && (next.bytes <= left || (capacity.is_idle() && self.ready.is_empty() && fitting.is_empty()))
        {
            left = left.saturating_sub(next.bytes);
            self.excess.pop_front();
            fitting.push(next);
        }
        self.expected = fitting.len();
        fitting
    }

    /// Whether requeued deliveries are still expected.
    pub(super) fn is_expecting(&self) -> bool {
        self.expected > 0
    }

    /// Stops expecting them, because another consumer has them.
    pub(super) fn expect_none(&mut self) {
        self.expected = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(messages: usize, bytes: usize, unsettled: usize) -> Capacity {
        Capacity { messages, bytes, unsettled }
    }

    fn offer(inbox: &mut Inbox, tag: u64, bytes: usize, redelivered: bool, capacity: Capacity) {
        let spare = usize::from(capacity.is_idle());
        match inbox.keeps(bytes, redelivered, capacity, spare) {
            true => inbox.keep(Incoming { tag, bytes, redelivered, ..Incoming::default() }),
            false => inbox.drop_body(Excess { tag, bytes, offset: None }),
        }
    }

    fn tags(batch: &[Incoming]) -> Vec<u64> {
        batch.iter().map(|delivery| delivery.tag).collect()
    }

    #[test]
    fn bodies_beyond_the_window_are_dropped_and_nothing_overtakes_them() {
        let (mut inbox, window) = (Inbox::default(), capacity(100, 1_000, 3));
        for (tag, bytes) in [(1, 400), (2, 500), (3, 400), (4, 10)] {
            offer(&mut inbox, tag, bytes, false, window);
        }
        assert_eq!((inbox.len(), inbox.bytes()), (2, 900));
        assert_eq!(inbox.tags().collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(inbox.take_excess().iter().map(|excess| excess.tag).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn a_frame_has_fewer_messages_if_they_have_many_headers() {
        let (mut inbox, window) = (Inbox::default(), capacity(100, 1_000_000, 0));
        for (tag, weight) in [(1, 1_000), (2, 1_000), (3, 4_000), (4, 9_000), (5, 1_000)] {
            inbox.keep(Incoming { tag, bytes: 100, weight, ..Incoming::default() });
        }
        assert_eq!(tags(&inbox.next_batch(10, 1_000, window)), [1, 2]);
        assert_eq!(tags(&inbox.next_batch(10, 1_000, window)), [3]);
        assert_eq!(tags(&inbox.next_batch(10, 1_000, window)), [4], "alone, although it is too large");
        assert_eq!(tags(&inbox.next_batch(10, 1_000, window)), [5]);
    }

    #[test]
    fn a_message_larger_than_the_window_is_kept_only_when_nothing_else_is_unsettled() {
        let mut inbox = Inbox::default();
        offer(&mut inbox, 1, 5_000, false, capacity(100, 1_000, 0));
        offer(&mut inbox, 2, 5_000, false, capacity(100, 1_000, 0));
        assert_eq!((inbox.len(), inbox.first_excess().map(|excess| excess.tag)), (1, Some(2)));
        assert!(tags(&inbox.next_batch(10, 100, capacity(100, 1_000, 1))).is_empty());
        assert_eq!(tags(&inbox.next_batch(10, 100, capacity(100, 1_000, 0))), [1]);
    }

    #[test]
    fn redelivered_messages_go_before_later_ones() {
        let mut inbox = Inbox::default();
        for tag in 1..=5 {
            offer(&mut inbox, tag, 400, false, capacity(100, 500, 0));
        }
        assert_eq!(tags(&inbox.next_batch(10, 1_000, capacity(100, 500, 0))), [1]);
        let fitting = inbox.take_fitting(capacity(100, 900, 1));
        assert_eq!(fitting.iter().map(|excess| excess.tag).collect::<Vec<_>>(), [2, 3]);
        // A new delivery arrives first, and has to wait for the redelivered ones.
        for (tag, redelivered) in [(6, false), (7, true), (8, true), (9, true)] {
            offer(&mut inbox, tag, 400, redelivered, capacity(100, 900, 1));
        }
        assert_eq!(tags(&inbox.next_batch(10, 1_000, capacity(100, 900, 1))), [7, 8]);
        assert!(!inbox.is_expecting());
        assert_eq!(inbox.tags().collect::<Vec<_>>(), [4, 5, 6, 9]);
    }

    #[test]
    fn a_batch_stays_within_the_frame_size_or_is_one_message() {
        let (mut inbox, window) = (Inbox::default(), capacity(100, 100_000, 1));
        for (tag, bytes) in [(1, 400), (2, 5_000), (3, 400), (4, 400), (5, 400)] {
            offer(&mut inbox, tag, bytes, false, window);
        }
        let mut next = || tags(&inbox.next_batch(2, 1_000, window));
        assert_eq!([next(), next(), next(), next(), next()], [vec![1], vec![2], vec![3, 4], vec![5], vec![]]);
        assert_eq!(inbox.bytes(), 0);
    }
}
