//! The publisher of one stream. Messages are published in the order in which they were pushed, and each gets one outcome.
//! Messages without an answer when the channel or the connection ends are published again on a new one until their deadline,
//! so that a broker restart costs time, and perhaps a duplicate with the same id, but no message.
//!
//! Until its outcome, a message is in exactly one of these: the backlog, a batch being sent, or the tracker.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::{Instant, Sleep};

use super::{
    channel::{Open, Progress, open},
    confirms::Answer,
    outcome::{PublishOutcome, PublishStatus},
    pending::PendingPublish,
};
use crate::{
    backoff::Backoff,
    broker::{
        connection::tenant_connections::TenantConnections,
        error::{Error, quoted},
    },
    error::{Classify as _, Failure, Kind},
};

/// Publishes the messages of one stream. Nothing is connected until the first message.
pub struct Publisher {
    connections: Arc<TenantConnections>,
    deadline: Duration,
    stage: Stage,
    backlog: VecDeque<PendingPublish>,
    /// Exchanges that existed when last looked up; a publish to a missing one would close the channel for all messages.
    known: HashSet<Arc<str>>,
    /// Exchanges just found to be missing or internal, with the failure for messages to them.
    refused: HashMap<Arc<str>, Failure>,
    backoff: Backoff,
    last_error: Option<Error>,
    /// Fires at the earliest deadline.
    deadline_timer: Pin<Box<Sleep>>,
    /// Fires when answers may be waiting for which the stream was not woken, because the last answer of their batch is due.
    answer_timer: Pin<Box<Sleep>>,
    in_flight: usize,
    replacement: ChannelReplacement,
}

/// Replaces a channel on which the broker rejected a message. A channel of RabbitMQ 3.10 sends to the node that led a queue when
/// the channel first published to it, and rejects while that node is down, whichever node leads now.
struct ChannelReplacement {
    not_before: Instant,
    /// Set while a replacement is due. Messages of two channels could overtake each other, so nothing is sent until the old
    /// channel has answered everything, or this timer fires.
    waiting: Option<Pin<Box<Sleep>>>,
}

enum Stage {
    Closed,
    Opening(BoxFuture<'static, Result<Open, Error>>),
    Open(Box<Open>),
    BackingOff(Pin<Box<Sleep>>),
}

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
const MIN_REPLACEMENT_INTERVAL: Duration = Duration::from_secs(1);
const MAX_REPLACEMENT_WAIT: Duration = Duration::from_millis(500);
/// The longest that an answer waits for others of its batch.
const MAX_ANSWER_DELAY: Duration = Duration::from_millis(5);

impl Publisher {
    pub(in crate::broker) fn new(connections: Arc<TenantConnections>, deadline: Duration) -> Self {
        Self {
            connections,
            deadline,
            stage: Stage::Closed,
            backlog: VecDeque::new(),
            known: HashSet::new(),
            refused: HashMap::new(),
            backoff: BACKOFF,
            last_error: None,
            deadline_timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            answer_timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            in_flight: 0,
            replacement: ChannelReplacement { not_before: Instant::now(), waiting: None },
        }
    }

    /// Accepts messages; each is returned by [`Self::settled`] exactly once.
    pub fn push(&mut self, messages: Vec<PendingPublish>) {
        let now = Instant::now();
        let due = now + self.deadline;
        self.in_flight += messages.len();
        self.backlog.extend(messages.into_iter().map(|message| message.due(now, due)));
    }

    /// The number of messages without an outcome.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Publishes, recovers, and waits for outcomes; returns one or more of them. Cancel safe. Pending while nothing is in
    /// flight.
    pub async fn settled(&mut self) -> Vec<PublishOutcome> {
        std::future::poll_fn(|cx| self.poll_settled(cx)).await
    }

    /// Settles everything that has no outcome yet, because the gateway stops. What was sent may be stored.
    pub fn abandon(&mut self) -> Vec<PublishOutcome> {
        let mut rest: Vec<_> = match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Open(open) => open.into_unanswered().collect(),
            _ => Vec::new(),
        };
        rest.extend(std::mem::take(&mut self.backlog));
        rest.sort_by_key(PendingPublish::order);
        self.in_flight = 0;
        let failure = |message| Failure::new(Kind::Unavailable, "DRAINING", message);
        let end = |message: PendingPublish| match message.was_sent() {
            true => message.settle(PublishStatus::Unknown(failure(
                "the gateway stopped before the broker confirmed it; send it again with the same message_id",
            ))),
            false => message.settle(PublishStatus::Rejected(failure(
                "the gateway stopped before it was sent; sending it again is safe",
            ))),
        };
        rest.into_iter().map(end).collect()
    }

    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<Vec<PublishOutcome>> {
        let mut settled = Vec::new();
        while self.poll_stage(cx, &mut settled) {}
        self.settle_overdue(cx, &mut settled);
        if settled.is_empty() {
            self.arm_answer_timer(cx);
            return Poll::Pending;
        }
        self.in_flight -= settled.len();
        Poll::Ready(settled)
    }

