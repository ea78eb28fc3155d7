//! The publish lanes of one tenant (docs/adr/0017): a bounded number of channels that all publishers of the tenant
//! share. Each lane has one channel and one task (`lane.rs`).
//!
//! A publisher joins a lane with its first message and leaves it with its last outcome, so an idle stream has no
//! channel. The next lane is used only when the lanes before it are busy, so that few messages share a lane.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    mailbox::{Content, LaneHandle, Mailbox, Request},
    pending::PendingPublish,
};
use crate::broker::connection::tenant_connections::TenantConnections;

/// How many channels the publishers of a tenant share. In addition, a publisher whose message made the broker close a
/// channel gets a separate one for a while, and a replaced lane keeps its channel until the broker has answered.
pub(super) const LANES: usize = 4;
/// A lane with fewer messages without an outcome takes further publishers before the next lane does: the size of a
/// batch.
const LIGHT_LOAD: usize = 64;
/// How many names of exchanges are remembered. When there are more, all are forgotten and looked up again.
const MAX_KNOWN_EXCHANGES: usize = 10_000;
/// How long a single publisher has no larger window after its channel has stopped the connection.
const NARROW: Duration = Duration::from_secs(60);

/// Starts the task of a lane. A function pointer, because `lane.rs` starts lanes too and files must not import each
/// other.
pub(in crate::broker) type StartLane = fn(Arc<Lanes>, Arc<LaneHandle>, Option<usize>);

/// The lanes of one tenant.
pub(in crate::broker) struct Lanes {
    pub(in crate::broker) connections: Arc<TenantConnections>,
    pub(super) deadline: Duration,
    /// How long a lane without publishers keeps its channel.
    pub(super) idle_timeout: Duration,
    start: StartLane,
    shared: Mutex<[Option<Arc<LaneHandle>>; LANES]>,
    /// Exchanges that existed when last looked up; a publish to a missing one closes the channel.
    known_exchanges: Mutex<HashSet<Arc<str>>>,
    /// The members of all lanes, including the separate ones.
    publishers: Arc<AtomicUsize>,
    /// Until this time a single publisher has no larger window.
    narrow_until: Mutex<Instant>,
    /// Set when the task of a lane has panicked.
    failed: watch::Sender<bool>,
}

/// Keeps a lane open while publishers are moved to it.
pub(super) struct Reservation(pub(super) Arc<LaneHandle>);

impl Drop for Reservation {
    fn drop(&mut self) {
        self.0.left();
        self.0.task.wake();
    }
}

impl Lanes {
    pub(in crate::broker) fn new(
        connections: Arc<TenantConnections>,
        deadline: Duration,
        idle_timeout: Duration,
        start: StartLane,
        failed: watch::Sender<bool>,
    ) -> Self {
        Self {
            connections,
            deadline,
            idle_timeout,
            start,
            shared: Mutex::default(),
            known_exchanges: Mutex::default(),
            publishers: Arc::default(),
            narrow_until: Mutex::new(Instant::now()),
            failed,
        }
    }

    /// Passes messages to the publisher's lane, or to the lane that it joins now.
    pub(super) fn deliver(self: &Arc<Self>, mailbox: &Arc<Mailbox>, messages: impl Iterator<Item = PendingPublish>) {
        let mut content = mailbox.content();
        let before = content.pushed.len();
        content.pushed.extend(messages);
        let added = content.pushed.len() - before;
        let lane = match &content.lane {
            Some(lane) => Arc::clone(lane),
            None => {
                let lane = self.join(&mut content);
                content.lane = Some(Arc::clone(&lane));
                lane
            }
        };
        lane.add_load(added);
        if !content.is_listed {
            content.is_listed = true;
            lane.list(Arc::clone(mailbox));
        }
    }

    /// Passes a request to the publisher's lane; returns whether it has one.
    pub(super) fn request(mailbox: &Arc<Mailbox>, request: Request) -> bool {
        let mut content = mailbox.content();
        let Some(lane) = content.lane.clone() else { return false };
        content.request = Some(request);
        if !content.is_listed {
            content.is_listed = true;
            lane.list(Arc::clone(mailbox));
        }
        true
    }

