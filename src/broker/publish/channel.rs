//! One channel of a publisher, from its opening to its end. Messages are taken from the backlog in order, up to 64 at a time.
//! All publishes of a batch are polled before any is awaited, so that lapin writes them together (docs/adr/0003). Nothing
//! else uses the channel, so the broker's delivery tags and the tracker's sequence numbers agree.

use std::{
    collections::{HashSet, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, MaybeDone, maybe_done},
};
use lapin::{
    Channel, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::time::Instant;

use super::{
    confirms::{Answer, Tracker, with_sequence},
    pending::{Attempt, PendingPublish},
};
use crate::broker::{
    connection::{
        live::{ChannelGuard, CloseOnDrop},
        tenant_connections::TenantConnections,
    },
    error::Error,
    topology::exchange_exists,
};

const MAX_BATCH: usize = 64;
/// lapin scans its table of unanswered publishes for each `multiple` ack: more would be slower.
const MAX_UNANSWERED: usize = 1_000;
const SETUP_TIMEOUT: Duration = Duration::from_secs(5);

type Confirms = Vec<lapin::Result<PublisherConfirm>>;

/// An open channel in confirm mode.
pub(super) struct Open {
    channel: Channel,
    guard: ChannelGuard,
    lost: BoxFuture<'static, ()>,
    connections: Arc<TenantConnections>,
    tracker: Tracker<PendingPublish>,
    sending: VecDeque<Batch>,
    next_sequence: u64,
    lookup: Option<Lookup>,
    missing: Vec<Arc<str>>,
    /// Completes when the broker unblocks the connection; set while it is blocked.
    unblocked: Option<BoxFuture<'static, ()>>,
    _close_on_drop: CloseOnDrop,
}

struct Batch {
    first_sequence: u64,
    messages: Vec<PendingPublish>,
    /// The latest deadline in it: lapin has the batch, so it can only be abandoned as a whole.
    deadline: Instant,
    sent: MaybeDone<BoxFuture<'static, Confirms>>,
}

/// The lookup of an exchange.
struct Lookup {
    exchange: Arc<str>,
    found: BoxFuture<'static, Result<bool, Error>>,
}

/// The result of one poll of the channel.
pub(super) struct Progress {
    pub(super) answers: Vec<(PendingPublish, Answer)>,
    /// Why the channel has ended, if it has.
    pub(super) ended: Option<Error>,
}

pub(super) async fn open(connections: Arc<TenantConnections>) -> Result<Open, Error> {
    let (channel, guard) = connections.publish.channel().await?;
    let close_on_drop = CloseOnDrop::new(&channel);
    let confirming = channel.confirm_select(ConfirmSelectOptions::default());
    tokio::time::timeout(SETUP_TIMEOUT, confirming).await.map_err(|_| Error::Timeout)??;
    let lost = guard.lost().clone().cancelled_owned().boxed();
    Ok(Open {
        tracker: Tracker::new(channel.clone()),
        channel,
        guard,
        lost,
        connections,
        sending: VecDeque::new(),
        next_sequence: 1,
        lookup: None,
        missing: Vec::new(),
        unblocked: None,
        _close_on_drop: close_on_drop,
    })
}

impl Open {
    /// Sends what fits and reads answers.
    pub(super) fn drive(
        &mut self,
        cx: &mut Context<'_>,
        backlog: &mut VecDeque<PendingPublish>,
        known: &mut HashSet<Arc<str>>,
    ) -> Progress {
        self.poll_unblocked(cx);
        let mut sent = self.send(cx, backlog, known);
        let answers = self.tracker.poll_answers(cx);
        if sent.is_ok() && self.lost.poll_unpin(cx).is_ready() {
            sent = Err(Error::Unreachable(None));
        }
        // Answers free capacity, which is used at once instead of at the next wake-up.
        if sent.is_ok() && !answers.is_empty() {
            sent = self.send(cx, backlog, known);
        }
        Progress { answers, ended: sent.err() }
    }

    /// Starts as many batches as fit, and polls those that are being sent.
    fn send(
        &mut self,
        cx: &mut Context<'_>,
        backlog: &mut VecDeque<PendingPublish>,
        known: &mut HashSet<Arc<str>>,
    ) -> Result<(), Error> {
        self.poll_lookup(cx, known)?;
        while self.start_batch(backlog, known) {}
        // Polls a lookup that has just been started.
        self.poll_lookup(cx, known)?;
        self.poll_sending(cx)
    }

    /// Checks whether a blocked connection has been unblocked. While it is blocked, nothing is sent, and the stream is woken
    /// when the block ends.
    fn poll_unblocked(&mut self, cx: &mut Context<'_>) {
        if self.guard.blocked() && self.unblocked.is_none() {
            self.unblocked = Some(self.guard.unblocked().boxed());
        }
        if self.unblocked.as_mut().is_some_and(|unblocked| unblocked.poll_unpin(cx).is_ready()) {
            self.unblocked = None;
        }
    }

    /// Starts a batch, if one may be sent now; returns whether it did. Stops at an exchange that has not been looked up yet,
    /// and starts the lookup.
    fn start_batch(&mut self, backlog: &mut VecDeque<PendingPublish>, known: &HashSet<Arc<str>>) -> bool {
        let unanswered = self.tracker.len() + self.sending.iter().map(|batch| batch.messages.len()).sum::<usize>();
        let most = MAX_BATCH.min(MAX_UNANSWERED.saturating_sub(unanswered));
        // lapin keeps what it cannot write without a bound, so nothing is sent while the connection is blocked.
        if self.lookup.is_some() || most == 0 || self.unblocked.is_some() {
            return false;
        }
        let ready = backlog.iter().take(most).take_while(|message| is_known(message, known)).count();
        if ready == 0 {
            if let Some(message) = backlog.front()
                && !self.missing.iter().any(|exchange| **exchange == *message.exchange())
            {
                let exchange: Arc<str> = message.exchange().into();
                let connections = Arc::clone(&self.connections);
                let name = exchange.to_string();
                let found = async move { exchange_exists(&connections, &name).await }.boxed();
                self.lookup = Some(Lookup { exchange, found });
            }
            return false;
        }
        let mut messages: Vec<_> = backlog.drain(..ready).collect();
        let Some(deadline) = messages.iter().map(PendingPublish::deadline).max() else { return false };
        let first_sequence = self.next_sequence;
        self.next_sequence += ready as u64;
        let (attempts, bodies) = messages.iter_mut().map(PendingPublish::attempt).unzip();
        let sent = maybe_done(publish(self.channel.clone(), first_sequence, attempts, bodies).boxed());
        self.sending.push_back(Batch { first_sequence, messages, deadline, sent });
        true
    }

    /// Reads the result of the lookup of an exchange.
    fn poll_lookup(&mut self, cx: &mut Context<'_>, known: &mut HashSet<Arc<str>>) -> Result<(), Error> {
        let Some(lookup) = &mut self.lookup else { return Ok(()) };
        let Poll::Ready(found) = lookup.found.poll_unpin(cx) else { return Ok(()) };
        let exchange = Arc::clone(&lookup.exchange);
        self.lookup = None;
        if found? {
            known.insert(exchange);
        } else {
            self.missing.push(exchange);
        }
        // A batch may be ready now.
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Polls the batches in order: the first poll of a batch publishes it. They are passed to the tracker in order, too.
    fn poll_sending(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        for batch in &mut self.sending {
            let _ = batch.sent.poll_unpin(cx);
        }
        while let Some(batch) = self.sending.front_mut() {
            let Some(confirms) = Pin::new(&mut batch.sent).take_output() else { break };
            let mut failed = None;
            let mut back = Vec::new();
            let last = batch.first_sequence + (batch.messages.len() as u64).saturating_sub(1);
            for ((sequence, message), confirm) in (batch.first_sequence..).zip(batch.messages.drain(..)).zip(confirms) {
                match confirm {
                    // A failed publish ends the channel; nothing after it is tracked, so that the sequence has no gap.
                    Ok(confirm) if failed.is_none() => {
                        self.tracker.track(sequence, message, confirm, sequence == last);
                    }
                    Ok(_) => back.push(message),
                    Err(error) => {
                        failed.get_or_insert(error);
                        back.push(message);
                    }
                }
            }
            batch.messages = back;
            if let Some(error) = failed {
                return Err(error.into());
            }
            self.sending.pop_front();
        }
        Ok(())
    }

    /// Whether confirms are due.
    pub(super) fn is_waiting(&self) -> bool {
        self.tracker.len() > 0
    }

    /// Whether missing confirms of abandoned messages (a queue without a leader) leave too little capacity for others.
    pub(super) fn is_stalled(&self) -> bool {
        self.tracker.abandoned() >= MAX_UNANSWERED / 2
    }

    /// Whether no answer is awaited.
    pub(super) fn is_idle(&self) -> bool {
        self.sending.is_empty() && self.tracker.oldest().is_none()
    }

    /// Whether the broker has blocked the connection.
    pub(super) fn is_blocked(&self) -> bool {
        self.guard.blocked()
    }

    /// Exchanges found to be missing since the last call.
    pub(super) fn take_missing(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.missing)
    }

    /// The earliest deadline of the messages on this channel.
    pub(super) fn earliest_deadline(&self) -> Option<Instant> {
        let sending = self.sending.iter().map(|batch| batch.deadline).min();
        self.tracker.oldest().map(PendingPublish::deadline).into_iter().chain(sending).min()
    }

    /// Abandons and returns what is past its deadline. A batch that lapin still buffers (a blocked connection) may be
    /// written later.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Vec<PendingPublish> {
        let mut overdue = self.tracker.abandon(|message| message.deadline() <= now);
        for batch in std::mem::take(&mut self.sending) {
            if batch.deadline > now {
                self.sending.push_back(batch);
            } else {
                overdue.extend(batch.messages);
            }
        }
        overdue
    }

    pub(super) fn into_unanswered(self) -> impl Iterator<Item = PendingPublish> {
        self.tracker.into_unanswered().chain(self.sending.into_iter().flat_map(|batch| batch.messages))
    }
}

