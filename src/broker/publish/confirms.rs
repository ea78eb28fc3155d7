//! Which publish got which answer. Confirms of one channel enter in the order of publishing, and each leaves with its
//! own answer, although lapin mixes up returned messages: it hangs the oldest waiting return on whichever confirm
//! resolves next, and resolves a `multiple` ack in hash order. Believed, that reports lost messages as confirmed.
//!
//! The invariant that makes it right (docs/adr/0003, proven by `tests/it/unroutable.rs`): a return is on some resolved
//! confirm by the time its own confirm has resolved and the batch of acks it came in is over. So nothing is judged until
//! every resolved confirm has been read, and every returned message is recognised by a mark of ours inside it, on
//! whatever confirm it hangs. Locking lapin's table once (`fence`) waits for a batch in progress.
//!
//! Each confirm has a waker of its own, which puts its mark on a list: an answer costs the same however many publishes
//! wait. lapin calls the wakers of a batch before it lets go of its table, so that after the fence the list is whole.
//!
//! Answers are gathered: the stream is woken by the last confirm of what was published together, by [`GATHERED`] others, or
//! by its own look every few milliseconds, not by each. What is answered together is published together next.

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
pub(in crate::broker) enum Answer {
    /// It has the message.
    Ack,
    /// It has not, and says so.
    Nack,
    /// It has no queue for the message.
    Returned,
    /// The channel ended before an answer.
    Lost(lapin::Error),
}

/// The unanswered publishes of one channel, oldest first.
pub(in crate::broker) struct Tracker<T> {
    channel: Channel,
    waiting: VecDeque<Waiting<T>>,
    /// The mark of the first in `waiting`; each place after it is the next mark's.
    first: u64,
    resolving: Arc<Resolving>,
    /// Marks of returned messages whose own confirm is not judged yet.
    returned: HashSet<u64>,
}

struct Waiting<T> {
    /// None when it has resolved.
    confirm: Option<PublisherConfirm>,
    resolved: Option<Resolved>,
    /// None when it was judged or given up.
    item: Option<T>,
    /// The last of what was published together.
    is_last: bool,
}

/// So many answers are told although the last of their batch is still due: as many as a batch has.
const GATHERED: usize = 64;

/// The marks of confirms that resolved and were not read yet, and whom to wake for them.
#[derive(Default)]
struct Resolving {
    marks: Mutex<Vec<u64>>,
    task: AtomicWaker,
}

impl Resolving {
    /// Adds one; how many there are now.
    fn add(&self, mark: u64) -> usize {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.push(mark);
        marks.len()
    }