    /// Polls again soon for answers for which the stream was not woken.
    fn arm_answer_timer(&mut self, cx: &mut Context<'_>) {
        let is_waiting = matches!(&self.stage, Stage::Open(open) if open.is_waiting());
        if is_waiting && self.answer_timer.as_mut().poll(cx).is_ready() {
            self.answer_timer.as_mut().reset(Instant::now() + MAX_ANSWER_DELAY);
            // Registers the waker; the timer has just been reset.
            let _ = self.answer_timer.as_mut().poll(cx);
        }
    }

    /// Advances the stage; returns whether it should be polled again at once.
    fn poll_stage(&mut self, cx: &mut Context<'_>, settled: &mut Vec<PublishOutcome>) -> bool {
        match &mut self.stage {
            Stage::Closed => {
                if self.backlog.is_empty() {
                    return false;
                }
                self.stage = Stage::Opening(open(Arc::clone(&self.connections)).boxed());
                true
            }
            Stage::Opening(opening) => match opening.poll_unpin(cx) {
                Poll::Pending => false,
                Poll::Ready(Ok(open)) => {
                    self.stage = Stage::Open(Box::new(open));
                    true
                }
                Poll::Ready(Err(error)) => {
                    self.back_off(error);
                    true
                }
            },
            Stage::BackingOff(sleep) => {
                if sleep.as_mut().poll(cx).is_pending() {
                    return false;
                }
                self.stage = Stage::Closed;
                true
            }
            Stage::Open(open) => {
                let nothing = &mut VecDeque::new();
                let backlog = if self.replacement.waiting.is_some() { nothing } else { &mut self.backlog };
                let Progress { answers, ended } = open.drive(cx, backlog, &mut self.known);
                if ended.is_none() && !answers.is_empty() {
                    self.backoff.reset();
                }
                let ended = self.settle_answers(answers, settled).or(ended);
                let has_ended = ended.is_some();
                if let Some(error) = ended {
                    self.channel_ended(error);
                }
                self.settle_refused(settled) || has_ended || self.poll_replacement(cx)
            }
        }
    }

    /// Settles what the broker answered. What was lost returns to the backlog. Returns the error that ended the channel.
    fn settle_answers(
        &mut self,
        answers: Vec<(PendingPublish, Answer)>,
        settled: &mut Vec<PublishOutcome>,
    ) -> Option<Error> {
        let mut ended = None;
        for (message, answer) in answers {
            match answer {
                Answer::Ack => settled.push(message.settle(PublishStatus::Confirmed)),
                Answer::Returned => settled.push(message.settle(PublishStatus::Unroutable)),
                Answer::Nack => {
                    self.replacement.request();
                    settled.push(message.settle(PublishStatus::Rejected(rejected_by_broker())));
                }
                Answer::Lost(error) => {
                    ended.get_or_insert_with(|| Error::from(error));
                    self.backlog.push_back(message);
                }
            }
        }
        ended
    }

    /// Replaces the channel when that is due and nothing is in flight on it; returns whether something changed.
    fn poll_replacement(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(waiting) = &mut self.replacement.waiting else { return false };
        if let Stage::Open(open) = &self.stage {
            if open.is_idle() {
                self.stage = Stage::Closed;
            } else if waiting.as_mut().poll(cx).is_pending() {
                return false;
            }
        }
        self.replacement.waiting = None;
        true
    }

    /// Returns everything unanswered to the backlog, in the order of publishing, and acts on the reason of the end.
    fn channel_ended(&mut self, error: Error) {
        if let Stage::Open(open) = std::mem::replace(&mut self.stage, Stage::Closed) {
            self.backlog.extend(open.into_unanswered());
            self.backlog.make_contiguous().sort_by_key(PendingPublish::order);
        }
        match &error {
            Error::NoExchange(exchange) => {
                self.known.remove(exchange.as_str());
                self.last_error = Some(error);
            }
            Error::Refused(_) if let Some(exchange) = internal_exchange(&error) => {
                let message =
                    format!("exchange {exchange:?} is internal: it accepts messages from other exchanges only");
                let failure = Failure::new(Kind::Precondition, "EXCHANGE_IS_INTERNAL", message);
                self.refused.insert(exchange.into(), failure);
            }
            _ => self.back_off(error),
        }
    }

