//! Matching confirms to publishes. Each publish of a channel gets its own answer, although lapin pairs returned
//! messages wrongly: it attaches the oldest waiting return to whichever confirm resolves next, and resolves a
//! `multiple` ack in hash order. Trusting that pairing would report lost messages as confirmed.
//!
//! The invariant that makes the answers right (docs/adr/0003, tested by `tests/it/unroutable.rs`): a return is attached
//! to some resolved confirm by the time its own confirm has resolved and the batch of acks that it came in is complete.
//! So no publish is evaluated before every resolved confirm has been read, and a returned message is recognised by the
//! sequence number inside it, whichever confirm it is attached to. Locking lapin's table once (`barrier`) waits for a
//! batch that is in progress.
//!
//! Each confirm has a waker of its own, which adds its number to a list, so the cost of an answer does not depend on
//! how many publishes wait. lapin calls the wakers of a batch before it releases its table: after the barrier the list
//! is complete.
//!
//! Answers are combined: the lane is woken by the last confirm of a batch, by [`WAKE_AFTER`] others, or by its own
//! timer every few milliseconds. Messages that are answered together make capacity for a batch.

use std::{
    collections::{HashSet, VecDeque},
    fmt::Write as _,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{FutureExt as _, task::AtomicWaker};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm, message::BasicReturnMessage};

/// The broker's answer to one publish.
#[derive(Debug)]
pub(super) enum Answer {
    /// The broker has accepted the message.
    Ack,
    /// The broker has rejected the message.
    Nack,
    /// No queue is bound for the message.
    Returned,
    /// The channel ended before an answer.
    Lost(lapin::Error),
}

/// The unanswered publishes of one channel, oldest first.
pub(super) struct Tracker<T> {
    channel: Channel,
    waiting: VecDeque<Waiting<T>>,
    /// The sequence number of the first entry in `waiting`; the entries after it have the numbers after it.
    first: u64,
    resolved: Arc<ResolvedList>,
    /// Sequence numbers of returned messages whose own confirm has not been evaluated yet.
    returned: HashSet<u64>,
}

struct Waiting<T> {
    /// `None` once it has resolved.
    confirm: Option<PublisherConfirm>,
    resolved: Option<Resolved>,
    /// `None` once it was evaluated or abandoned.
    item: Option<T>,
    /// Whether it is the last of its batch.
    is_last: bool,
}

/// This many answers wake the lane before the last answer of their batch has arrived: the size of a batch.
const WAKE_AFTER: usize = 64;

/// The sequence numbers of confirms that have resolved and have not been read, and the task to wake for them.
#[derive(Default)]
struct ResolvedList {
    sequences: Mutex<Vec<u64>>,
    task: AtomicWaker,
}

impl ResolvedList {
    /// Adds a number; returns how many there are now.
    fn add(&self, sequence: u64) -> usize {
        let mut sequences = self.sequences.lock().unwrap_or_else(PoisonError::into_inner);
        sequences.push(sequence);
        sequences.len()
    }

    fn take(&self) -> Vec<u64> {
        std::mem::take(&mut *self.sequences.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The waker of one confirm.
struct ConfirmWaker {
    sequence: u64,
    is_last: bool,
    resolved: Arc<ResolvedList>,
}

impl Wake for ConfirmWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let unread = self.resolved.add(self.sequence);
        if self.is_last || unread >= WAKE_AFTER {
            self.resolved.task.wake();
        }
    }
}

enum Resolved {
    Ack,
    Nack,
    Lost(lapin::Error),
}

/// Writes a sequence number into a message, and the time of acceptance in microseconds (AMQP's own timestamp has
/// seconds only). The deprecated property `cluster_id` is used for it: it is part of a return, reaches consumers, and
/// cannot be set by the caller.
pub(super) fn with_sequence(properties: BasicProperties, sequence: u64, accepted: SystemTime) -> BasicProperties {
    let micros = accepted.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let mut text = String::with_capacity(40);
    // Writing into a string cannot fail.
    let _ = write!(text, "{sequence}.{}", u64::try_from(micros).unwrap_or(u64::MAX));
    properties.with_cluster_id(text.into())
}

/// When a gateway accepted a message; `None` for a message that was not published through a gateway.
pub(in crate::broker) fn accepted(properties: &BasicProperties) -> Option<SystemTime> {
    let (_, micros) = properties.cluster_id().as_ref()?.as_str().split_once('.')?;
    UNIX_EPOCH.checked_add(Duration::from_micros(micros.parse().ok()?))
}

fn sequence_of(message: &BasicReturnMessage) -> Option<u64> {
    message.delivery.properties.cluster_id().as_ref()?.as_str().split('.').next()?.parse().ok()
}

impl<T> Tracker<T> {
    pub(super) fn new(channel: Channel) -> Self {
        let (waiting, returned) = (VecDeque::new(), HashSet::new());
        Self { channel, waiting, first: 0, resolved: Arc::default(), returned }
    }

