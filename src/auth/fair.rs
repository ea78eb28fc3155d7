//! A bounded queue that is fair between lanes: many waiting requests in one lane delay only that lane. A lane without
//! waiting requests is always admitted; if the queue is full, the longest lane loses its last request.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// The queue. Cloning is cheap.
#[derive(Debug)]
pub(super) struct FairQueue<L: Eq + Hash + Clone>(Arc<Shared<L>>);

#[derive(Debug)]
struct Shared<L: Eq + Hash + Clone> {
    limits: Limits,
    state: Mutex<State<L>>,
}

/// The limits of a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The maximum number of running requests.
    pub(super) running: usize,
    /// The maximum number of waiting requests per lane.
    pub(super) waiting_each: usize,
    /// The maximum number of waiting requests in total.
    pub(super) waiting: usize,
}

#[derive(Debug)]
struct State<L: Eq + Hash + Clone> {
    running: usize,
    waiting: usize,
    lanes: HashMap<L, VecDeque<oneshot::Sender<Slot<L>>>>,
    /// The lanes in the order of their turns; each lane with waiting requests is listed once.
    turns: VecDeque<L>,
}

/// The queue is full.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// A place in the queue.
#[derive(Debug)]
pub(super) enum Place<L: Eq + Hash + Clone> {
    /// It may run immediately.
    Granted(Slot<L>),
    /// It waits for a slot.
    Waiting(oneshot::Receiver<Slot<L>>),
}

/// The right to run, until dropped. `None` if the slot was never handed over.
#[derive(Debug)]
pub(super) struct Slot<L: Eq + Hash + Clone>(Option<FairQueue<L>>);

