//! One publish lane: a channel and the task that drives it for all publishers of the lane. Messages of one publisher
//! are published in the order in which they were pushed. Messages without an answer when the channel or the connection
//! ends are published again on a new one until their deadline, so that a broker restart costs time, and perhaps a
//! duplicate with the same id, but no message.
//!
//! Until its outcome, a message is in exactly one of these: a mailbox, the backlog of a member, a batch being sent, or
//! the tracker. A publisher may change lanes only while it has nothing on the channel, or takes all its messages from a
//! channel that does not answer, so no message overtakes another one.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet, HashSet},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::{Instant, Sleep};

use super::{
    channel::{Open, Progress, Sent, open},
    confirms::Answer,
    lanes::{Lanes, Reservation},
    lookups::{LookupResult, Lookups},
    mailbox::{LaneHandle, Request},
    members::Members,
    outcome::PublishStatus,
    pending::PendingPublish,
};
use crate::{
    backoff::Backoff,
    broker::error::{Error, quoted},
    error::{Classify as _, Failure, Kind},
};

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
const MIN_RENEWAL_INTERVAL: Duration = Duration::from_secs(1);
const MAX_RENEWAL_WAIT: Duration = Duration::from_millis(500);
/// The longest time for which an answer waits for others of its batch.
const MAX_ANSWER_DELAY: Duration = Duration::from_millis(5);
/// How long a publisher whose message made the broker close a channel has a separate lane.
const ISOLATION: Duration = Duration::from_secs(60);
/// The number of lanes that are opened to find the publisher whose message made the broker close a channel.
const SEPARATE_LANES: usize = 16;
/// After this many publishes to an exchange that was just deleted, a publisher gets a separate lane.
const MAX_CHANNEL_ERRORS: u32 = 3;
/// Messages are taken from a channel that has answered nothing for this share of their deadline, within these bounds.
const SHARE_OF_DEADLINE: u32 = 6;
const MIN_PATIENCE: Duration = Duration::from_secs(1);
const MAX_PATIENCE: Duration = Duration::from_secs(5);
/// How often a message is taken from a channel that does not answer. Each time it may be stored once more, with the same
/// id.
const MAX_RESCUES: u8 = 3;

/// Starts the task of a lane; `index` is its position among the shared lanes, if it is one of them.
pub(in crate::broker) fn start(lanes: Arc<Lanes>, handle: Arc<LaneHandle>, index: Option<usize>) {
    tokio::spawn(async move {
        let mut lane = Lane::new(lanes, handle, index);
        let ended = AssertUnwindSafe(std::future::poll_fn(|cx| lane.poll(cx))).catch_unwind().await;
        if let Err(panic) = ended {
            log_panic(&*panic);
            drop(panic);
            lane.fail().await;
        }
    });
}

struct Lane {
    lanes: Arc<Lanes>,
    handle: Arc<LaneHandle>,
    index: Option<usize>,
    stage: Stage,
    members: Members,
    lookups: Lookups,
    backoff: Backoff,
    last_error: Option<Error>,
    /// Fires at the earliest deadline or before it; `has_deadline` says whether it is set.
    deadline_timer: Pin<Box<Sleep>>,
    has_deadline: bool,
    /// Fires when there may be answers that woke no task, because the last answer of their batch is still due.
    answer_timer: Pin<Box<Sleep>>,
    idle_timer: Pin<Box<Sleep>>,
    idle_since: Option<Instant>,
    renewal: Renewal,
    rescue: Rescue,
}

/// Takes messages from a channel that answers nothing although the broker opens other channels. A channel of RabbitMQ
/// stops at its first message to a quorum queue that does not answer (one without a leader), for longer than the
/// deadline of the messages after it. These are published again on other channels.
struct Rescue {
    not_before: Instant,
    /// Opens another channel of the connection. While the broker opens none, the messages would not be answered there
    /// either.
    probe: Option<BoxFuture<'static, Result<(), Error>>>,
}

