//! The unanswered messages of a publisher, without I/O.
//!
//! An entry is answered exactly once. Until then it is kept here, either waiting to be written or written to the
//! current stream.

use std::collections::VecDeque;

use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use crate::pb::{self, Outcome, PublishResult};

/// The most efficient size for the gateway.
pub(super) const FRAME_MESSAGES: usize = 64;
/// Well below the request size limit, so that only a message that is too large by itself is refused.
const FRAME_BYTES: usize = 256 << 10;

/// The capacity that a message occupies in the window, released when it is dropped.
#[derive(Debug)]
pub(super) struct Capacity(
    #[expect(dead_code, reason = "released when dropped")] pub(super) OwnedSemaphorePermit,
    #[expect(dead_code, reason = "released when dropped")] pub(super) OwnedSemaphorePermit,
);

/// An unanswered message.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) publication: pb::Publication,
    pub(super) bytes: usize,
    pub(super) caller_sequence: u64,
    pub(super) deadline: Instant,
    /// Whether it was ever written to a stream, so that the gateway may have received it.
    pub(super) written: bool,
    pub(super) answer: oneshot::Sender<PublishResult>,
    pub(super) _capacity: Capacity,
}

impl Entry {
    fn end(self, mut result: PublishResult) {
        result.sequence = self.caller_sequence;
        // The receipt may have been dropped.
        let _ = self.answer.send(result);
    }

    fn end_unknown(self, reason: &str) {
        let message_id =
            self.publication.message.as_ref().map(|message| message.message_id.clone()).unwrap_or_default();
        let reason = if self.written { reason.to_owned() } else { format!("{reason} (it was never sent)") };
        self.end(unknown(0, message_id, reason));
    }
}

/// The outcome of a message that will not be answered.
pub(super) fn unknown(sequence: u64, message_id: String, reason: impl Into<String>) -> PublishResult {
    let outcome = Outcome::Unknown.into();
    PublishResult { sequence, outcome, message_id, reason: reason.into(), retry_after: None, trace_id: String::new() }
}

/// All unanswered messages.
#[derive(Debug)]
pub(super) struct PendingMessages {
    frame_messages: usize,
    /// In the order of sending. The slot of an answered message stays empty until all messages before it have their
    /// outcome, which is the deadline of the oldest at the latest.
    entries: VecDeque<Option<Box<Entry>>>,
    /// The sequence of the first slot; each following slot has the next.
    first: u64,
    /// The sequence of the first message that was not yet written to the current stream.
    unwritten: u64,
    /// A lower bound of all deadlines; `None` when there is no entry.
    earliest: Option<Instant>,
}

impl PendingMessages {
    /// No messages; frames contain at most `frame_messages`.
    pub(super) fn new(frame_messages: usize) -> Self {
        Self { frame_messages, entries: VecDeque::new(), first: 1, unwritten: 1, earliest: None }
    }

    /// Adds a message and assigns it a new sequence.
    pub(super) fn add(&mut self, mut entry: Box<Entry>) {
        entry.publication.sequence = self.end();
        // Deadlines need not follow the order of sending.
        self.earliest = Some(self.earliest.map_or(entry.deadline, |earliest| earliest.min(entry.deadline)));
        self.entries.push_back(Some(entry));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn has_unwritten(&self) -> bool {
        self.unwritten < self.end()
    }

    /// The next frame of waiting messages, which count as written; empty when none is waiting.
    pub(super) fn next_frame(&mut self) -> Vec<pb::Publication> {
        let waiting = self.entries.range_mut((self.unwritten - self.first) as usize..);
        let mut frame = Vec::with_capacity(waiting.len().min(self.frame_messages));
        let mut bytes = 0;
        for entry in waiting {
            // It may have expired while it waited.
            if let Some(entry) = entry {
                bytes += entry.bytes;
                if !frame.is_empty() && (frame.len() == self.frame_messages || bytes > FRAME_BYTES) {
                    break;
                }
                entry.written = true;
                frame.push(entry.publication.clone());
            }
            self.unwritten += 1;
        }
        frame
    }

    /// Completes the message of this result. False for a late or repeated result, which has no effect.
    pub(super) fn answer(&mut self, result: PublishResult) -> bool {
        let place = result.sequence.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        let Some(entry) = place.and_then(|place| self.entries.get_mut(place)?.take()) else { return false };
        self.remove_answered();
        entry.end(result);
        true
    }

    /// After a broken stream: all unanswered messages are written again, in the order of sending.
    pub(super) fn rewind(&mut self) {
        self.unwritten = self.first;
    }

    /// When to check for expired messages: not later than the earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.earliest
    }

    /// Completes messages whose deadline has passed as `UNKNOWN`.
    pub(super) fn expire(&mut self, now: Instant) {
        for entry in self.entries.iter_mut().filter_map(|entry| entry.take_if(|entry| entry.deadline <= now)) {
            entry.end_unknown("DEADLINE: the outcome was not received in time; send it again with the same message id");
        }
        self.remove_answered();
        self.earliest = self.entries.iter().flatten().map(|entry| entry.deadline).min();
    }