    /// Waits before the next attempt to open a channel: 50 ms doubling up to 1 s, half of it at random.
    fn back_off(&mut self, error: Error) {
        let delay = self.backoff.pause();
        tracing::debug!(?error, ?delay, waiting = self.backlog.len(), "publishing is interrupted");
        self.last_error = Some(error);
        self.stage = Stage::BackingOff(Box::pin(tokio::time::sleep(delay)));
    }

    /// Settles messages to exchanges that are missing or internal; returns whether there were such exchanges.
    fn settle_refused(&mut self, settled: &mut Vec<PublishOutcome>) -> bool {
        if let Stage::Open(open) = &mut self.stage {
            for exchange in open.take_missing() {
                let failure = Error::NoExchange(exchange.to_string()).into();
                self.refused.insert(exchange, failure);
            }
        }
        if self.refused.is_empty() {
            return false;
        }
        for message in std::mem::take(&mut self.backlog) {
            match self.refused.get(message.exchange()) {
                Some(failure) => settled.push(message.settle(PublishStatus::Rejected(failure.clone()))),
                None => self.backlog.push_back(message),
            }
        }
        self.refused.clear();
        true
    }

    /// Settles what is past its deadline, and sets the timer to the next deadline.
    fn settle_overdue(&mut self, cx: &mut Context<'_>, settled: &mut Vec<PublishOutcome>) {
        let Some(due) = self.earliest_deadline() else { return };
        // The earliest deadline moves with each answer. The timer is not moved back each time: when it fires too early, it
        // finds nothing overdue and is set again.
        if due < self.deadline_timer.deadline() {
            self.deadline_timer.as_mut().reset(due);
        }
        while self.deadline_timer.as_mut().poll(cx).is_ready() {
            for message in self.take_overdue(Instant::now()) {
                let status = self.status_at_deadline(&message);
                settled.push(message.settle(status));
            }
            if let Stage::Open(open) = &self.stage
                && open.is_stalled()
            {
                self.channel_ended(Error::Timeout);
                cx.waker().wake_by_ref();
            }
            match self.earliest_deadline() {
                Some(due) => self.deadline_timer.as_mut().reset(due),
                None => return,
            }
        }
    }

    fn earliest_deadline(&self) -> Option<Instant> {
        let on_channel = match &self.stage {
            Stage::Open(open) => open.earliest_deadline(),
            _ => None,
        };
        self.backlog.front().map(PendingPublish::deadline).into_iter().chain(on_channel).min()
    }

    /// Removes all messages that are past their deadline.
    fn take_overdue(&mut self, now: Instant) -> Vec<PendingPublish> {
        let mut overdue = match &mut self.stage {
            Stage::Open(open) => open.take_overdue(now),
            _ => Vec::new(),
        };
        for message in std::mem::take(&mut self.backlog) {
            if message.deadline() <= now { overdue.push(message) } else { self.backlog.push_back(message) }
        }
        overdue
    }

    /// A message that was never sent is certainly not stored; one that was sent may be.
    fn status_at_deadline(&self, message: &PendingPublish) -> PublishStatus {
        let cause = match &self.stage {
            Stage::Open(open) if open.is_blocked() => "the broker accepts nothing: a memory or disk alarm".into(),
            Stage::Open(_) => "the broker did not answer".into(),
            _ => self.last_error.as_ref().map_or("there is no connection".into(), |error| error.message()),
        };
        if message.was_sent() {
            PublishStatus::Unknown(Failure::new(
                Kind::Deadline,
                "PUBLISH_DEADLINE",
                format!("not confirmed within {:?} ({cause}); send it again with the same message_id", self.deadline),
            ))
        } else {
            PublishStatus::Rejected(Failure::new(
                Kind::Unavailable,
                "BROKER_UNREACHABLE",
                format!("not sent within {:?} ({cause}); sending it again is safe", self.deadline),
            ))
        }
    }
}

impl ChannelReplacement {
    /// Requests a replacement of the channel, unless the last replacement was a moment ago.
    fn request(&mut self) {
        let now = Instant::now();
        if self.not_before <= now {
            self.not_before = now + MIN_REPLACEMENT_INTERVAL;
            self.waiting = Some(Box::pin(tokio::time::sleep(MAX_REPLACEMENT_WAIT)));
        }
    }
}

fn rejected_by_broker() -> Failure {
    Failure::new(
        Kind::Exhausted,
        "BROKER_REJECTED",
        "the broker rejected it, usually because a queue is at its limit; it is not stored, sending again is safe",
    )
}

/// The exchange in RabbitMQ's answer `cannot publish to internal exchange 'x' in vhost 'v'`.
fn internal_exchange(error: &Error) -> Option<String> {
    let Error::Refused(Some(error)) = error else { return None };
    let lapin::ErrorKind::ProtocolError(amqp) = error.kind() else { return None };
    let text = amqp.get_message().to_string();
    quoted(&text, "internal exchange ")
}