/// Replaces a lane on which the broker rejected a message, or whose channel is no longer usable. A channel of RabbitMQ
/// 3.10 sends to the node that led a queue when the channel first published to it, and rejects while that node is down,
/// even if another node leads now. Publishers move to the new lane once the broker has answered all their messages on
/// the old one.
struct Renewal {
    not_before: Instant,
    running: Option<(Reservation, Pin<Box<Sleep>>)>,
    /// Whether the lane has been replaced and ends with its last member.
    is_replaced: bool,
}

enum Stage {
    Closed,
    Opening(BoxFuture<'static, Result<Open, Error>>),
    Open(Box<Open>),
    BackingOff(Pin<Box<Sleep>>),
}

impl Lane {
    fn new(lanes: Arc<Lanes>, handle: Arc<LaneHandle>, index: Option<usize>) -> Self {
        let timer = || Box::pin(tokio::time::sleep(Duration::ZERO));
        Self {
            members: Members::new(Arc::clone(&lanes), Arc::clone(&handle)),
            lookups: Lookups::new(Arc::clone(&lanes.connections)),
            lanes,
            handle,
            index,
            stage: Stage::Closed,
            backoff: BACKOFF,
            last_error: None,
            deadline_timer: timer(),
            has_deadline: false,
            answer_timer: timer(),
            idle_timer: timer(),
            idle_since: None,
            renewal: Renewal { not_before: Instant::now(), running: None, is_replaced: false },
            rescue: Rescue { not_before: Instant::now(), probe: None },
        }
    }

    /// Ready when no publisher uses the lane any more.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.handle.task.register(cx.waker());
        let (requests, earliest) = self.members.take_inbox();
        for (member, request) in requests {
            match request {
                Request::Abandon => self.abandon(member),
                Request::Forget => self.forget(member),
            }
        }
        if let Some(earliest) = earliest {
            self.set_deadline(earliest);
        }
        loop {
            let has_advanced = self.poll_stage(cx);
            let has_looked_up = self.poll_lookups(cx);
            if !has_advanced && !has_looked_up {
                break;
            }
        }
        self.settle_overdue(cx);
        self.members.flush();
        self.poll_renewal(cx);
        self.poll_rescue(cx);
        self.arm_answer_timer(cx);
        self.poll_idle(cx)
    }

    /// Advances the stage; returns whether it should be polled again at once.
    fn poll_stage(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.stage {
            Stage::Closed => {
                if !self.members.has_backlog() || self.members.is_paused {
                    return false;
                }
                self.stage = Stage::Opening(open(Arc::clone(&self.lanes.connections)).boxed());
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
                let Progress { answers, ended } = open.drive(cx, &mut self.members);
                let has_answers = !answers.is_empty();
                let mut ended = self.settle_answers(answers).or(ended);
                if has_answers && ended.is_none() {
                    self.backoff.reset();
                    // Answers make capacity for more messages, which is used immediately.
                    if let Stage::Open(open) = &mut self.stage {
                        ended = open.send(cx, &mut self.members).err();
                    }
                }
                let Some(error) = ended else { return false };
                self.channel_ended(error);
                true
            }
        }
    }

    /// Settles the messages that the broker answered. Lost messages return to the backlogs. Returns the error that
    /// ended the channel.
    fn settle_answers(&mut self, answers: Vec<(Sent, Answer)>) -> Option<Error> {
        let (mut ended, mut is_rejected) = (None, false);
        for (sent, answer) in answers {
            self.members.left_channel(&sent);
            let status = match answer {
                Answer::Ack => PublishStatus::Confirmed,
                Answer::Returned => PublishStatus::Unroutable,
                Answer::Nack => {
                    is_rejected = true;
                    PublishStatus::Rejected(rejected_by_broker())
                }
                Answer::Lost(error) => {
                    ended.get_or_insert_with(|| Error::from(error));
                    self.members.give_back(sent);
                    continue;
                }
            };
            self.members.settle(sent.member, sent.message, status);
        }
        if is_rejected {
            self.renew();
        }
        ended
    }