    /// Tracks one more publish. Sequence numbers grow; `is_last` marks the end of a batch. `item` is `None` if the
    /// publish was abandoned before it was written.
    pub(super) fn track(&mut self, sequence: u64, item: Option<T>, confirm: PublisherConfirm, is_last: bool) {
        if self.waiting.is_empty() {
            self.first = sequence;
        }
        // A batch that was abandoned before it was written leaves a gap, which is filled so that the indices remain
        // correct.
        while self.first + (self.waiting.len() as u64) < sequence {
            self.waiting.push_back(Waiting { confirm: None, resolved: None, item: None, is_last: false });
        }
        self.waiting.push_back(Waiting { confirm: Some(confirm), resolved: None, item, is_last });
        // The next call of `poll_answers` reads it and registers its waker.
        self.resolved.add(sequence);
    }

    /// How many confirms the channel still holds.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The number of confirms that are still due for abandoned publishes.
    pub(super) fn abandoned(&self) -> usize {
        self.waiting.iter().filter(|waiting| waiting.item.is_none() && waiting.confirm.is_some()).count()
    }

    /// The publishes without an answer, oldest first.
    pub(super) fn items(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter().filter_map(|waiting| waiting.item.as_ref())
    }

    /// The publishes without an answer, oldest first; `None` for those that were abandoned.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = Option<&T>> {
        self.waiting.iter().filter(|waiting| waiting.confirm.is_some()).map(|waiting| waiting.item.as_ref())
    }

    /// Abandons and returns those that the filter selects; their late answers are ignored.
    pub(super) fn abandon(&mut self, mut filter: impl FnMut(&T) -> bool) -> Vec<T> {
        self.waiting
            .iter_mut()
            .filter(|waiting| waiting.item.as_ref().is_some_and(&mut filter))
            .filter_map(|waiting| waiting.item.take())
            .collect()
    }

    /// All publishes without an answer, oldest first.
    pub(super) fn into_unanswered(self) -> impl Iterator<Item = T> {
        self.waiting.into_iter().filter_map(|waiting| waiting.item)
    }

    /// The publishes that were answered since the last call; the waker is called when there are more.
    pub(super) fn poll_answers(&mut self, cx: &mut Context<'_>) -> Vec<(T, Answer)> {
        self.resolved.task.register(cx.waker());
        let mut resolved = Vec::new();
        // Terminates, because each round except the last resolves at least one publish of a bounded window.
        while self.read_resolved(&mut resolved) {
            self.barrier();
        }
        // In the order of publishing.
        resolved.sort_unstable();
        self.evaluate(&resolved)
    }

    /// Reads the confirms that have resolved and the returned messages attached to them; returns whether there were
    /// any.
    fn read_resolved(&mut self, resolved: &mut Vec<u64>) -> bool {
        let before = resolved.len();
        for sequence in self.resolved.take() {
            // A number may be listed twice: by `track`, and by a waker before the first poll.
            let index = sequence.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
            let Some(waiting) = index.and_then(|index| self.waiting.get_mut(index)) else { continue };
            let Some(confirm) = &mut waiting.confirm else { continue };
            let (is_last, list) = (waiting.is_last, Arc::clone(&self.resolved));
            let waker = Waker::from(Arc::new(ConfirmWaker { sequence, is_last, resolved: list }));
            let Poll::Ready(answer) = Pin::new(confirm).poll(&mut Context::from_waker(&waker)) else { continue };
            resolved.push(sequence);
            waiting.confirm = None;
            let (answer, message) = match answer {
                Ok(Confirmation::Ack(message)) => (Resolved::Ack, message),
                Ok(Confirmation::Nack(message)) => (Resolved::Nack, message),
                // Every channel is in confirm mode; otherwise the broker would not answer.
                Ok(Confirmation::NotRequested) => (Resolved::Lost(lapin::ErrorKind::FutureCompleted.into()), None),
                Err(error) => (Resolved::Lost(error), None),
            };
            waiting.resolved = Some(answer);
            self.returned.extend(message.as_ref().and_then(sequence_of));
        }
        resolved.len() > before
    }

    /// Waits until lapin is not processing a batch of acks, by taking the lock that lapin holds meanwhile.
    fn barrier(&mut self) {
        let polled =
            std::pin::pin!(self.channel.wait_for_confirms()).poll_unpin(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(Ok(messages)) = polled {
            self.returned.extend(messages.iter().filter_map(sequence_of));
        }
    }

    fn evaluate(&mut self, resolved: &[u64]) -> Vec<(T, Answer)> {
        let mut answers = Vec::with_capacity(resolved.len());
        for sequence in resolved {
            let Some(waiting) = self.waiting.get_mut((sequence - self.first) as usize) else { continue };
            let Some(resolved) = waiting.resolved.take() else { continue };
            let returned = self.returned.remove(sequence);
            let Some(item) = waiting.item.take() else { continue };
            answers.push((
                item,
                match resolved {
                    _ if returned => Answer::Returned,
                    Resolved::Ack => Answer::Ack,
                    Resolved::Nack => Answer::Nack,
                    Resolved::Lost(error) => Answer::Lost(error),
                },
            ));
        }
        while self.waiting.front().is_some_and(|waiting| waiting.confirm.is_none()) {
            self.waiting.pop_front();
            self.first += 1;
        }
        answers
    }
}
