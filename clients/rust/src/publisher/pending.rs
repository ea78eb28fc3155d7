//! The unanswered messages of a publisher, without I/O.
//!
//! An entry is answered exactly once. Until then it is kept here, either waiting to be written or written to the
//! current stream. A message that is written again keeps its id and its place in the order of sending.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use crate::{
    Error,
    error::Unconfirmed,
    otel::Publishing,
    pb::{self, Outcome, PublishResult},
};

/// The most efficient size for the gateway.
pub(super) const FRAME_MESSAGES: usize = 64;
/// Well below the request size limit, so that only a message that is too large by itself is refused.
const FRAME_BYTES: usize = 256 << 10;

/// The pause before a message with an unknown outcome is written again.
const RESEND_PAUSE: Duration = Duration::from_millis(200);
/// The shortest wait of a throttled message.
const MIN_THROTTLE: Duration = Duration::from_millis(50);

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
    /// Whether it was written to the current stream and has no answer there.
    pub(super) written: bool,
    /// Whether an attempt ended without an answer, so that the message may be stored.
    pub(super) lost: bool,
    /// The refusal of the last attempt that may be repeated.
    pub(super) refusal: Option<PublishResult>,
    pub(super) span: Publishing,
    pub(super) answer: oneshot::Sender<Answer>,
    pub(super) _capacity: Capacity,
}

/// The outcome of a message, and why it was never sent, if that is certain.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) result: PublishResult,
    pub(super) not_sent: Option<Unconfirmed>,
}

impl Entry {
    fn end(self, mut result: PublishResult) {
        result.sequence = self.caller_sequence;
        self.span.end(&result);
        // The receipt may have been dropped.
        let _ = self.answer.send(Answer { result, not_sent: None });
    }

    fn message_id(&self) -> String {
        self.publication.message.as_ref().map(|message| message.message_id.clone()).unwrap_or_default()
    }

    /// Ends a message without an answer: at its deadline, or because of this error.
    fn end_unanswered(mut self, cause: Option<&Error>) {
        let message_id = self.message_id();
        if self.lost || self.written {
            let reason = match (cause, self.refusal.take()) {
                (Some(error), _) => format!("{}: {error}", error.reason()),
                (None, Some(refusal)) if refusal.outcome() == Outcome::Unknown => refusal.reason,
                (None, _) => "UNKNOWN: no answer arrived in time; send it again with the same message id".to_owned(),
            };
            self.end(unknown(0, message_id, reason));
        } else if let (None, Some(refusal)) = (cause, self.refusal.take()) {
            self.end(refusal);
        } else {
            let not_sent = Unconfirmed::not_sent(message_id.clone(), cause);
            let reason = format!("NOT_SENT: {}", not_sent.message);
            let result = unknown(self.caller_sequence, message_id, reason);
            self.span.end(&result);
            let _ = self.answer.send(Answer { result, not_sent: Some(not_sent) });
        }
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
    retry_throttled: bool,
    /// In the order of sending. The slot of an answered message remains empty until all messages before it have their
    /// outcome, which is the deadline of the oldest at the latest.
    entries: VecDeque<Option<Box<Entry>>>,
    /// The sequence of the first slot; each following slot has the next.
    first: u64,
    /// The sequence of the first message that was not yet written to the current stream.
    unwritten: u64,
    /// Earlier messages that are written again on the current stream.
    again: BTreeSet<u64>,
    /// Nothing is written before this time.
    not_before: Option<Instant>,
    /// A lower bound of all deadlines; `None` when there is no entry.
    earliest: Option<Instant>,
}

impl PendingMessages {
    /// No messages; frames contain at most `frame_messages`.
    pub(super) fn new(frame_messages: usize, retry_throttled: bool) -> Self {
        Self {
            frame_messages,
            retry_throttled,
            entries: VecDeque::new(),
            first: 1,
            unwritten: 1,
            again: BTreeSet::new(),
            not_before: None,
            earliest: None,
        }
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

    /// Whether messages wait to be written.
    pub(super) fn has_unwritten(&self) -> bool {
        !self.again.is_empty() || self.unwritten < self.end()
    }

    /// The time before which nothing is written, if it has not passed.
    pub(super) fn blocked_until(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|time| *time > now)
    }

    /// The next frame of waiting messages, which count as written; empty when none is waiting.
    pub(super) fn next_frame(&mut self) -> Vec<pb::Publication> {
        let mut frame = Frame { messages: Vec::new(), limit: self.frame_messages, bytes: 0 };
        while let Some(sequence) = self.again.first() {
            // It may have expired while it waited.
            if let Some(entry) = self.entries.get_mut((sequence - self.first) as usize).and_then(Option::as_mut)
                && !frame.add(entry)
            {
                return frame.messages;
            }
            self.again.pop_first();
        }
        for entry in self.entries.range_mut((self.unwritten - self.first) as usize..) {
            if let Some(entry) = entry
                && !frame.add(entry)
            {
                break;
            }
            self.unwritten += 1;
        }
        frame.messages
    }