    /// Returns all unanswered messages to the backlogs, in the order of their publishers, and handles the reason of the
    /// end.
    fn channel_ended(&mut self, error: Error) {
        if let Stage::Open(open) = std::mem::replace(&mut self.stage, Stage::Closed) {
            if error.is_connection_error() && open.may_stop_the_connection() {
                self.lanes.stopped_the_connection();
            }
            for sent in open.into_unanswered() {
                self.members.left_channel(&sent);
                self.members.give_back(sent);
            }
        }
        self.members.sort();
        match &error {
            Error::NoExchange(exchange) => {
                self.lanes.forget_exchange(exchange);
                let mut offenders = self.senders(Some(exchange));
                offenders.retain(|member| {
                    self.members.get_mut(*member).is_some_and(|member| {
                        member.channel_errors += 1;
                        member.channel_errors >= MAX_CHANNEL_ERRORS
                    })
                });
                self.last_error = Some(error);
                self.isolate(&offenders);
            }
            Error::Refused(_) if let Some(exchange) = internal_exchange(&error) => {
                let offenders = self.senders(Some(&exchange));
                let message =
                    format!("exchange {exchange:?} is internal: it accepts messages from other exchanges only");
                let failure = Failure::new(Kind::Precondition, "EXCHANGE_IS_INTERNAL", message);
                self.reject(&self.members.ids(), &exchange, &failure);
                self.last_error = Some(error);
                self.isolate(&offenders);
            }
            error if error.is_connection_error() => self.back_off(error.clone()),
            // A message that the broker refuses by closing the channel. The error may name its exchange, but not the
            // message.
            _ => {
                let exchange = named_exchange(&error);
                let suspects = self.senders(exchange.as_deref());
                self.back_off(error);
                if let [offender] = suspects[..] {
                    self.isolate(&[offender]);
                } else {
                    self.separate(&suspects);
                }
            }
        }
    }

    /// The members that had messages on the channel that has ended, for this exchange if one is given.
    fn senders(&mut self, exchange: Option<&str>) -> Vec<usize> {
        let is_on_channel = |message: &PendingPublish| {
            message.was_sent() && exchange.is_none_or(|exchange| message.exchange() == exchange)
        };
        let mut senders = self.members.ids();
        senders.retain(|id| self.members.get_mut(*id).is_some_and(|member| member.backlog.iter().any(is_on_channel)));
        senders
    }

    /// Gives publishers separate lanes for a while, so that they do not affect others.
    fn isolate(&mut self, offenders: &[usize]) {
        let until = Instant::now() + ISOLATION;
        for offender in offenders {
            self.members.isolate(*offender, until);
        }
        self.separate(offenders);
    }

    /// Moves publishers to separate lanes, or in groups when there are many. The group on whose lane the error occurs
    /// again is divided again, until the publisher is found.
    fn separate(&mut self, suspects: &[usize]) {
        if suspects.is_empty() || (self.index.is_none() && suspects.len() == 1 && self.members.len() == 1) {
            return;
        }
        for group in suspects.chunks(suspects.len().div_ceil(SEPARATE_LANES)) {
            let lane = self.lanes.separate();
            for member in group {
                self.members.hand_over(*member, &lane.0);
            }
        }
    }

    /// Rejects the messages of these members to an exchange that have not been sent.
    fn reject(&mut self, members: &[usize], exchange: &str, failure: &Failure) {
        for member in members {
            for message in self.members.remove(*member, |message| message.exchange() == exchange) {
                self.members.settle(*member, message, PublishStatus::Rejected(failure.clone()));
            }
        }
    }

    /// Starts and advances lookups of exchanges; returns whether further messages can be sent now.
    fn poll_lookups(&mut self, cx: &mut Context<'_>) -> bool {
        for (exchange, member) in self.members.take_unknown() {
            self.lookups.start(exchange, member);
        }
        let mut has_ended = false;
        loop {
            let members = &self.members;
            let looked = self.lookups.poll_ended(cx, |member, exchange| members.waits_for(member, exchange));
            match looked {
                None => return has_ended,
                Some(LookupResult::Failed(error)) => self.last_error = Some(error),
                Some(LookupResult::Up { exchange, exists, mut members }) => {
                    members.retain(|member| self.members.waits_for(*member, &exchange));
                    if exists {
                        self.lanes.exchange_exists(exchange);
                    } else {
                        let failure = Error::NoExchange(exchange.to_string()).into();
                        self.reject(&members, &exchange, &failure);
                    }
                    for member in members {
                        if let Some(it) = self.members.get_mut(member) {
                            it.looked_up = None;
                        }
                        self.members.queue(member);
                    }
                    has_ended = true;
                }
            }
        }
    }

