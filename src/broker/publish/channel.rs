//! One channel's share of a publisher: from its opening to its end. Messages enter from the backlog in order, 64 at a time,
//! and answers leave. The publishes of a batch are first polled in order, all at once, so that lapin writes them together
//! (docs/adr/0003); nobody else has the channel, so tags and marks agree.

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
    Outgoing,
    confirms::{Answer, Tracker, marked},
    pending::Attempt,
};
use crate::broker::{
    Error,
    connection::live::{ChannelGuard, Unfinished},
    handle::Links,
    topology::exchange_exists,
};

const BATCH: usize = 64;
/// lapin scans its table of unanswered publishes for each `multiple` ack: more would be slower.
const MAX_UNANSWERED: usize = 1_000;
const SETUP: Duration = Duration::from_secs(5);

type Confirms = Vec<lapin::Result<PublisherConfirm>>;

/// An open channel with confirms on.
pub(super) struct Open {
    channel: Channel,
    guard: ChannelGuard,
    lost: BoxFuture<'static, ()>,
    links: Arc<Links>,
    tracker: Tracker<Outgoing>,
    sending: VecDeque<Batch>,
    next_mark: u64,
    checking: Option<Checking>,
    missing: Vec<Arc<str>>,
    /// The end of the broker's blocking, while it is waited for.
    unblocked: Option<BoxFuture<'static, ()>>,
    _unfinished: Unfinished,
}

struct Batch {
    first_mark: u64,
    messages: Vec<Outgoing>,
    /// When all of it is past its deadline: lapin has it, so it can only be given up whole.
    over_at: Instant,
    sent: MaybeDone<BoxFuture<'static, Confirms>>,
}

/// An exchange that is being looked up.
struct Checking {
    exchange: Arc<str>,
    found: BoxFuture<'static, Result<bool, Error>>,
}

/// What a look at the channel brought.
pub(super) struct Progress {
    pub(super) answers: Vec<(Outgoing, Answer)>,
    /// Why the channel is over, when it is.
    pub(super) ended: Option<Error>,
}

pub(super) async fn open(links: Arc<Links>) -> Result<Open, Error> {
    let (channel, guard) = links.publish.channel().await?;
    let unfinished = Unfinished::new(&channel);
    let confirming = channel.confirm_select(ConfirmSelectOptions::default());
    tokio::time::timeout(SETUP, confirming).await.map_err(|_| Error::Timeout)??;
    let lost = guard.lost().clone().cancelled_owned().boxed();
    Ok(Open {
        tracker: Tracker::new(channel.clone()),
        channel,
        guard,
        lost,
        links,
        sending: VecDeque::new(),
        next_mark: 1,
        checking: None,
        missing: Vec::new(),
        unblocked: None,
        _unfinished: unfinished,
    })
}

impl Open {
    /// Sends what fits and reads answers.
    pub(super) fn drive(
        &mut self,
        cx: &mut Context<'_>,
        backlog: &mut VecDeque<Outgoing>,
        known: &mut HashSet<Arc<str>>,
    ) -> Progress {
        self.wait_while_blocked(cx);
        let mut error = self.check(cx, known).err();
        while error.is_none() && self.start_batch(backlog, known) {}
        error = error.or_else(|| self.check(cx, known).err());
        error = error.or_else(|| self.poll_sending(cx).err());
        let answers = self.tracker.poll_answers(cx);
        if error.is_none() && self.lost.poll_unpin(cx).is_ready() {
            error = Some(Error::Unreachable(None));
        }
        // Room that answers made is used at once, not at the next wake-up.
        if error.is_none() && !answers.is_empty() {
            while self.start_batch(backlog, known) {}
            error = self.check(cx, known).err().or_else(|| self.poll_sending(cx).err());
        }
        Progress { answers, ended: error }
    }

    /// While the broker blocks, nothing is sent; its end wakes the stream.
    fn wait_while_blocked(&mut self, cx: &mut Context<'_>) {
        if self.guard.blocked() && self.unblocked.is_none() {
            self.unblocked = Some(self.guard.unblocked().boxed());
        }
        if self.unblocked.as_mut().is_some_and(|unblocked| unblocked.poll_unpin(cx).is_ready()) {
            self.unblocked = None;
        }
    }

