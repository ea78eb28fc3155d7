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
pub(crate) struct FairQueue<L: Eq + Hash + Clone>(Arc<Inner<L>>);

#[derive(Debug)]
struct Inner<L: Eq + Hash + Clone> {
    limits: Limits,
    state: Mutex<State<L>>,
}

/// The limits of a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The maximum number of running requests.
    pub(crate) running: usize,
    /// The maximum number of waiting requests per lane.
    pub(crate) waiting_each: usize,
    /// The maximum number of waiting requests in total.
    pub(crate) waiting: usize,
}

#[derive(Debug)]
struct State<L: Eq + Hash + Clone> {
    running: usize,
    waiting: usize,
    lanes: HashMap<L, VecDeque<oneshot::Sender<Slot<L>>>>,
    /// The lanes in the order in which they are served; each lane with waiting requests is listed once.
    order: VecDeque<L>,
}

/// The queue is full.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// The admission of a request to the queue.
#[derive(Debug)]
pub(crate) enum Admission<L: Eq + Hash + Clone> {
    /// It may run immediately.
    Granted(Slot<L>),
    /// It waits for a slot.
    Waiting(oneshot::Receiver<Slot<L>>),
}

/// The right to run, until dropped. `None` if the slot was passed back.
#[derive(Debug)]
pub(crate) struct Slot<L: Eq + Hash + Clone>(Option<FairQueue<L>>);

impl<L: Eq + Hash + Clone> Clone for FairQueue<L> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L: Eq + Hash + Clone> FairQueue<L> {
    pub(crate) fn new(limits: Limits) -> Self {
        let state = State { running: 0, waiting: 0, lanes: HashMap::new(), order: VecDeque::new() };
        Self(Arc::new(Inner { limits, state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, State<L>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The numbers of running and of waiting requests.
    pub(crate) fn load(&self) -> (usize, usize) {
        let state = self.state();
        (state.running, state.waiting)
    }

    /// Enqueues a request in a lane.
    pub(crate) fn enter(&self, lane: &L) -> Result<Admission<L>, Full> {
        let limits = self.0.limits;
        let mut state = self.state();
        if state.running < limits.running {
            state.running += 1;
            return Ok(Admission::Granted(Slot(Some(self.clone()))));
        }
        state.remove_abandoned(lane);
        if state.lanes.get(lane).is_some_and(|waiting| waiting.len() >= limits.waiting_each) {
            return Err(Full);
        }
        if state.waiting >= limits.waiting && !state.shed_for(lane) {
            return Err(Full);
        }
        let (sender, slot) = oneshot::channel();
        if !state.lanes.contains_key(lane) {
            state.order.push_back(lane.clone());
        }
        state.lanes.entry(lane.clone()).or_default().push_back(sender);
        state.waiting += 1;
        Ok(Admission::Waiting(slot))
    }
}

impl<L: Eq + Hash + Clone> State<L> {
    /// Removes the request that is served next.
    fn next(&mut self) -> Option<oneshot::Sender<Slot<L>>> {
        let lane = self.order.pop_front()?;
        let waiting = self.lanes.get_mut(&lane)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.lanes.remove(&lane);
        } else {
            self.order.push_back(lane);
        }
        self.waiting -= usize::from(next.is_some());
        next
    }

    fn remove_abandoned(&mut self, lane: &L) {
        let Some(waiting) = self.lanes.get_mut(lane) else { return };
        let before = waiting.len();
        waiting.retain(|sender| !sender.is_closed());
        self.waiting -= before - waiting.len();
        if waiting.is_empty() {
            self.lanes.remove(lane);
            self.order.retain(|other| other != lane);
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
        self.remove_abandoned(&longest);
        true
    }
}

impl<L: Eq + Hash + Clone> Admission<L> {
    /// Waits for the slot; fails if the request was shed in favour of another lane.
    pub(crate) async fn slot(self) -> Result<Slot<L>, Full> {
        match self {
            Self::Granted(slot) => Ok(slot),
            Self::Waiting(slot) => slot.await.map_err(|_| Full),
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

    fn now(admission: Admission<u32>) -> Result<Slot<u32>, Full> {
        admission.slot().now_or_never().expect("it is served")
    }

    #[test]
    fn a_lane_with_one_request_waits_for_at_most_one_request_of_each_other_lane() {
        let queue = queue();
        let mut running = now(queue.enter(&1).expect("admitted"));
        let busy: Vec<_> = (0..4).map(|_| queue.enter(&1).expect("admitted")).collect();
        assert_eq!(queue.enter(&1).expect_err("its lane is full"), Full);
        let (mut other, mut busy) = (queue.enter(&2).expect("admitted"), busy.into_iter());
        assert_eq!(queue.load(), (1, 5));
        drop(running);
        running = now(busy.next().expect("one"));
        let Admission::Waiting(slot) = &mut other else { panic!("it waits") };
        assert!(slot.try_recv().is_err(), "lane 1 is served first");
        drop(running);
        running = now(other);
        drop((running, busy));
        assert_eq!(queue.load(), (0, 0));
    }

    #[test]
    fn a_full_queue_admits_a_new_lane_at_the_expense_of_the_longest() {
        let queue = queue();
        let _running = queue.enter(&0).expect("admitted");
        let mut admissions: Vec<_> = (0..8).map(|n| queue.enter(&(n / 4)).expect("admitted")).collect();
        let new = queue.enter(&7).expect("admitted");
        let shed = admissions.iter_mut().filter_map(|admission| match admission {
            Admission::Waiting(slot) => slot.try_recv().err(),
            Admission::Granted(_) => None,
        });
        assert_eq!(shed.filter(|error| *error == oneshot::error::TryRecvError::Closed).count(), 1);
        assert_eq!(queue.load(), (1, 8));
        drop((admissions, new));
    }

    #[test]
    fn cancelled_requests_occupy_neither_the_queue_nor_a_slot() {
        let queue = queue();
        let running = queue.enter(&1).expect("admitted");
        drop((0..4).map(|_| queue.enter(&1).expect("admitted")).collect::<Vec<_>>());
        let waiting = queue.enter(&1).expect("admitted");
        assert_eq!(queue.load(), (1, 1));
        drop(queue.enter(&2).expect("admitted"));
        drop(running);
        let slot = now(waiting).expect("it is served");
        drop(slot);
        assert_eq!(queue.load(), (0, 0));
    }
}
