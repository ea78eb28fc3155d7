//! The publishers of a lane and their messages that have not been sent. They are served in turn, a few messages each,
//! so that one that publishes as much as possible does not delay the others.

use std::{
    collections::VecDeque,
    sync::{Arc, MutexGuard},
};

use slab::Slab;
use tokio::time::Instant;

use super::{
    channel::{Capacity, Sent, Source},
    lanes::Lanes,
    mailbox::{Content, LaneHandle, Mailbox, Request},
    outcome::{PublishOutcome, PublishStatus},
    pending::PendingPublish,
};

/// How many messages a publisher sends in its turn, unless it is the only one. A publisher with fewer unanswered
/// messages may use the reserve.
const QUANTUM: usize = 16;
/// A turn ends when this many bytes were sent.
const QUANTUM_BYTES: usize = 64 * 1024;
/// Maximum bytes without an answer on a channel: the maximum of one stream.
const MAX_UNANSWERED_BYTES: usize = 32 * 1024 * 1024;

/// One publisher.
pub(super) struct Member {
    mailbox: Arc<Mailbox>,
    /// Not sent, or to be sent again, in the order of the publisher.
    pub(super) backlog: VecDeque<PendingPublish>,
    /// On the channel, without an answer.
    pub(super) unanswered: usize,
    /// Not yet passed to the mailbox.
    outcomes: Vec<PublishOutcome>,
    /// Whether it waits for its turn.
    is_queued: bool,
    /// The exchange whose lookup it waits for.
    pub(super) looked_up: Option<Arc<str>>,
    /// How often the broker closed a channel because an exchange of this publisher's messages was missing.
    pub(super) channel_errors: u32,
}

/// All publishers of a lane.
pub(super) struct Members {
    lanes: Arc<Lanes>,
    handle: Arc<LaneHandle>,
    all: Slab<Member>,
    /// The publishers that can send, in the order of their turns.
    turns: VecDeque<usize>,
    /// Exchanges of the next messages that have not been looked up, with the member that waits.
    unknown: Vec<(Arc<str>, usize)>,
    unanswered_bytes: usize,
    /// The publishers with outcomes or an end to be reported.
    touched: Vec<usize>,
    /// Nothing is sent while members are moved to another lane.
    pub(super) is_paused: bool,
}

