//! A publisher's bookkeeping, without any I/O. Entries and results enter; frames and answers leave. Invariant: an entry
//! is answered exactly once, and until then it is in the ledger: either waiting to be written or written to the present
//! stream.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use crate::pb::{self, Outcome, PublishResult};

/// The most efficient size for the gateway.
pub(super) const FRAME_MESSAGES: usize = 64;
/// Well below the request size limit, so that only a message that is too large by itself is refused for its size.
const FRAME_BYTES: usize = 256 << 10;

/// The room that a message takes in the window, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Room(
    #[expect(dead_code, reason = "held")] pub(super) OwnedSemaphorePermit,
    #[expect(dead_code, reason = "held")] pub(super) OwnedSemaphorePermit,
);

/// A message without an answer.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) publication: pb::Publication,
    pub(super) bytes: usize,
    pub(super) caller_sequence: u64,
    pub(super) deadline: Instant,
    /// Whether it was ever handed to a stream, so that the gateway may have it.
    pub(super) written: bool,
    pub(super) answer: oneshot::Sender<PublishResult>,
    pub(super) _room: Room,
}

impl Entry {
    fn end(self, mut result: PublishResult) {
        result.sequence = self.caller_sequence;
        // Whoever dropped the receipt does not want to know.
        let _ = self.answer.send(result);
    }

    fn end_unknown(self, reason: &str) {
        let message_id =
            self.publication.message.as_ref().map(|message| message.message_id.clone()).unwrap_or_default();
        let reason = if self.written { reason.to_owned() } else { format!("{reason} (it was never sent)") };
        self.end(unknown(0, message_id, reason));
    }
}

/// The outcome of a message of which nothing more will be heard.
pub(super) fn unknown(sequence: u64, message_id: String, reason: impl Into<String>) -> PublishResult {
    let outcome = Outcome::Unknown.into();
    PublishResult { sequence, outcome, message_id, reason: reason.into(), retry_after: None, trace_id: String::new() }
}

/// All messages without an answer.
#[derive(Debug)]
pub(super) struct Ledger {
    frame_messages: usize,
    last_sequence: u64,
    entries: BTreeMap<u64, Entry>,
    /// What the present stream has not been given yet, in order.
    unwritten: VecDeque<u64>,
    /// By deadline, which need not follow the order of sending.
    deadlines: BTreeSet<(Instant, u64)>,
}