/// The default exchange always exists.
fn is_known(message: &PendingPublish, known: &HashSet<Arc<str>>) -> bool {
    message.exchange().is_empty() || known.contains(message.exchange())
}

/// Publishes a batch: all publishes are polled once, in order, before any is awaited, and lapin writes them in that order. Only
/// the last one wakes the task.
async fn publish(channel: Channel, first_sequence: u64, attempts: Vec<Attempt>, bodies: Vec<Bytes>) -> Confirms {
    let mut sending: Vec<_> = (first_sequence..)
        .zip(attempts.into_iter().zip(&bodies))
        .map(|(sequence, (attempt, body))| {
            let options = BasicPublishOptions { mandatory: attempt.mandatory, ..BasicPublishOptions::default() };
            let properties = with_sequence(attempt.properties, sequence, attempt.accepted);
            let publish = channel.basic_publish(attempt.exchange, attempt.routing_key, options, body, properties);
            maybe_done(Box::pin(publish))
        })
        .collect();
    let last = sending.len().saturating_sub(1);
    for publish in sending.iter_mut().take(last) {
        let _ = publish.poll_unpin(&mut Context::from_waker(Waker::noop()));
    }
    if let Some(last) = sending.last_mut() {
        last.await;
    }
    let mut confirms = Vec::with_capacity(sending.len());
    for mut publish in sending {
        (&mut publish).await;
        confirms.extend(Pin::new(&mut publish).take_output());
    }
    confirms
}