    /// Waits before the next attempt to open a channel: 50 ms doubling up to 1 s, half of it at random.
    fn back_off(&mut self, error: Error) {
        let delay = self.backoff.pause();
        tracing::debug!(?error, ?delay, publishers = self.members.len(), "publishing is interrupted");
        self.last_error = Some(error);
        self.stage = Stage::BackingOff(Box::pin(tokio::time::sleep(delay)));
    }

    /// Polls again soon for answers that woke no task, and detects a channel that does not answer.
    fn arm_answer_timer(&mut self, cx: &mut Context<'_>) {
        let Stage::Open(open) = &self.stage else { return };
        if open.is_waiting() && self.answer_timer.as_mut().poll(cx).is_ready() {
            let is_silent = open.is_silent() && self.members.has_waiting();
            self.answer_timer.as_mut().reset(Instant::now() + MAX_ANSWER_DELAY);
            // Registers the waker; the timer has just been reset.
            let _ = self.answer_timer.as_mut().poll(cx);
            if is_silent && self.renew() {
                cx.waker().wake_by_ref();
            }
        }
    }

    /// Replaces this lane by another one, unless that was done a moment ago; returns whether it is being replaced.
    fn renew(&mut self) -> bool {
        let now = Instant::now();
        if self.renewal.running.is_none() && self.renewal.not_before <= now {
            self.renewal.not_before = now + MIN_RENEWAL_INTERVAL;
            self.renewal.is_replaced = true;
            let successor = self.lanes.successor(&self.handle, self.index);
            self.renewal.running = Some((successor, Box::pin(tokio::time::sleep(MAX_RENEWAL_WAIT))));
            self.members.is_paused = true;
        }
        self.renewal.running.is_some()
    }

    /// Moves the members without messages on the channel to the new lane. The others are moved when the broker has
    /// answered their messages, or stay here when that takes too long.
    fn poll_renewal(&mut self, cx: &mut Context<'_>) {
        let Some((successor, timer)) = &mut self.renewal.running else { return };
        for member in self.members.ids() {
            self.members.hand_over(member, &successor.0);
        }
        if self.members.is_empty() || timer.as_mut().poll(cx).is_ready() {
            self.renewal.running = None;
            self.members.is_paused = false;
            // The remaining members continue on this lane.
            cx.waker().wake_by_ref();
        }
    }

    /// Moves publishers with their messages from a channel that answers nothing to separate lanes, so that only those
    /// that publish to the destination that it waits for continue to wait.
    fn poll_rescue(&mut self, cx: &mut Context<'_>) {
        let mut is_probed = false;
        if let Some(probe) = &mut self.rescue.probe {
            let Poll::Ready(probed) = probe.poll_unpin(cx) else { return };
            self.rescue.probe = None;
            self.rescue.not_before = Instant::now() + MIN_PATIENCE;
            is_probed = probed.is_ok();
        }
        let Stage::Open(channel) = &self.stage else { return };
        let patience = (self.lanes.deadline / SHARE_OF_DEADLINE).clamp(MIN_PATIENCE, MAX_PATIENCE);
        if !channel.is_silent_for(patience) || !is_probed && Instant::now() < self.rescue.not_before {
            return;
        }
        let groups = self.stopped_groups();
        if groups.is_empty() {
            return;
        }
        if !is_probed {
            let opening = open(Arc::clone(&self.lanes.connections));
            let probe = async move {
                drop(opening.await?);
                // A broker that was frozen opens channels a moment before it answers what it got earlier.
                tokio::time::sleep(MIN_PATIENCE).await;
                Ok(())
            };
            self.rescue.probe = Some(probe.boxed());
            cx.waker().wake_by_ref();
            return;
        }
        let Stage::Open(channel) = &mut self.stage else { return };
        let is_moved: HashSet<_> = groups.iter().flatten().copied().collect();
        for mut sent in channel.abandon(|sent| is_moved.contains(&sent.member)) {
            self.members.left_channel(&sent);
            sent.message.rescued();
            self.members.give_back(sent);
        }
        self.members.sort();
        let (publishers, destinations) = (is_moved.len(), groups.len());
        tracing::warn!(publishers, destinations, "a channel of the broker does not answer, publishing on others again");
        for lane_groups in groups.chunks(groups.len().div_ceil(SEPARATE_LANES)) {
            let lane = self.lanes.separate();
            for member in lane_groups.iter().flatten() {
                self.members.hand_over(*member, &lane.0);
            }
        }
        cx.waker().wake_by_ref();
    }