impl Members {
    pub(super) fn new(lanes: Arc<Lanes>, handle: Arc<LaneHandle>) -> Self {
        let (turns, unknown, touched) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { lanes, handle, all: Slab::new(), turns, unknown, unanswered_bytes: 0, touched, is_paused: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get_mut(&mut self, member: usize) -> Option<&mut Member> {
        self.all.get_mut(member)
    }

    pub(super) fn ids(&self) -> Vec<usize> {
        self.all.iter().map(|(id, _)| id).collect()
    }

    /// Whether there are messages that have not been sent.
    pub(super) fn has_backlog(&self) -> bool {
        self.all.iter().any(|(_, member)| !member.backlog.is_empty())
    }

    /// Whether a publisher without unanswered messages waits for its turn.
    pub(super) fn has_waiting(&self) -> bool {
        self.turns.iter().any(|id| self.all.get(*id).is_some_and(|member| member.unanswered == 0))
    }

    /// The earliest deadline of the messages that have not been sent.
    pub(super) fn earliest_deadline(&self) -> Option<Instant> {
        self.all.iter().filter_map(|(_, member)| member.backlog.front()).map(PendingPublish::deadline).min()
    }

    /// Takes the announced messages; returns the publishers' requests, and the earliest deadline of new messages.
    pub(super) fn take_inbox(&mut self) -> (Vec<(usize, Request)>, Option<Instant>) {
        let (mut requests, mut earliest) = (Vec::new(), None::<Instant>);
        for mailbox in self.handle.take_inbox() {
            let mut content = mailbox.content();
            match &content.lane {
                Some(lane) if Arc::ptr_eq(lane, &self.handle) => content.is_listed = false,
                // The publisher was moved after it was listed here.
                Some(lane) => {
                    lane.list(Arc::clone(&mailbox));
                    continue;
                }
                None => {
                    content.is_listed = false;
                    continue;
                }
            }
            let id = match content.member {
                Some(id) => id,
                None => {
                    let id = self.all.insert(Member::new(Arc::clone(&mailbox)));
                    content.member = Some(id);
                    id
                }
            };
            let request = content.request.take();
            let pushed = std::mem::take(&mut content.pushed);
            drop(content);
            requests.extend(request.map(|request| (id, request)));
            let Some(member) = self.all.get_mut(id) else { continue };
            if let Some(first) = pushed.front().map(PendingPublish::deadline) {
                earliest = Some(earliest.map_or(first, |earliest| earliest.min(first)));
            }
            if member.backlog.is_empty() {
                member.backlog = pushed
            } else {
                member.backlog.extend(pushed)
            }
            self.queue(id);
            // The publisher may have joined only to make a request.
            self.touched.push(id);
        }
        (requests, earliest)
    }

    /// Gives a member a turn when it can send something.
    pub(super) fn queue(&mut self, id: usize) {
        if let Some(member) = self.all.get_mut(id)
            && !member.is_queued
            && member.looked_up.is_none()
            && !member.backlog.is_empty()
        {
            member.is_queued = true;
            self.turns.push_back(id);
        }
    }

    /// Exchanges to be looked up, and the members that wait for each.
    pub(super) fn take_unknown(&mut self) -> Vec<(Arc<str>, usize)> {
        std::mem::take(&mut self.unknown)
    }

    /// Records that a message left the channel, for any reason.
    pub(super) fn left_channel(&mut self, sent: &Sent) {
        self.unanswered_bytes = self.unanswered_bytes.saturating_sub(sent.message.bytes());
        if let Some(member) = self.all.get_mut(sent.member) {
            member.unanswered = member.unanswered.saturating_sub(1);
        }
    }

    /// Returns a message that left the channel without an answer to its publisher's backlog.
    pub(super) fn give_back(&mut self, sent: Sent) {
        if let Some(member) = self.all.get_mut(sent.member) {
            member.backlog.push_back(sent.message);
        }
    }

    /// Restores the order of all backlogs after [`Self::give_back`].
    pub(super) fn sort(&mut self) {
        for id in self.ids() {
            if let Some(member) = self.all.get_mut(id) {
                member.backlog.make_contiguous().sort_by_key(PendingPublish::order);
            }
            self.queue(id);
        }
    }

    pub(super) fn settle(&mut self, member: usize, message: PendingPublish, status: PublishStatus) {
        if let Some(it) = self.all.get_mut(member) {
            it.outcomes.push(message.settle(status));
            self.touched.push(member);
        }
    }

    /// Removes the messages of a member's backlog that the filter selects.
    pub(super) fn remove(&mut self, id: usize, filter: impl Fn(&PendingPublish) -> bool) -> Vec<PendingPublish> {
        let Some(member) = self.all.get_mut(id) else { return Vec::new() };
        let (removed, rest) = std::mem::take(&mut member.backlog).into_iter().partition::<Vec<_>, _>(filter);
        member.backlog = rest.into();
        self.touched.push(id);
        removed
    }

    /// Passes outcomes to their publishers. A publisher without messages leaves the lane.
    pub(super) fn flush(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for id in &touched {
            let Some(member) = self.all.get_mut(*id) else { continue };
            let outcomes = std::mem::take(&mut member.outcomes);
            let leaves = member.unanswered == 0 && member.backlog.is_empty();
            if outcomes.is_empty() && !leaves {
                continue;
            }
            self.handle.remove_load(outcomes.len());
            let mut content = member.mailbox.content();
            let has_outcomes = !outcomes.is_empty();
            append(&mut content, outcomes);
            let has_left = leaves && content.pushed.is_empty() && content.request.is_none();
            if has_left {
                content.lane = None;
                content.member = None;
                self.handle.left();
            }
            drop(content);
            if has_outcomes {
                member.mailbox.reader.wake();
            }
            if has_left {
                // Its backlog is empty, so it is not in the list of turns, unless its messages were returned.
                if member.is_queued {
                    self.turns.retain(|queued| queued != id);
                }
                self.all.remove(*id);
            }
        }
        touched.clear();
        self.touched = touched;
    }

    /// Removes a member whose messages have been removed, because its outcomes are no longer needed.
    pub(super) fn forget(&mut self, id: usize, messages: usize) {
        if let Some(member) = self.all.get_mut(id) {
            self.handle.remove_load(messages + member.outcomes.len());
            member.outcomes = Vec::new();
            self.touched.push(id);
        }
    }

    /// Whether a member waits for the lookup of this exchange.
    pub(super) fn waits_for(&self, id: usize, exchange: &str) -> bool {
        self.all.get(id).is_some_and(|member| member.looked_up.as_deref() == Some(exchange))
    }

    /// Records until when a publisher has a separate lane.
    pub(super) fn isolate(&mut self, id: usize, until: Instant) {
        if let Some(member) = self.all.get_mut(id) {
            member.mailbox.content().isolated_until = Some(until);
        }
    }

    /// Moves a member without messages on the channel, with its backlog, to another lane.
    pub(super) fn hand_over(&mut self, id: usize, lane: &Arc<LaneHandle>) {
        if self.all.get(id).is_none_or(|member| member.unanswered > 0) {
            return;
        }
        let member = self.all.remove(id);
        if member.is_queued {
            self.turns.retain(|queued| *queued != id);
        }
        self.handle.remove_load(member.outcomes.len());
        let mut content = member.mailbox.content();
        let mut pushed = member.backlog;
        pushed.append(&mut content.pushed);
        self.handle.remove_load(pushed.len());
        lane.add_load(pushed.len());
        content.pushed = pushed;
        append(&mut content, member.outcomes);
        content.lane = Some(Arc::clone(lane));
        content.member = None;
        // The caller has reserved the lane, so it cannot end meanwhile.
        lane.joined();
        self.handle.left();
        if !content.is_listed {
            content.is_listed = true;
            lane.list(Arc::clone(&member.mailbox));
        }
        drop(content);
        member.mailbox.reader.wake();
    }

    /// Takes messages from one member in its turn; returns how many.
    fn take_turn(&mut self, id: usize, most: usize, batch: &mut Vec<Sent>) -> usize {
        let Some(member) = self.all.get_mut(id) else { return 0 };
        let known = self.lanes.known_exchanges();
        let (mut taken, mut bytes) = (0, 0);
        while taken < most && bytes < QUANTUM_BYTES {
            let Some(message) = member.backlog.front() else { break };
            // The default exchange always exists.
            if !message.exchange().is_empty() && !known.contains(message.exchange()) {
                let exchange: Arc<str> = message.exchange().into();
                member.looked_up = Some(Arc::clone(&exchange));
                self.unknown.push((exchange, id));
                break;
            }
            let Some(message) = member.backlog.pop_front() else { break };
            bytes += message.bytes();
            taken += 1;
            batch.push(Sent { member: id, message });
        }
        member.unanswered += taken;
        self.unanswered_bytes += bytes;
        taken
    }
}

impl Source for Members {
    fn has_connection_alone(&self) -> bool {
        self.lanes.has_single_publisher()
    }

    fn gather(&mut self, capacity: Capacity) -> Vec<Sent> {
        let mut batch = Vec::new();
        // Ends after a round in which no member could send.
        let mut left_in_round = if capacity.free + capacity.reserve > 0 { self.turns.len() } else { 0 };
        while !self.is_paused && batch.len() < capacity.batch && left_in_round > 0 {
            let Some(id) = self.turns.pop_front() else { break };
            left_in_round -= 1;
            let Some(member) = self.all.get_mut(id) else { continue };
            member.is_queued = false;
            let reserve = if member.unanswered < QUANTUM { capacity.reserve } else { 0 };
            let free = (capacity.free + reserve).saturating_sub(batch.len());
            let most = QUANTUM.min(free).min(capacity.batch - batch.len());
            let may_send = most > 0 && self.unanswered_bytes < MAX_UNANSWERED_BYTES;
            if may_send && self.take_turn(id, most, &mut batch) > 0 {
                left_in_round = self.turns.len() + 1;
            }
            self.queue(id);
        }
        batch
    }
}

impl Member {
    fn new(mailbox: Arc<Mailbox>) -> Self {
        Self {
            mailbox,
            backlog: VecDeque::new(),
            unanswered: 0,
            outcomes: Vec::new(),
            is_queued: false,
            looked_up: None,
            channel_errors: 0,
        }
    }
}

fn append(content: &mut MutexGuard<'_, Content>, outcomes: Vec<PublishOutcome>) {
    if content.outcomes.is_empty() { content.outcomes = outcomes } else { content.outcomes.extend(outcomes) }
}