    /// Completes the message of this result, or writes it again if a later attempt may succeed. False for a late or
    /// repeated result, which has no effect.
    pub(super) fn answer(&mut self, result: PublishResult) -> bool {
        let place = result.sequence.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        let Some(slot) = place.and_then(|place| self.entries.get_mut(place)) else { return false };
        let Some(entry) = slot else { return false };
        if let Some(pause) = resend_after(&result, self.retry_throttled) {
            entry.lost |= result.outcome() == Outcome::Unknown;
            entry.written = false;
            self.again.insert(result.sequence);
            entry.refusal = Some(result);
            self.wait(pause);
            return true;
        }
        let Some(entry) = slot.take() else { return false };
        self.remove_answered();
        if entry.lost && result.outcome() != Outcome::Confirmed {
            // An earlier attempt had no answer, so this refusal does not prove that the message is not stored.
            entry.end(PublishResult { outcome: Outcome::Unknown.into(), ..result });
        } else {
            entry.end(result);
        }
        true
    }

    /// Writes nothing for this time.
    fn wait(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        self.not_before = Some(self.not_before.map_or(until, |before| before.max(until)));
    }

    /// After a broken stream: all unanswered messages are written again, in the order of sending.
    pub(super) fn rewind(&mut self) {
        for entry in self.entries.iter_mut().flatten() {
            entry.lost |= std::mem::take(&mut entry.written);
        }
        self.again.clear();
        self.unwritten = self.first;
    }

    /// When to check for expired messages: not later than the earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.earliest
    }