impl<L: Eq + Hash + Clone> Clone for FairQueue<L> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L: Eq + Hash + Clone> FairQueue<L> {
    pub(super) fn new(limits: Limits) -> Self {
        let state = State { running: 0, waiting: 0, lanes: HashMap::new(), turns: VecDeque::new() };
        Self(Arc::new(Shared { limits, state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, State<L>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The numbers of running and of waiting requests.
    pub(super) fn load(&self) -> (usize, usize) {
        let state = self.state();
        (state.running, state.waiting)
    }

    /// Enqueues a request in a lane.
    pub(super) fn enter(&self, lane: &L) -> Result<Place<L>, Full> {
        let limits = self.0.limits;
        let mut state = self.state();
        if state.running < limits.running {
            state.running += 1;
            return Ok(Place::Granted(Slot(Some(self.clone()))));
        }
        state.forget_abandoned(lane);
        if state.lanes.get(lane).is_some_and(|waiting| waiting.len() >= limits.waiting_each) {
            return Err(Full);
        }
        if state.waiting >= limits.waiting && !state.shed_for(lane) {
            return Err(Full);
        }
        let (sender, turn) = oneshot::channel();
        if !state.lanes.contains_key(lane) {
            state.turns.push_back(lane.clone());
        }
        state.lanes.entry(lane.clone()).or_default().push_back(sender);
        state.waiting += 1;
        Ok(Place::Waiting(turn))
    }
}

impl<L: Eq + Hash + Clone> State<L> {
    /// Removes the next request whose turn it is.
    fn next(&mut self) -> Option<oneshot::Sender<Slot<L>>> {
        let lane = self.turns.pop_front()?;
        let waiting = self.lanes.get_mut(&lane)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.lanes.remove(&lane);
        } else {
            self.turns.push_back(lane);
        }
        self.waiting -= usize::from(next.is_some());
        next
    }

    fn forget_abandoned(&mut self, lane: &L) {
        let Some(waiting) = self.lanes.get_mut(lane) else { return };
        let before = waiting.len();
        waiting.retain(|sender| !sender.is_closed());
        self.waiting -= before - waiting.len();
        if waiting.is_empty() {
            self.lanes.remove(lane);
            self.turns.retain(|turn| turn != lane);
        }
    }

    /// Removes the last request of the longest lane, if that lane is longer than this one would become.
    fn shed_for(&mut self, lane: &L) -> bool {
        let own = self.lanes.get(lane).map_or(0, VecDeque::len);
        let Some((longest, waiting)) = self.lanes.iter_mut().max_by_key(|(_, waiting)| waiting.len()) else {
            return false;
        };
        if waiting.len() <= own + 1 {
            return false;
        }
        let longest = longest.clone();
        // The receiver finds the channel closed, which means that the request was shed.
        waiting.pop_back();
        self.waiting -= 1;
        self.forget_abandoned(&longest);
        true
    }
}

impl<L: Eq + Hash + Clone> Place<L> {
    /// Waits for the slot; fails if the request was shed in favour of another lane.
    pub(super) async fn slot(self) -> Result<Slot<L>, Full> {
        match self {
            Self::Granted(slot) => Ok(slot),
            Self::Waiting(turn) => turn.await.map_err(|_| Full),
        }
    }
}

impl<L: Eq + Hash + Clone> Drop for Slot<L> {
    fn drop(&mut self) {
        let Some(queue) = self.0.take() else { return };
        loop {
            let next = {
                let mut state = queue.state();
                let Some(next) = state.next() else {
                    state.running -= 1;
                    return;
                };
                next
            };
            // Outside the lock: if the request has been cancelled, the slot is returned and passed to the next one.
            match next.send(Self(Some(queue.clone()))) {
                Ok(()) => return,
                Err(mut returned) => returned.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn queue() -> FairQueue<u32> {
        FairQueue::new(Limits { running: 1, waiting_each: 4, waiting: 8 })
    }

    fn now(place: Place<u32>) -> Result<Slot<u32>, Full> {
        place.slot().now_or_never().expect("its turn")
    }

    #[test]
    fn a_lane_with_one_request_waits_for_at_most_one_request_of_each_other_lane() {
        let queue = queue();
        let mut running = now(queue.enter(&1).expect("a place"));
        let busy: Vec<_> = (0..4).map(|_| queue.enter(&1).expect("a place")).collect();
        assert_eq!(queue.enter(&1).expect_err("its lane is full"), Full);
        let (mut other, mut busy) = (queue.enter(&2).expect("a place"), busy.into_iter());
        assert_eq!(queue.load(), (1, 5));
        drop(running);
        running = now(busy.next().expect("one"));
        let Place::Waiting(turn) = &mut other else { panic!("it waits") };
        assert!(turn.try_recv().is_err(), "it is lane 1's turn");
        drop(running);
        running = now(other);
        drop((running, busy));
        assert_eq!(queue.load(), (0, 0));
    }

    #[test]
    fn a_full_queue_admits_a_new_lane_at_the_expense_of_the_longest() {
        let queue = queue();
        let _running = queue.enter(&0).expect("a place");
        let mut places: Vec<_> = (0..8).map(|n| queue.enter(&(n / 4)).expect("a place")).collect();
        let new = queue.enter(&7).expect("a place");
        let shed = places.iter_mut().filter_map(|place| match place {
            Place::Waiting(turn) => turn.try_recv().err(),
            Place::Granted(_) => None,
        });
        assert_eq!(shed.filter(|error| *error == oneshot::error::TryRecvError::Closed).count(), 1);
        assert_eq!(queue.load(), (1, 8));
        drop((places, new));
    }

    #[test]
    fn cancelled_requests_occupy_neither_the_queue_nor_a_slot() {
        let queue = queue();
        let running = queue.enter(&1).expect("a place");
        drop((0..4).map(|_| queue.enter(&1).expect("a place")).collect::<Vec<_>>());
        let waiting = queue.enter(&1).expect("a place");
        assert_eq!(queue.load(), (1, 1));
        drop(queue.enter(&2).expect("a place"));
        drop(running);
        let slot = now(waiting).expect("its turn");
        drop(slot);
        assert_eq!(queue.load(), (0, 0));
    }
}
