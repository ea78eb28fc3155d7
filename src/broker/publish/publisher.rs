//! Publishing for one stream. Messages enter in order and are published so; each leaves with one [`Verdict`]. What has none
//! when the channel or the connection ends is published again on a new one until its deadline, so that a broker restart
//! costs time, and perhaps a duplicate with the same id, but no message.
//!
//! Invariant: a message is in exactly one of `backlog`, a batch being sent, or the tracker, until its verdict.

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
    Outgoing, Settled, Verdict,
    channel::{Open, Progress, open},
    confirms::Answer,
};
use crate::{
    backoff::Backoff,
    broker::{Error, handle::Links},
    error::{Classify as _, Failure, Kind},
};

/// A stream's way to the broker. Nothing is connected until the first message.
pub struct Publisher {
    links: Arc<Links>,
    deadline: Duration,
    stage: Stage,
    backlog: VecDeque<Outgoing>,
    /// Exchanges that were there when last seen; a publish to a missing one would end the channel for all the others.
    known: HashSet<Arc<str>>,
    /// Exchanges just found to be missing or internal, with what to tell those who publish to them.
    refusing: HashMap<Arc<str>, Failure>,
    backoff: Backoff,
    last_error: Option<Error>,
    timer: Pin<Box<Sleep>>,
    /// When to look for answers that nothing wakes us for: the last of their batch is slower than they are.
    look: Pin<Box<Sleep>>,
    in_flight: usize,
    renewal: Renewal,
}

/// Another channel for a broker that refuses: RabbitMQ 3.10 asks whoever led a queue when a channel first published to it, for
/// as long as the channel lives, and refuses while that node is down, whoever leads now.
struct Renewal {
    not_before: Instant,
    /// Nothing is sent until all is answered, for so long at most: messages of two channels may overtake each other.
    waiting: Option<Pin<Box<Sleep>>>,
}

enum Stage {
    Closed,
    Opening(BoxFuture<'static, Result<Open, Error>>),
    Open(Box<Open>),
    Pausing(Pin<Box<Sleep>>),
}

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
const RENEWED_AT_MOST_EVERY: Duration = Duration::from_secs(1);
const RENEWED_WITHIN: Duration = Duration::from_millis(500);
/// The longest that an answer waits for others.
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl Publisher {
    pub(in crate::broker) fn new(links: Arc<Links>, deadline: Duration) -> Self {
        Self {
            links,
            deadline,
            stage: Stage::Closed,
            backlog: VecDeque::new(),
            known: HashSet::new(),
            refusing: HashMap::new(),
            backoff: BACKOFF,
            last_error: None,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            look: Box::pin(tokio::time::sleep(Duration::ZERO)),
            in_flight: 0,
            renewal: Renewal { not_before: Instant::now(), waiting: None },
        }
    }

    /// Takes messages over; each comes back from [`Self::settled`] once.
    pub fn push(&mut self, messages: Vec<Outgoing>) {
        let now = Instant::now();
        let due = now + self.deadline;
        self.in_flight += messages.len();
        self.backlog.extend(messages.into_iter().map(|message| message.due(now, due)));
    }

    /// Messages without a verdict.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Publishes, recovers, and waits for verdicts; ends with one or more of them. Cancel safe. Waits for ever when
    /// nothing is in flight.
    pub async fn settled(&mut self) -> Vec<Settled> {
        std::future::poll_fn(|cx| self.poll_settled(cx)).await
    }

    /// Ends everything that has no verdict, now: the gateway stops. What was sent may be stored.
    pub fn abandon(&mut self) -> Vec<Settled> {
        let mut rest: Vec<_> = match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Open(open) => open.into_unanswered().collect(),
            _ => Vec::new(),
        };
        rest.extend(std::mem::take(&mut self.backlog));
        rest.sort_by_key(Outgoing::order);
        self.in_flight = 0;
        let failure = |message| Failure::new(Kind::Unavailable, "DRAINING", message);
        let end = |message: Outgoing| match message.was_sent() {
            true => message.settle(Verdict::Unknown(failure(
                "the gateway stopped before the broker confirmed it; send it again with the same message_id",
            ))),
            false => message
                .settle(Verdict::Rejected(failure("the gateway stopped before it was sent; sending it again is safe"))),
        };
        rest.into_iter().map(end).collect()
    }

    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Settled>> {
        let mut settled = Vec::new();
        while self.step(cx, &mut settled) {}
        self.expire(cx, &mut settled);
        if settled.is_empty() {
            self.look_later(cx);
            return Poll::Pending;
        }
        self.in_flight -= settled.len();
        Poll::Ready(settled)
    }