impl Ledger {
    /// Empty, with so many messages a frame at most.
    pub(super) fn new(frame_messages: usize) -> Self {
        Self {
            frame_messages,
            last_sequence: 0,
            entries: BTreeMap::new(),
            unwritten: VecDeque::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// Takes a message in and gives it a sequence that was never used before.
    pub(super) fn add(&mut self, mut entry: Entry) {
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        entry.publication.sequence = sequence;
        self.deadlines.insert((entry.deadline, sequence));
        self.entries.insert(sequence, entry);
        self.unwritten.push_back(sequence);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// The next frame of what waits; empty when nothing does. What it holds counts as written.
    pub(super) fn next_frame(&mut self) -> Vec<pb::Publication> {
        let mut frame = Vec::with_capacity(self.unwritten.len().min(self.frame_messages));
        let mut bytes = 0;
        while let Some(&sequence) = self.unwritten.front() {
            // It may have ended while it waited.
            if let Some(entry) = self.entries.get_mut(&sequence) {
                bytes += entry.bytes;
                if !frame.is_empty() && (frame.len() == self.frame_messages || bytes > FRAME_BYTES) {
                    break;
                }
                entry.written = true;
                frame.push(entry.publication.clone());
            }
            self.unwritten.pop_front();
        }
        frame
    }

    /// Ends the message that this result is about. Whether there was one: a late or repeated result changes nothing.
    pub(super) fn answer(&mut self, result: PublishResult) -> bool {
        match self.remove(result.sequence) {
            Some(entry) => {
                entry.end(result);
                true
            }
            None => false,
        }
    }

    /// The stream broke: everything without an answer is to be written again, in the order of sending.
    pub(super) fn rewind(&mut self) {
        self.unwritten = self.entries.keys().copied().collect();
    }

    /// The nearest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Ends what is past its deadline, as `UNKNOWN`.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, sequence)) = self.deadlines.first()
            && deadline <= now
        {
            if let Some(entry) = self.remove(sequence) {
                entry.end_unknown("DEADLINE: no answer came in time; send it again with the same message id");
            }
        }
    }

    /// Ends everything as `UNKNOWN`.
    pub(super) fn give_up(&mut self, reason: &str) {
        self.unwritten.clear();
        self.deadlines.clear();
        for entry in std::mem::take(&mut self.entries).into_values() {
            entry.end_unknown(reason);
        }
    }

    fn remove(&mut self, sequence: u64) -> Option<Entry> {
        let entry = self.entries.remove(&sequence)?;
        self.deadlines.remove(&(entry.deadline, sequence));
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::sync::{Semaphore, oneshot::Receiver};

    use super::*;
    use crate::client::publication;

    fn entry(bytes: usize, deadline: Instant) -> (Entry, Receiver<PublishResult>) {
        let (answer, receipt) = oneshot::channel();
        let permit = || Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a permit");
        let publication = pb::Publication { sequence: 7, ..publication("", "q", "x") };
        let room = Room(permit(), permit());
        (Entry { publication, bytes, caller_sequence: 7, deadline, written: false, answer, _room: room }, receipt)
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
    fn frames_hold_up_to_64_messages_and_not_too_many_bytes() {
        let mut ledger = Ledger::new(FRAME_MESSAGES);
        for _ in 0..100 {
            ledger.add(entry(10, soon()).0);
        }
        ledger.add(entry(FRAME_BYTES * 2, soon()).0);
        ledger.add(entry(FRAME_BYTES, soon()).0);
        let lengths: Vec<usize> = std::iter::repeat_with(|| ledger.next_frame().len()).take(5).collect();
        assert_eq!(lengths, [64, 36, 1, 1, 0]);
    }

    #[test]
    fn a_message_is_answered_once_and_with_the_callers_sequence() {
        let mut ledger = Ledger::new(FRAME_MESSAGES);
        let (entry, mut receipt) = entry(1, soon());
        ledger.add(entry);
        let sequence = ledger.next_frame()[0].sequence;
        assert!(ledger.answer(confirmed(sequence)));
        assert!(!ledger.answer(confirmed(sequence)));
        assert_eq!(receipt.try_recv().expect("an answer").sequence, 7);
        assert!(ledger.is_empty() && ledger.next_deadline().is_none());
    }

    #[test]
    fn after_a_break_what_has_no_answer_is_written_again_in_order() {
        let mut ledger = Ledger::new(FRAME_MESSAGES);
        for _ in 0..4 {
            ledger.add(entry(1, soon()).0);
        }
        assert_eq!(sequences(&ledger.next_frame()), [1, 2, 3, 4]);
        ledger.answer(confirmed(2));
        ledger.add(entry(1, soon()).0);
        ledger.rewind();
        assert_eq!(sequences(&ledger.next_frame()), [1, 3, 4, 5]);
    }

    #[test]
    fn past_its_deadline_a_message_is_unknown_and_not_written_again() {
        let mut ledger = Ledger::new(FRAME_MESSAGES);
        let now = Instant::now();
        let (late, mut receipt) = entry(1, now);
        ledger.add(entry(1, soon()).0);
        ledger.add(late);
        ledger.expire(now);
        let result = receipt.try_recv().expect("an answer");
        assert_eq!(result.outcome(), Outcome::Unknown);
        assert!(result.reason.contains("never sent"), "{}", result.reason);
        assert_eq!(sequences(&ledger.next_frame()), [1]);
    }
}
