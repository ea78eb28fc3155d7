//! The data that a publisher and its lane share: the publisher puts in messages, the lane puts in outcomes.
//!
//! A publisher belongs to at most one lane, and stays there from its first message without an outcome until its last
//! one, unless the lane moves it. Locks are taken in this order: mailbox, lanes, inbox of a lane.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::{outcome::PublishOutcome, pending::PendingPublish};

/// Shared by a publisher and its lane.
#[derive(Default)]
pub(super) struct Mailbox {
    content: Mutex<Content>,
    /// The task that waits for outcomes.
    pub(super) reader: AtomicWaker,
}

#[derive(Default)]
pub(super) struct Content {
    /// Pushed by the publisher and not yet taken by the lane, in their order.
    pub(super) pushed: VecDeque<PendingPublish>,
    /// Outcomes that the publisher has not read.
    pub(super) outcomes: Vec<PublishOutcome>,
    /// The lane, while there are messages without an outcome.
    pub(super) lane: Option<Arc<LaneHandle>>,
    /// The number that the lane has given the publisher.
    pub(super) member: Option<usize>,
    /// The publisher's request to the lane, in addition to publishing.
    pub(super) request: Option<Request>,
    /// Whether the mailbox is in the inbox of a lane.
    pub(super) is_listed: bool,
    /// Until this time the publisher has a separate lane, because the broker closed a channel for one of its messages.
    pub(super) isolated_until: Option<Instant>,
    /// The last separate lane.
    pub(super) own_lane: Option<Arc<LaneHandle>>,
}

/// A publisher's request to its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// Settle all messages immediately, because the gateway stops.
    Abandon,
    /// Discard all messages, because the outcomes are no longer needed.
    Forget,
}

impl Mailbox {
    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of a lane that its publishers use: where to announce messages, and how busy it is.
#[derive(Default)]
pub(in crate::broker) struct LaneHandle {
    /// The members of all lanes of the tenant.
    publishers: Arc<AtomicUsize>,
    /// Mailboxes with something new.
    inbox: Mutex<Vec<Arc<Mailbox>>>,
    /// The task of the lane.
    pub(super) task: AtomicWaker,
    /// Publishers that have joined and not left, and lanes that are going to move publishers here. It is increased only
    /// under the lock of the lanes, so that a lane with 0 can end.
    members: AtomicUsize,
    /// Messages without an outcome.
    load: AtomicUsize,
    /// Whether the lane has ended. It changes only under the lock of the lanes.
    has_ended: AtomicBool,
}

impl LaneHandle {
    pub(super) fn new(publishers: Arc<AtomicUsize>) -> Self {
        Self { publishers, ..Self::default() }
    }

    /// Announces a mailbox and wakes the lane.
    pub(super) fn list(&self, mailbox: Arc<Mailbox>) {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).push(mailbox);
        self.task.wake();
    }

    pub(super) fn take_inbox(&self) -> Vec<Arc<Mailbox>> {
        std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there are no publishers and no announcements.
    pub(super) fn is_unused(&self) -> bool {
        self.members() == 0 && self.inbox.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(super) fn members(&self) -> usize {
        self.members.load(Ordering::Acquire)
    }

    pub(super) fn joined(&self) {
        self.members.fetch_add(1, Ordering::AcqRel);
        self.publishers.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn left(&self) {
        self.members.fetch_sub(1, Ordering::AcqRel);
        self.publishers.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    pub(super) fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
    }

    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    pub(super) fn add_load(&self, messages: usize) {
        self.load.fetch_add(messages, Ordering::Relaxed);
    }

    pub(super) fn remove_load(&self, messages: usize) {
        self.load.fetch_sub(messages, Ordering::Relaxed);
    }
}