    /// Comes back for what was answered, but woke nobody.
    fn look_later(&mut self, cx: &mut Context<'_>) {
        let is_waiting = matches!(&self.stage, Stage::Open(open) if open.is_waiting());
        if is_waiting && self.look.as_mut().poll(cx).is_ready() {
            self.look.as_mut().reset(Instant::now() + LOOK_EVERY);
            // Registers it; it is not over yet.
            let _ = self.look.as_mut().poll(cx);
        }
    }

    /// One step of the stage; whether another should follow at once.
    fn step(&mut self, cx: &mut Context<'_>, settled: &mut Vec<Settled>) -> bool {
        match &mut self.stage {
            Stage::Closed => {
                if self.backlog.is_empty() {
                    return false;
                }
                self.stage = Stage::Opening(open(Arc::clone(&self.links)).boxed());
                true
            }
            Stage::Opening(opening) => match opening.poll_unpin(cx) {
                Poll::Pending => false,
                Poll::Ready(Ok(open)) => {
                    self.stage = Stage::Open(Box::new(open));
                    true
                }
                Poll::Ready(Err(error)) => {
                    self.pause(error);
                    true
                }
            },
            Stage::Pausing(pause) => {
                if pause.as_mut().poll(cx).is_pending() {
                    return false;
                }
                self.stage = Stage::Closed;
                true
            }
            Stage::Open(open) => {
                let nothing = &mut VecDeque::new();
                let backlog = if self.renewal.waiting.is_some() { nothing } else { &mut self.backlog };
                let Progress { answers, ended } = open.drive(cx, backlog, &mut self.known);
                if ended.is_none() && !answers.is_empty() {
                    self.backoff.reset();
                }
                let ended = self.answer(answers, settled).or(ended);
                let again = ended.is_some();
                if let Some(error) = ended {
                    self.reopen(error);
                }
                self.refuse(settled) || again || self.renew(cx)
            }
        }
    }

    /// Gives up the channel that messages were refused on, as soon as nothing is under way there; whether something changed.
    fn renew(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(waiting) = &mut self.renewal.waiting else { return false };
        let is_quiet = matches!(&self.stage, Stage::Open(open) if open.is_quiet());
        if !is_quiet && matches!(self.stage, Stage::Open(_)) && waiting.as_mut().poll(cx).is_pending() {
            return false;
        }
        if is_quiet {
            self.stage = Stage::Closed;
        }
        self.renewal.waiting = None;
        true
    }

    /// Turns answers into verdicts; what was lost goes back to the front of the backlog, in order. The error, if any.
    fn answer(&mut self, answers: Vec<(Outgoing, Answer)>, settled: &mut Vec<Settled>) -> Option<Error> {
        let mut lost = Vec::new();
        let mut ended = None;
        for (message, answer) in answers {
            match answer {
                Answer::Ack => settled.push(message.settle(Verdict::Confirmed)),
                Answer::Returned => settled.push(message.settle(Verdict::Unroutable)),
                Answer::Nack => {
                    let now = Instant::now();
                    if self.renewal.not_before <= now {
                        let waiting = Box::pin(tokio::time::sleep(RENEWED_WITHIN));
                        self.renewal = Renewal { not_before: now + RENEWED_AT_MOST_EVERY, waiting: Some(waiting) };
                    }
                    settled.push(message.settle(Verdict::Rejected(nacked())));
                }
                Answer::Lost(error) => {
                    ended.get_or_insert_with(|| Error::from(error));
                    lost.push(message);
                }
            }
        }
        lost.into_iter().rev().for_each(|message| self.backlog.push_front(message));
        ended
    }

    /// Takes everything unanswered back, and looks at why the channel ended.
    fn reopen(&mut self, error: Error) {
        if let Stage::Open(open) = std::mem::replace(&mut self.stage, Stage::Closed) {
            let mut unanswered: VecDeque<_> = open.into_unanswered().collect();
            unanswered.append(&mut self.backlog);
            self.backlog = unanswered;
            // Some came back from the tracker's answers and some from its rest: as they were published.
            self.backlog.make_contiguous().sort_by_key(Outgoing::order);
        }
        match &error {
            Error::NoExchange(exchange) => {
                self.known.remove(exchange.as_str());
                self.last_error = Some(error);
            }
            Error::Refused(_) if let Some(exchange) = internal_exchange(&error) => {
                let message = format!("exchange {exchange:?} is internal: it takes messages from other exchanges only");
                let failure = Failure::new(Kind::Precondition, "EXCHANGE_IS_INTERNAL", message);
                self.refusing.insert(exchange.into(), failure);
            }
            _ => self.pause(error),
        }
    }

