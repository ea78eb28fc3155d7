//! The channel of a lane, from its opening to its end. Messages are taken from the publishers in turn, up to 64 at a
//! time. All publishes of a batch are polled before any is awaited, so that lapin writes them together (docs/adr/0003).
//! Nothing else uses the channel, so the broker's delivery tags and the tracker's sequence numbers agree.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
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
};

const MAX_BATCH: usize = 64;
/// The length of the sequence from the oldest unanswered publish to the newest. RabbitMQ stops reading the connection,
/// with all its channels, when a channel that waits for a queue gets more than 200 further publishes (its default
/// `credit_flow_default_credit` is 400, renewed after 200). Together with [`RESERVE`] this is less.
const MAX_UNANSWERED: usize = 168;
/// Additional capacity for publishers with few unanswered messages, so that they do not wait for the confirms of a
/// publisher that publishes as much as possible.
const RESERVE: usize = 32;
/// Replaces [`MAX_UNANSWERED`] while the tenant has a single publisher: RabbitMQ's initial credit of a channel. No other
/// publisher uses the connection that may stop, and larger batches cost the broker less.
const MAX_UNANSWERED_OF_SINGLE: usize = 400;
const SETUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Nothing further is sent on a channel that has answered nothing for this long, and it is replaced for the publishers
/// that wait.
const SILENT_AFTER: Duration = Duration::from_millis(500);

type Confirms = Vec<lapin::Result<PublisherConfirm>>;

/// A message, and the number that the lane has given its publisher.
pub(super) struct Sent {
    pub(super) member: usize,
    pub(super) message: PendingPublish,
}

/// How many messages may be sent now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capacity {
    pub(super) batch: usize,
    /// For all publishers.
    pub(super) free: usize,
    /// In addition, for publishers with few unanswered messages.
    pub(super) reserve: usize,
}

/// Where the channel takes messages from.
pub(super) trait Source {
    /// Whether no other publisher uses the connection.
    fn has_connection_alone(&self) -> bool;

    /// Takes the next messages; empty when nothing can be sent.
    fn gather(&mut self, capacity: Capacity) -> Vec<Sent>;
}

/// An open channel in confirm mode.
pub(super) struct Open {
    channel: Channel,
    guard: ChannelGuard,
    lost: BoxFuture<'static, ()>,
    tracker: Tracker<Sent>,
    sending: VecDeque<Batch>,
    next_sequence: u64,
    last_answer: Instant,
    /// Completes when the broker unblocks the connection; set while it is blocked.
    unblocked: Option<BoxFuture<'static, ()>>,
    _close_on_drop: CloseOnDrop,
}

struct Batch {
    first_sequence: u64,
    /// `None` once the message was abandoned. lapin has the batch and may still write it.
    messages: Vec<Option<Sent>>,
    sent: MaybeDone<BoxFuture<'static, Confirms>>,
}

/// The result of one poll of the channel.
pub(super) struct Progress {
    pub(super) answers: Vec<(Sent, Answer)>,
    /// The error that ended the channel.
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
        sending: VecDeque::new(),
        next_sequence: 1,
        last_answer: Instant::now(),
        unblocked: None,
        _close_on_drop: close_on_drop,
    })
}