    /// Whether a batch was started. Stops at an exchange not seen yet, and has it looked up.
    fn start_batch(&mut self, backlog: &mut VecDeque<Outgoing>, known: &HashSet<Arc<str>>) -> bool {
        let unanswered = self.tracker.len() + self.sending.iter().map(|batch| batch.messages.len()).sum::<usize>();
        let most = BATCH.min(MAX_UNANSWERED.saturating_sub(unanswered));
        // lapin keeps what it cannot write, without a bound of its own: a broker that takes nothing is given nothing.
        if self.checking.is_some() || most == 0 || self.unblocked.is_some() {
            return false;
        }
        let ready = backlog.iter().take(most).take_while(|message| is_known(message, known)).count();
        if ready == 0 {
            if let Some(message) = backlog.front()
                && !self.missing.iter().any(|exchange| **exchange == *message.exchange())
            {
                let exchange: Arc<str> = message.exchange().into();
                let links = Arc::clone(&self.links);
                let name = exchange.to_string();
                let found = async move { exchange_exists(&links, &name).await }.boxed();
                self.checking = Some(Checking { exchange, found });
            }
            return false;
        }
        let mut messages: Vec<_> = backlog.drain(..ready).collect();
        let Some(over_at) = messages.iter().map(Outgoing::deadline).max() else { return false };
        let first_mark = self.next_mark;
        self.next_mark += ready as u64;
        let (attempts, bodies) = messages.iter_mut().map(Outgoing::attempt).unzip();
        let sent = maybe_done(publish(self.channel.clone(), first_mark, attempts, bodies).boxed());
        self.sending.push_back(Batch { first_mark, messages, over_at, sent });
        true
    }

    /// Learns whether an exchange is there.
    fn check(&mut self, cx: &mut Context<'_>, known: &mut HashSet<Arc<str>>) -> Result<(), Error> {
        let Some(checking) = &mut self.checking else { return Ok(()) };
        let Poll::Ready(found) = checking.found.poll_unpin(cx) else { return Ok(()) };
        let exchange = Arc::clone(&checking.exchange);
        self.checking = None;
        if found? {
            known.insert(exchange);
        } else {
            self.missing.push(exchange);
        }
        // There may be a batch to start now.
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Polls the batches in order: the first poll of each is what publishes it. They are followed in order, too.
    fn poll_sending(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        for batch in &mut self.sending {
            let _ = batch.sent.poll_unpin(cx);
        }
        while let Some(batch) = self.sending.front_mut() {
            let Some(confirms) = Pin::new(&mut batch.sent).take_output() else { break };
            let mut failed = None;
            let mut back = Vec::new();
            let (marks, last) =
                (batch.first_mark.., batch.first_mark + (batch.messages.len() as u64).saturating_sub(1));
            for ((mark, message), confirm) in marks.zip(batch.messages.drain(..)).zip(confirms) {
                match confirm {
                    // What was refused ends the channel; nothing after it is followed, so that marks have no gap.
                    Ok(confirm) if failed.is_none() => self.tracker.follow(mark, message, confirm, mark == last),
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

    /// Whether confirms that do not come (a queue without a leader) leave too little room for other messages.
    pub(super) fn is_clogged(&self) -> bool {
        self.tracker.abandoned() >= MAX_UNANSWERED / 2
    }

    /// Whether nobody waits for an answer.
    pub(super) fn is_quiet(&self) -> bool {
        self.sending.is_empty() && self.tracker.oldest().is_none()
    }

    /// Whether the broker takes nothing for now.
    pub(super) fn is_blocked(&self) -> bool {
        self.guard.blocked()
    }

    /// Exchanges found to be missing since the last call.
    pub(super) fn take_missing(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.missing)
    }

    /// The earliest deadline here.
    pub(super) fn earliest(&self) -> Option<Instant> {
        let sending = self.sending.iter().map(|batch| batch.over_at).min();
        self.tracker.oldest().map(Outgoing::deadline).into_iter().chain(sending).min()
    }

    /// Gives up what is past its deadline. A batch that lapin still holds (a blocked connection) may yet be written.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<Outgoing> {
        let mut over = self.tracker.give_up(|message| message.deadline() <= now);
        for batch in std::mem::take(&mut self.sending) {
            if batch.over_at > now {
                self.sending.push_back(batch);
            } else {
                over.extend(batch.messages);
            }
        }
        over
    }

    pub(super) fn into_unanswered(self) -> impl Iterator<Item = Outgoing> {
        self.tracker.into_unanswered().chain(self.sending.into_iter().flat_map(|batch| batch.messages))
    }
}

/// The default exchange is always there.
fn is_known(message: &Outgoing, known: &HashSet<Arc<str>>) -> bool {
    message.exchange().is_empty() || known.contains(message.exchange())
}

/// Publishes a batch: all are polled once, in order, before any is waited for. lapin writes them in that order, and says so
/// of each: only the last wakes us.
async fn publish(channel: Channel, first_mark: u64, attempts: Vec<Attempt>, bodies: Vec<Bytes>) -> Confirms {
    let mut sending: Vec<_> = (first_mark..)
        .zip(attempts.into_iter().zip(&bodies))
        .map(|(mark, (attempt, body))| {
            let options = BasicPublishOptions { mandatory: attempt.mandatory, ..BasicPublishOptions::default() };
            let properties = marked(attempt.properties, mark, attempt.accepted);
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