    fn take(&self) -> Vec<u64> {
        std::mem::take(&mut *self.marks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Wakes for one confirm.
struct Marked {
    mark: u64,
    is_last: bool,
    resolving: Arc<Resolving>,
}

impl Wake for Marked {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let gathered = self.resolving.add(self.mark);
        if self.is_last || gathered >= GATHERED {
            self.resolving.task.wake();
        }
    }
}

enum Resolved {
    Ack,
    Nack,
    Lost(lapin::Error),
}

/// Puts a mark into a message, and when it was accepted in microseconds, as AMQP's own timestamp has seconds only. AMQP's
/// `cluster_id` is deprecated, travels back with a return and on to consumers, and is not the caller's.
pub(in crate::broker) fn marked(properties: BasicProperties, mark: u64, accepted: SystemTime) -> BasicProperties {
    let micros = accepted.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let mut text = String::with_capacity(40);
    // Writing into a string cannot fail.
    let _ = write!(text, "{mark}.{}", u64::try_from(micros).unwrap_or(u64::MAX));
    properties.with_cluster_id(text.into())
}

/// When a message that carries a mark was accepted.
pub(in crate::broker) fn accepted(properties: &BasicProperties) -> Option<SystemTime> {
    let (_, micros) = properties.cluster_id().as_ref()?.as_str().split_once('.')?;
    UNIX_EPOCH.checked_add(Duration::from_micros(micros.parse().ok()?))
}

fn mark_of(message: &BasicReturnMessage) -> Option<u64> {
    message.delivery.properties.cluster_id().as_ref()?.as_str().split('.').next()?.parse().ok()
}

impl<T> Tracker<T> {
    pub(in crate::broker) fn new(channel: Channel) -> Self {
        let (waiting, returned) = (VecDeque::new(), HashSet::new());
        Self { channel, waiting, first: 0, resolving: Arc::default(), returned }
    }

    /// Follows one more publish; marks grow. `is_last` of those that were published together.
    pub(in crate::broker) fn follow(&mut self, mark: u64, item: T, confirm: PublisherConfirm, is_last: bool) {
        if self.waiting.is_empty() {
            self.first = mark;
        }
        // A batch that was given up before it was written leaves a gap; its places are empty, so that all others are right.
        while self.first + (self.waiting.len() as u64) < mark {
            self.waiting.push_back(Waiting { confirm: None, resolved: None, item: None, is_last: false });
        }
        self.waiting.push_back(Waiting { confirm: Some(confirm), resolved: None, item: Some(item), is_last });
        // Read by the next call of `poll_answers`, which registers its waker.
        self.resolving.add(mark);
    }

    /// How many confirms the channel still holds.
    pub(in crate::broker) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Confirms that nobody waits for any more and that have not come.
    pub(in crate::broker) fn abandoned(&self) -> usize {
        self.waiting.iter().filter(|waiting| waiting.item.is_none() && waiting.confirm.is_some()).count()
    }

    /// The oldest publish without an answer.
    pub(in crate::broker) fn oldest(&self) -> Option<&T> {
        self.waiting.iter().find_map(|waiting| waiting.item.as_ref())
    }

    /// Gives up those that the filter names; their late answers are ignored.
    pub(in crate::broker) fn give_up(&mut self, mut filter: impl FnMut(&T) -> bool) -> Vec<T> {
        self.waiting
            .iter_mut()
            .filter(|waiting| waiting.item.as_ref().is_some_and(&mut filter))
            .filter_map(|waiting| waiting.item.take())
            .collect()
    }

    /// All that have no answer, oldest first.
    pub(in crate::broker) fn into_unanswered(self) -> impl Iterator<Item = T> {
        self.waiting.into_iter().filter_map(|waiting| waiting.item)
    }

    /// What has been answered since the last call; the waker is called when there is more.
    pub(in crate::broker) fn poll_answers(&mut self, cx: &mut Context<'_>) -> Vec<(T, Answer)> {
        self.resolving.task.register(cx.waker());
        let mut resolved = Vec::new();
        // Ends: each round but the last resolves at least one of a bounded window.
        while self.read_resolved(&mut resolved) {
            self.fence();
        }
        // In the order of publishing.
        resolved.sort_unstable();
        self.judge(&resolved)
    }

    /// Reads the confirms that have resolved, and takes the returned messages off them; whether there were any.
    fn read_resolved(&mut self, resolved: &mut Vec<u64>) -> bool {
        let before = resolved.len();
        for mark in self.resolving.take() {
            // A mark may come twice: when it is followed, and when it resolved before it was first looked at.
            let index = mark.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
            let Some(waiting) = index.and_then(|index| self.waiting.get_mut(index)) else { continue };
            let Some(confirm) = &mut waiting.confirm else { continue };
            let (is_last, resolving) = (waiting.is_last, Arc::clone(&self.resolving));
            let waker = Waker::from(Arc::new(Marked { mark, is_last, resolving }));
            let Poll::Ready(answer) = Pin::new(confirm).poll(&mut Context::from_waker(&waker)) else { continue };
            resolved.push(mark);
            waiting.confirm = None;
            let (answer, message) = match answer {
                Ok(Confirmation::Ack(message)) => (Resolved::Ack, message),
                Ok(Confirmation::Nack(message)) => (Resolved::Nack, message),
                // Confirms are on for every channel of ours; taken as no answer if they were not.
                Ok(Confirmation::NotRequested) => (Resolved::Lost(lapin::ErrorKind::FutureCompleted.into()), None),
                Err(error) => (Resolved::Lost(error), None),
            };
            waiting.resolved = Some(answer);
            self.returned.extend(message.as_ref().and_then(mark_of));
        }
        resolved.len() > before
    }

    /// Waits until lapin is not in the middle of a batch of acks, by taking the lock that it holds during one.
    fn fence(&mut self) {
        let polled =
            std::pin::pin!(self.channel.wait_for_confirms()).poll_unpin(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(Ok(messages)) = polled {
            self.returned.extend(messages.iter().filter_map(mark_of));
        }
    }

    fn judge(&mut self, resolved: &[u64]) -> Vec<(T, Answer)> {
        let mut answers = Vec::with_capacity(resolved.len());
        for mark in resolved {
            let Some(waiting) = self.waiting.get_mut((mark - self.first) as usize) else { continue };
            let Some(resolved) = waiting.resolved.take() else { continue };
            let returned = self.returned.remove(mark);
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