impl Open {
    /// Sends as many messages as fit, and reads answers.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>, source: &mut impl Source) -> Progress {
        self.poll_unblocked(cx);
        let mut sent = self.send(cx, source);
        let answers = self.tracker.poll_answers(cx);
        if sent.is_ok() && self.lost.poll_unpin(cx).is_ready() {
            sent = Err(Error::Unreachable(None));
        }
        if !answers.is_empty() {
            self.last_answer = Instant::now();
        }
        Progress { answers, ended: sent.err() }
    }

    /// Starts as many batches as fit, and polls the batches that are being sent.
    pub(super) fn send(&mut self, cx: &mut Context<'_>, source: &mut impl Source) -> Result<(), Error> {
        while self.start_batch(source) {}
        self.poll_sending(cx)
    }

    /// Nothing is sent while the connection is blocked; the lane is woken when it is unblocked.
    fn poll_unblocked(&mut self, cx: &mut Context<'_>) {
        if self.guard.blocked() && self.unblocked.is_none() {
            self.unblocked = Some(self.guard.unblocked().boxed());
        }
        if self.unblocked.as_mut().is_some_and(|unblocked| unblocked.poll_unpin(cx).is_ready()) {
            self.unblocked = None;
            self.last_answer = Instant::now();
        }
    }

    /// Publishes that lapin has and the broker has not answered, including abandoned ones.
    fn unanswered(&self) -> usize {
        self.tracker.len() + self.sending.iter().map(|batch| batch.messages.len()).sum::<usize>()
    }

    /// Starts a batch, if one may be sent now; returns whether it did.
    fn start_batch(&mut self, source: &mut impl Source) -> bool {
        // lapin buffers without a bound what it cannot write, so nothing is sent while the connection is blocked. A
        // channel that waits for a queue would not answer other messages either.
        if self.unblocked.is_some() || self.is_silent() {
            return false;
        }
        let unanswered = self.unanswered();
        let most = if source.has_connection_alone() { MAX_UNANSWERED_OF_SINGLE } else { MAX_UNANSWERED };
        let capacity = Capacity {
            batch: MAX_BATCH,
            free: most.saturating_sub(unanswered),
            reserve: (MAX_UNANSWERED + RESERVE).saturating_sub(unanswered.max(MAX_UNANSWERED)),
        };
        let mut batch = source.gather(capacity);
        if batch.is_empty() {
            return false;
        }
        if unanswered == 0 {
            self.last_answer = Instant::now();
        }
        let first_sequence = self.next_sequence;
        self.next_sequence += batch.len() as u64;
        let (attempts, bodies) = batch.iter_mut().map(|sent| sent.message.attempt()).unzip();
        let sent = maybe_done(publish(self.channel.clone(), first_sequence, attempts, bodies).boxed());
        let messages = batch.into_iter().map(Some).collect();
        self.sending.push_back(Batch { first_sequence, messages, sent });
        true
    }

    /// Polls the batches in order: the first poll of a batch publishes it. They are passed to the tracker in order,
    /// too.
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

    /// Whether confirms are due, or messages have not been written.
    pub(super) fn is_waiting(&self) -> bool {
        self.tracker.len() > 0 || !self.sending.is_empty()
    }

    /// Whether missing confirms of abandoned messages (a queue without a leader) leave too little capacity for other
    /// messages.
    pub(super) fn is_stalled(&self) -> bool {
        self.tracker.abandoned() >= MAX_UNANSWERED / 2
    }

    /// Whether the broker may have stopped reading the connection because of this channel.
    pub(super) fn may_stop_the_connection(&self) -> bool {
        self.unanswered() > MAX_UNANSWERED + RESERVE && self.is_silent()
    }

    /// Whether answers are due and the broker has not sent any for a while.
    pub(super) fn is_silent(&self) -> bool {
        self.is_silent_for(SILENT_AFTER)
    }

    /// Whether answers are due and the broker has not sent any for this long.
    pub(super) fn is_silent_for(&self, time: Duration) -> bool {
        let is_blocked = self.unblocked.is_some() || self.is_blocked();
        self.is_waiting() && !is_blocked && self.last_answer.elapsed() >= time
    }

    /// The messages on this channel, oldest first; `None` for those that were abandoned.
    pub(super) fn unanswered_messages(&self) -> impl Iterator<Item = Option<&Sent>> {
        let sending = self.sending.iter().flat_map(|batch| batch.messages.iter().map(Option::as_ref));
        self.tracker.unanswered().chain(sending)
    }

    /// Whether the broker has blocked the connection.
    pub(super) fn is_blocked(&self) -> bool {
        self.guard.blocked()
    }

    /// The earliest deadline of the messages on this channel.
    pub(super) fn earliest_deadline(&self) -> Option<Instant> {
        let sending = self.sending.iter().flat_map(|batch| batch.messages.iter().flatten());
        self.tracker.items().chain(sending).map(|sent| sent.message.deadline()).min()
    }

    /// Abandons and returns the messages that the filter selects, oldest first. lapin may still write them, so their
    /// confirms are awaited.
    pub(super) fn abandon(&mut self, mut filter: impl FnMut(&Sent) -> bool) -> Vec<Sent> {
        let mut abandoned = self.tracker.abandon(&mut filter);
        let sending = self.sending.iter_mut().flat_map(|batch| batch.messages.iter_mut());
        abandoned.extend(sending.filter_map(|sent| sent.take_if(|sent| filter(sent))));
        abandoned
    }

    /// Drops batches that lapin cannot write (a blocked connection) once all their messages are abandoned, to free the
    /// bodies.
    pub(super) fn drop_abandoned_batches(&mut self) {
        self.sending.retain(|batch| batch.messages.iter().any(Option::is_some));
    }

    /// The messages without an answer, oldest first.
    pub(super) fn into_unanswered(self) -> impl Iterator<Item = Sent> {
        self.tracker.into_unanswered().chain(self.sending.into_iter().flat_map(|batch| batch.messages).flatten())
    }
}

/// Publishes a batch: each publish is polled once, in order, before any is awaited, so that lapin writes them in that
/// order. Only the last publish wakes the task.
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