    fn join(self: &Arc<Self>, content: &mut Content) -> Arc<LaneHandle> {
        let is_isolated = content.isolated_until.is_some_and(|until| Instant::now() < until);
        let mut shared = self.shared();
        if is_isolated {
            if let Some(lane) = content.own_lane.as_ref().filter(|lane| !lane.has_ended()) {
                lane.joined();
                return Arc::clone(lane);
            }
            let lane = self.start(None);
            content.own_lane = Some(Arc::clone(&lane));
            return lane;
        }
        content.own_lane = None;
        let is_light = |lane: &Option<Arc<LaneHandle>>| lane.as_ref().is_none_or(|lane| lane.load() < LIGHT_LOAD);
        let members = |index: &usize| shared[*index].as_ref().map_or(0, |lane| lane.members());
        let light = shared.iter().position(is_light);
        let index = light.or_else(|| (0..LANES).min_by_key(members)).unwrap_or_default();
        match &shared[index] {
            Some(lane) => {
                lane.joined();
                Arc::clone(lane)
            }
            None => {
                let lane = self.start(Some(index));
                shared[index] = Some(Arc::clone(&lane));
                lane
            }
        }
    }

    /// Starts a lane with one member.
    fn start(self: &Arc<Self>, index: Option<usize>) -> Arc<LaneHandle> {
        let lane = Arc::new(LaneHandle::new(Arc::clone(&self.publishers)));
        lane.joined();
        (self.start)(Arc::clone(self), Arc::clone(&lane), index);
        lane
    }

    /// A lane that replaces this one; `index` is its position among the shared lanes, if it is one of them.
    pub(super) fn successor(self: &Arc<Self>, lane: &Arc<LaneHandle>, index: Option<usize>) -> Reservation {
        let Some(index) = index else { return Reservation(self.start(None)) };
        let mut shared = self.shared();
        match &shared[index] {
            Some(current) if !Arc::ptr_eq(current, lane) => {
                current.joined();
                Reservation(Arc::clone(current))
            }
            _ => {
                let successor = self.start(Some(index));
                shared[index] = Some(Arc::clone(&successor));
                Reservation(successor)
            }
        }
    }

    /// A lane for publishers that are separated from the others.
    pub(super) fn separate(self: &Arc<Self>) -> Reservation {
        Reservation(self.start(None))
    }

    /// Whether the tenant has a single publisher with messages, so that a channel that stops the connection delays no
    /// other publisher.
    pub(super) fn has_single_publisher(&self) -> bool {
        self.publishers.load(Ordering::Acquire) == 1 && *self.narrow_until() <= Instant::now()
    }

    /// Records that the channel of a single publisher has stopped the connection.
    pub(super) fn stopped_the_connection(&self) {
        *self.narrow_until() = Instant::now() + NARROW;
    }

    fn narrow_until(&self) -> MutexGuard<'_, Instant> {
        self.narrow_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a lane without users; returns whether it has ended.
    pub(super) fn end(&self, lane: &Arc<LaneHandle>, index: Option<usize>) -> bool {
        let mut shared = self.shared();
        if !lane.is_unused() {
            return false;
        }
        if let Some(index) = index {
            shared[index].take_if(|current| Arc::ptr_eq(current, lane));
        }
        lane.end();
        true
    }

    /// Removes a lane whose task has panicked, so that publishers join another one.
    pub(super) fn fail(&self, lane: &Arc<LaneHandle>, index: Option<usize>) {
        if let Some(index) = index {
            self.shared()[index].take_if(|current| Arc::ptr_eq(current, lane));
        }
        self.failed.send_replace(true);
    }

    /// Forgets that an exchange exists, because it is being deleted.
    pub(in crate::broker) fn forget_exchange(&self, exchange: &str) {
        self.known_exchanges().remove(exchange);
    }

    pub(super) fn known_exchanges(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        self.known_exchanges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn exchange_exists(&self, exchange: Arc<str>) {
        let mut known = self.known_exchanges();
        if known.len() >= MAX_KNOWN_EXCHANGES {
            known.clear();
        }
        known.insert(exchange);
    }

    fn shared(&self) -> MutexGuard<'_, [Option<Arc<LaneHandle>>; LANES]> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