    /// The members with messages on the channel, in groups that have the same destinations; empty when they cannot be
    /// moved, or all wait for the same destination. The channel does not say which destination it waits for, because it
    /// does not answer messages before that one either.
    fn stopped_groups(&self) -> Vec<Vec<usize>> {
        let Stage::Open(channel) = &self.stage else { return Vec::new() };
        let mut members = BTreeMap::<usize, (BTreeSet<_>, u8)>::new();
        let mut has_abandoned = false;
        for sent in channel.unanswered_messages() {
            let Some(Sent { member, message }) = sent else {
                has_abandoned = true;
                continue;
            };
            let (destinations, rescues) = members.entry(*member).or_default();
            destinations.insert((message.exchange(), message.routing_key()));
            *rescues = message.rescues().max(*rescues);
        }
        let mut groups = BTreeMap::<_, Vec<_>>::new();
        for (member, (destinations, rescues)) in members {
            let group = groups.entry(destinations).or_default();
            if rescues < MAX_RESCUES {
                group.push(member);
            }
        }
        if groups.len() < 2 && !has_abandoned {
            return Vec::new();
        }
        groups.into_values().filter(|group| !group.is_empty()).collect()
    }

    fn set_deadline(&mut self, due: Instant) {
        // The earliest deadline changes with each answer. The timer is not reset each time: when it fires too early, it
        // finds nothing overdue and is set again.
        if !self.has_deadline || due < self.deadline_timer.deadline() {
            self.has_deadline = true;
            self.deadline_timer.as_mut().reset(due);
        }
    }