    /// Completes messages whose deadline has passed: `UNKNOWN` if any attempt may have stored it, otherwise its last
    /// refusal, otherwise never sent.
    pub(super) fn expire(&mut self, now: Instant) {
        for entry in self.entries.iter_mut().filter_map(|entry| entry.take_if(|entry| entry.deadline <= now)) {
            entry.end_unanswered(None);
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

    /// Completes all messages because of this error: as `UNKNOWN` if they may be stored, otherwise as never sent.
    pub(super) fn fail_all(&mut self, error: &Error) {
        for entry in self.entries.iter_mut().filter_map(Option::take) {
            entry.end_unanswered(Some(error));
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
        while self.again.first().is_some_and(|sequence| *sequence < self.first) {
            self.again.pop_first();
        }
        if self.entries.is_empty() {
            self.earliest = None;
        }
    }
}

/// A frame that is being filled.
struct Frame {
    messages: Vec<pb::Publication>,
    limit: usize,
    bytes: usize,
}

impl Frame {
    /// Adds a message unless the frame is full.
    fn add(&mut self, entry: &mut Entry) -> bool {
        let is_full = self.messages.len() == self.limit || self.bytes + entry.bytes > FRAME_BYTES;
        if is_full && !self.messages.is_empty() {
            return false;
        }
        self.bytes += entry.bytes;
        entry.written = true;
        self.messages.push(entry.publication.clone());
        true
    }
}

/// When a message with this result is written again; `None` when the result is its outcome.
fn resend_after(result: &PublishResult, retry_throttled: bool) -> Option<Duration> {
    let asked = || result.retry_after.and_then(|after| Duration::try_from(after).ok()).unwrap_or_default();
    match (result.outcome(), result.reason.split(':').next()) {
        (Outcome::Confirmed, _) => None,
        (Outcome::Unknown, _) | (_, Some("BROKER_UNREACHABLE")) => Some(RESEND_PAUSE),
        (_, Some("DRAINING")) => Some(Duration::ZERO),
        (Outcome::Throttled, _) if retry_throttled => Some(asked().max(MIN_THROTTLE)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::sync::{Semaphore, oneshot::Receiver};

    use super::*;
    use crate::publication;

    fn entry(bytes: usize, deadline: Instant) -> (Box<Entry>, Receiver<Answer>) {
        let (answer, receipt) = oneshot::channel();
        let permit = || Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a permit");
        let mut publication = pb::Publication { sequence: 7, ..publication("", "q", "x") };
        let span = Publishing::start(&mut publication);
        let entry = Entry {
            publication,
            bytes,
            caller_sequence: 7,
            deadline,
            written: false,
            lost: false,
            refusal: None,
            span,
            answer,
            _capacity: Capacity(permit(), permit()),
        };
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
        let mut pending = PendingMessages::new(64, true);
        let (small, mut kept) = entry(10, soon());
        let (large, mut rejected) = entry(FRAME_BYTES + 1, soon());
        pending.add(small);
        pending.add(large);
        assert!(!pending.reject_largest(&"too large"), "nothing has been written");
        pending.next_frame();
        pending.next_frame();
        assert!(pending.reject_largest(&"too large"));
        let result = rejected.try_recv().expect("an outcome").result;
        assert_eq!((result.outcome(), result.sequence), (Outcome::Rejected, 7));
        assert_eq!(result.reason, "MESSAGE_TOO_LARGE: too large");
        assert!(kept.try_recv().is_err(), "the small message waits");
        assert!(!pending.reject_largest(&"malformed"), "the size of a message that shares frames is not the reason");
    }

    #[test]
    fn frames_are_limited_to_64_messages_and_a_number_of_bytes() {
        let mut pending = PendingMessages::new(FRAME_MESSAGES, true);
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
        let mut pending = PendingMessages::new(FRAME_MESSAGES, true);
        let (entry, mut receipt) = entry(1, soon());
        pending.add(entry);
        let sequence = pending.next_frame()[0].sequence;
        assert!(pending.answer(confirmed(sequence)));
        assert!(!pending.answer(confirmed(sequence)));
        assert_eq!(receipt.try_recv().expect("an answer").result.sequence, 7);
        assert!(pending.is_empty() && pending.next_deadline().is_none());
    }

    #[test]
    fn after_a_break_unanswered_messages_are_written_again_in_order() {
        let mut pending = PendingMessages::new(FRAME_MESSAGES, true);
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
    fn a_message_that_was_never_written_is_certainly_not_stored_when_it_expires() {
        let mut pending = PendingMessages::new(FRAME_MESSAGES, true);
        let now = Instant::now();
        let (late, mut receipt) = entry(1, now);
        pending.add(entry(1, soon()).0);
        pending.add(late);
        pending.expire(now);
        let answer = receipt.try_recv().expect("an answer");
        assert_eq!(answer.not_sent.expect("never sent").outcome, crate::Outcome::NotSent);
        assert!(answer.result.reason.starts_with("NOT_SENT: "), "{}", answer.result.reason);
        assert_eq!(sequences(&pending.next_frame()), [1], "the expired message is not written");
    }

    fn refused(sequence: u64, outcome: Outcome, reason: &str) -> PublishResult {
        PublishResult { sequence, outcome: outcome.into(), reason: reason.to_owned(), ..Default::default() }
    }

    #[test]
    fn a_throttled_message_waits_and_keeps_its_place_in_the_order() {
        let mut pending = PendingMessages::new(FRAME_MESSAGES, true);
        for _ in 0..3 {
            pending.add(entry(1, soon()).0);
        }
        pending.next_frame();
        let began = Instant::now();
        let after = prost_types::Duration { seconds: 2, nanos: 0 };
        for sequence in [3, 2] {
            let result = refused(sequence, Outcome::Throttled, "MESSAGE_RATE: too many");
            assert!(pending.answer(PublishResult { retry_after: Some(after), ..result }));
        }
        pending.add(entry(1, soon()).0);
        let until = pending.blocked_until(began).expect("a wait");
        assert!(until >= began + Duration::from_secs(2));
        assert!(pending.blocked_until(until).is_none());
        assert_eq!(sequences(&pending.next_frame()), [2, 3, 4]);
    }

    #[test]
    fn throttling_is_an_outcome_when_it_is_not_retried() {
        let mut pending = PendingMessages::new(FRAME_MESSAGES, false);
        let (entry, mut receipt) = entry(1, soon());
        pending.add(entry);
        pending.next_frame();
        pending.answer(refused(1, Outcome::Throttled, "MESSAGE_RATE: too many"));
        assert_eq!(receipt.try_recv().expect("an answer").result.outcome(), Outcome::Throttled);
    }

    #[test]
    fn a_refusal_after_an_attempt_without_an_answer_is_reported_as_unknown() {
        let mut pending = PendingMessages::new(FRAME_MESSAGES, true);
        let (entry, mut receipt) = entry(1, soon());
        pending.add(entry);
        pending.next_frame();
        pending.answer(refused(1, Outcome::Unknown, "PUBLISH_DEADLINE: no confirm"));
        assert_eq!(sequences(&pending.next_frame()), [1], "it is written again with the same id");
        pending.answer(refused(1, Outcome::Unroutable, "NO_ROUTE: no queue"));
        let result = receipt.try_recv().expect("an answer").result;
        assert_eq!((result.outcome(), result.reason.as_str()), (Outcome::Unknown, "NO_ROUTE: no queue"));
    }

    #[test]
    fn a_refused_stream_ends_written_messages_as_unknown_and_the_others_as_not_sent() {
        let mut pending = PendingMessages::new(1, true);
        let (first, mut written) = entry(1, soon());
        let (second, mut waiting) = entry(1, soon());
        pending.add(first);
        pending.add(second);
        pending.next_frame();
        pending.rewind();
        pending.fail_all(&Error::TokenEnded);
        let answer = written.try_recv().expect("an answer");
        assert!(answer.not_sent.is_none() && answer.result.outcome() == Outcome::Unknown);
        assert!(answer.result.reason.starts_with("TOKEN_EXPIRED: "), "{}", answer.result.reason);
        let not_sent = waiting.try_recv().expect("an answer").not_sent.expect("never sent");
        assert_eq!((not_sent.reason.as_str(), not_sent.retryable), ("TOKEN_EXPIRED", false));
    }
}