    /// Completes the largest message of the stream as `REJECTED`, because the gateway refused a frame. Returns whether
    /// there was a message that is too large to share a frame; if not, the size was not the reason.
    pub(super) fn reject_largest(&mut self, reason: &impl std::fmt::Display) -> bool {
        let written = self.entries.iter_mut().filter(|entry| entry.as_ref().is_some_and(|entry| entry.written));
        let largest = written.max_by_key(|entry| entry.as_ref().map_or(0, |entry| entry.bytes));
        let Some(entry) = largest.and_then(|entry| entry.take_if(|entry| entry.bytes > FRAME_BYTES)) else {
            return false;
        };
        let message_id = entry.publication.message.as_ref().map(|message| message.message_id.clone());
        let reason = format!("MESSAGE_TOO_LARGE: {reason}");
        let result = unknown(0, message_id.unwrap_or_default(), reason);
        entry.end(PublishResult { outcome: Outcome::Rejected.into(), ..result });
        self.remove_answered();
        true
    }

    /// Completes all messages as `UNKNOWN`.
    pub(super) fn fail_all(&mut self, reason: &str) {
        for entry in self.entries.iter_mut().filter_map(Option::take) {
            entry.end_unknown(reason);
        }
        self.remove_answered();
    }

    /// The sequence of the next message.
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Removes answered messages from the front.
    fn remove_answered(&mut self) {
        while self.entries.front().is_some_and(Option::is_none) {
            self.entries.pop_front();
            self.first += 1;
        }
        self.unwritten = self.unwritten.max(self.first);
        if self.entries.is_empty() {
            self.earliest = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::sync::{Semaphore, oneshot::Receiver};

    use super::*;
    use crate::publication;

    fn entry(bytes: usize, deadline: Instant) -> (Box<Entry>, Receiver<PublishResult>) {
        let (answer, receipt) = oneshot::channel();
        let permit = || Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a permit");
        let publication = pb::Publication { sequence: 7, ..publication("", "q", "x") };
        let capacity = Capacity(permit(), permit());
        let entry =
            Entry { publication, bytes, caller_sequence: 7, deadline, written: false, answer, _capacity: capacity };
        (Box::new(entry), receipt)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn sequences(frame: &[pb::Publication]) -> Vec<u64> {
        frame.iter().map(|publication| publication.sequence).collect()
    }

    fn confirmed(sequence: u64) -> PublishResult {
        PublishResult { sequence, outcome: Outcome::Confirmed.into(), ..Default::default() }
    }

    #[test]
    fn the_largest_written_message_is_rejected_if_it_has_its_own_frame() {
        let mut pending = PendingMessages::new(64);
        let (small, mut kept) = entry(10, soon());
        let (large, mut rejected) = entry(FRAME_BYTES + 1, soon());
        pending.add(small);
        pending.add(large);
        assert!(!pending.reject_largest(&"too large"), "nothing has been written");
        pending.next_frame();
        pending.next_frame();
        assert!(pending.reject_largest(&"too large"));
        let result = rejected.try_recv().expect("an outcome");
        assert_eq!((result.outcome(), result.sequence), (Outcome::Rejected, 7));
        assert_eq!(result.reason, "MESSAGE_TOO_LARGE: too large");
        assert!(kept.try_recv().is_err(), "the small message waits");
        assert!(!pending.reject_largest(&"malformed"), "the size of a message that shares frames is not the reason");
    }

    #[test]
    fn frames_are_limited_to_64_messages_and_a_number_of_bytes() {
        let mut pending = PendingMessages::new(FRAME_MESSAGES);
        for _ in 0..100 {
            pending.add(entry(10, soon()).0);
        }
        pending.add(entry(FRAME_BYTES * 2, soon()).0);
        pending.add(entry(FRAME_BYTES, soon()).0);
        let lengths: Vec<usize> = std::iter::repeat_with(|| pending.next_frame().len()).take(5).collect();
        assert_eq!(lengths, [64, 36, 1, 1, 0]);
    }

    #[test]
    fn a_message_is_answered_once_and_with_the_callers_sequence() {
        let mut pending = PendingMessages::new(FRAME_MESSAGES);
        let (entry, mut receipt) = entry(1, soon());
        pending.add(entry);
        let sequence = pending.next_frame()[0].sequence;
        assert!(pending.answer(confirmed(sequence)));
        assert!(!pending.answer(confirmed(sequence)));
        assert_eq!(receipt.try_recv().expect("an answer").sequence, 7);
        assert!(pending.is_empty() && pending.next_deadline().is_none());
    }

    #[test]
    fn after_a_break_unanswered_messages_are_written_again_in_order() {
        let mut pending = PendingMessages::new(FRAME_MESSAGES);
        for _ in 0..4 {
            pending.add(entry(1, soon()).0);
        }
        assert_eq!(sequences(&pending.next_frame()), [1, 2, 3, 4]);
        pending.answer(confirmed(2));
        pending.add(entry(1, soon()).0);
        pending.rewind();
        assert_eq!(sequences(&pending.next_frame()), [1, 3, 4, 5]);
    }

    #[test]
    fn an_expired_message_is_unknown_and_not_written_again() {
        let mut pending = PendingMessages::new(FRAME_MESSAGES);
        let now = Instant::now();
        let (late, mut receipt) = entry(1, now);
        pending.add(entry(1, soon()).0);
        pending.add(late);
        pending.expire(now);
        let result = receipt.try_recv().expect("an answer");
        assert_eq!(result.outcome(), Outcome::Unknown);
        assert!(result.reason.contains("never sent"), "{}", result.reason);
        assert_eq!(sequences(&pending.next_frame()), [1]);
    }
}