    /// Settles overdue messages, and sets the timer to the next deadline.
    fn settle_overdue(&mut self, cx: &mut Context<'_>) {
        while self.has_deadline && self.deadline_timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let is_overdue = |message: &PendingPublish| message.deadline() <= now;
            let mut overdue = Vec::new();
            if let Stage::Open(open) = &mut self.stage {
                for sent in open.abandon(|sent| is_overdue(&sent.message)) {
                    self.members.left_channel(&sent);
                    overdue.push(sent);
                }
                open.drop_abandoned_batches();
            }
            for member in self.members.ids() {
                let messages = self.members.remove(member, is_overdue);
                overdue.extend(messages.into_iter().map(|message| Sent { member, message }));
            }
            for Sent { member, message } in overdue {
                let status = self.status_at_deadline(&message);
                self.members.settle(member, message, status);
            }
            if matches!(&self.stage, Stage::Open(open) if open.is_stalled()) && self.renew() {
                cx.waker().wake_by_ref();
            }
            let on_channel = match &self.stage {
                Stage::Open(open) => open.earliest_deadline(),
                _ => None,
            };
            let earliest = self.members.earliest_deadline().into_iter().chain(on_channel).min();
            self.has_deadline = earliest.is_some();
            if let Some(earliest) = earliest {
                self.deadline_timer.as_mut().reset(earliest);
            }
        }
    }

    /// A message that was never sent is certainly not stored; a message that was sent may be stored.
    fn status_at_deadline(&self, message: &PendingPublish) -> PublishStatus {
        let cause = match &self.stage {
            Stage::Open(open) if open.is_blocked() => "the broker blocks publishers: memory or disk alarm".into(),
            Stage::Open(_) => "the broker did not answer".into(),
            _ => self.last_error.as_ref().map_or("there is no connection".into(), |error| error.message()),
        };
        let deadline = self.lanes.deadline;
        if message.was_sent() {
            PublishStatus::Unknown(Failure::new(
                Kind::Deadline,
                "PUBLISH_DEADLINE",
                format!("not confirmed within {deadline:?} ({cause}); send it again with the same message_id"),
            ))
        } else {
            PublishStatus::Rejected(Failure::new(
                Kind::Unavailable,
                "BROKER_UNREACHABLE",
                format!("not sent within {deadline:?} ({cause}); sending it again is safe"),
            ))
        }
    }

    /// Removes all messages of a member, on the channel and in its backlog, in their order.
    fn take_all(&mut self, member: usize) -> Vec<PendingPublish> {
        let mut all = Vec::new();
        if let Stage::Open(open) = &mut self.stage {
            for sent in open.abandon(|sent| sent.member == member) {
                self.members.left_channel(&sent);
                all.push(sent.message);
            }
        }
        all.extend(self.members.remove(member, |_| true));
        all
    }

    fn abandon(&mut self, member: usize) {
        let failure = |message| Failure::new(Kind::Unavailable, "DRAINING", message);
        for message in self.take_all(member) {
            let status = if message.was_sent() {
                PublishStatus::Unknown(failure(
                    "the gateway stopped before the broker confirmed it; send it again with the same message_id",
                ))
            } else {
                PublishStatus::Rejected(failure("the gateway stopped before it was sent; sending it again is safe"))
            };
            self.members.settle(member, message, status);
        }
    }

    fn forget(&mut self, member: usize) {
        let forgotten = self.take_all(member);
        self.members.forget(member, forgotten.len());
    }

    /// Ready when the lane has had no members for a while.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.members.is_empty() {
            self.idle_since = None;
            return Poll::Pending;
        }
        let timeout = if self.renewal.is_replaced { Duration::ZERO } else { self.lanes.idle_timeout };
        let ends = *self.idle_since.get_or_insert_with(Instant::now) + timeout;
        // The timer is not reset with each message: when it fires too early, it is set again.
        while self.idle_timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= ends {
                // A publisher that is about to join, or another lane that moves publishers here, wakes the lane.
                return if self.lanes.end(&self.handle, self.index) { Poll::Ready(()) } else { Poll::Pending };
            }
            self.idle_timer.as_mut().reset(ends);
        }
        Poll::Pending
    }

    /// Settles all messages after a panic, so that no publisher waits forever.
    async fn fail(&mut self) {
        self.lanes.fail(&self.handle, self.index);
        self.renewal.running = None;
        loop {
            let _ = self.members.take_inbox();
            for member in self.members.ids() {
                for message in self.take_all(member) {
                    let failure = Failure::new(
                        Kind::Internal,
                        "INTERNAL",
                        "internal error; send it again with the same message_id",
                    );
                    self.members.settle(member, message, PublishStatus::Unknown(failure));
                }
            }
            self.members.flush();
            if self.members.is_empty() && self.lanes.end(&self.handle, self.index) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn log_panic(panic: &dyn Any) {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("unknown"), "a publish lane panicked");
}

fn rejected_by_broker() -> Failure {
    Failure::new(
        Kind::Exhausted,
        "BROKER_REJECTED",
        "the broker rejected it, usually because a queue is at its limit; it is not stored, sending again is safe",
    )
}

/// RabbitMQ's text of the error that closed the channel.
fn refusal_text(error: &Error) -> Option<String> {
    let (Error::Refused(Some(error)) | Error::Unsupported(Some(error)) | Error::Unexpected(error)) = error else {
        return None;
    };
    let lapin::ErrorKind::ProtocolError(amqp) = error.kind() else { return None };
    Some(amqp.get_message().to_string())
}

/// The exchange in RabbitMQ's answer `cannot publish to internal exchange 'x' in vhost 'v'`.
fn internal_exchange(error: &Error) -> Option<String> {
    quoted(&refusal_text(error)?, "internal exchange ")
}

/// The exchange in RabbitMQ's answer `write access to exchange 'x' in vhost 'v' refused for user 'u'`.
fn named_exchange(error: &Error) -> Option<String> {
    let exchange = quoted(&refusal_text(error)?, "exchange ")?;
    // The default exchange has an empty name.
    Some(if exchange == "amq.default" { String::new() } else { exchange })
}

#[cfg(test)]
mod tests;