    /// Waits before the next connection.
    fn pause(&mut self, error: Error) {
        let pause = self.backoff.pause();
        tracing::debug!(?error, ?pause, waiting = self.backlog.len(), "publishing is interrupted");
        self.last_error = Some(error);
        self.stage = Stage::Pausing(Box::pin(tokio::time::sleep(pause)));
    }

    /// Settles what goes to exchanges that are missing or internal; whether there were any.
    fn refuse(&mut self, settled: &mut Vec<Settled>) -> bool {
        if let Stage::Open(open) = &mut self.stage {
            for exchange in open.take_missing() {
                let failure = Error::NoExchange(exchange.to_string()).into();
                self.refusing.insert(exchange, failure);
            }
        }
        if self.refusing.is_empty() {
            return false;
        }
        for message in std::mem::take(&mut self.backlog) {
            match self.refusing.get(message.exchange()) {
                Some(failure) => settled.push(message.settle(Verdict::Rejected(failure.clone()))),
                None => self.backlog.push_back(message),
            }
        }
        self.refusing.clear();
        true
    }

    /// Ends what is past its deadline, and sets the timer to the next.
    fn expire(&mut self, cx: &mut Context<'_>, settled: &mut Vec<Settled>) {
        let earliest = |publisher: &Self| {
            let open = match &publisher.stage {
                Stage::Open(open) => open.earliest(),
                _ => None,
            };
            publisher.backlog.front().map(Outgoing::deadline).into_iter().chain(open).min()
        };
        let Some(due) = earliest(self) else { return };
        // Deadlines grow with each answer: one that comes too early looks, and is set again, once in a deadline.
        if due < self.timer.deadline() {
            self.timer.as_mut().reset(due);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let mut over = match &mut self.stage {
                Stage::Open(open) => open.give_up(now),
                _ => Vec::new(),
            };
            for message in std::mem::take(&mut self.backlog) {
                if message.deadline() <= now { over.push(message) } else { self.backlog.push_back(message) }
            }
            for message in over {
                let verdict = self.give_up(&message);
                settled.push(message.settle(verdict));
            }
            if let Stage::Open(open) = &self.stage
                && open.is_clogged()
            {
                self.reopen(Error::Timeout);
                cx.waker().wake_by_ref();
            }
            match earliest(self) {
                Some(due) => self.timer.as_mut().reset(due),
                None => return,
            }
        }
    }

    /// A message that never left is not stored; one that did may be.
    fn give_up(&self, message: &Outgoing) -> Verdict {
        let cause = match &self.stage {
            Stage::Open(open) if open.is_blocked() => "the broker takes nothing: a memory or disk alarm".into(),
            Stage::Open(_) => "the broker did not answer".into(),
            _ => self.last_error.as_ref().map_or("there is no connection".into(), |error| error.message()),
        };
        if message.was_sent() {
            Verdict::Unknown(Failure::new(
                Kind::Deadline,
                "PUBLISH_DEADLINE",
                format!("not confirmed within {:?} ({cause}); send it again with the same message_id", self.deadline),
            ))
        } else {
            Verdict::Rejected(Failure::new(
                Kind::Unavailable,
                "BROKER_UNREACHABLE",
                format!("not sent within {:?} ({cause}); sending it again is safe", self.deadline),
            ))
        }
    }
}

fn nacked() -> Failure {
    Failure::new(
        Kind::Exhausted,
        "BROKER_REJECTED",
        "the broker rejected it, usually because a queue is at its limit; it is not stored, sending again is safe",
    )
}

/// `cannot publish to internal exchange 'x' in vhost 'v'`.
fn internal_exchange(error: &Error) -> Option<String> {
    let Error::Refused(Some(error)) = error else { return None };
    let lapin::ErrorKind::ProtocolError(amqp) = error.kind() else { return None };
    let text = amqp.get_message().to_string();
    let rest = &text[text.find("internal exchange '")? + "internal exchange '".len()..];
    Some(rest[..rest.find('\'')?].to_owned())
}
