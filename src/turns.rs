//! Turns of connections that cause much work: a handshake, a request over HTTP/1.1, a part of a long HTTP/2 request.
//!
//! A worker of the runtime runs the ready tasks one after the other, and looks for new events when none is left, or after
//! 61 of them. Hundreds of busy connections would therefore delay each call of the others by the sum of their work. Those
//! that wait for a turn are resumed when no other task is ready and the worker has looked for new events, one for each
//! worker at a time, in an order that is fair between addresses.

use std::net::IpAddr;

use tokio::runtime::Handle;

use crate::fair::{FairQueue, Limits};

/// The turns of the connections of one gateway. Clones share the same turns.
#[derive(Debug, Clone)]
pub(crate) struct Turns(FairQueue<IpAddr>);

impl Turns {
    /// One turn at a time for each worker of the runtime.
    pub(crate) fn new() -> Self {
        let running = Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers());
        // Limits on connections bound the number of those that wait.
        Self(FairQueue::new(Limits { running, waiting_each: usize::MAX, waiting: usize::MAX }))
    }

    /// Waits for a turn on behalf of an address, or an IPv6 /64. The future must be polled whenever it wakes its task: the
    /// others wait until then.
    pub(crate) async fn turn(&self, network: IpAddr) {
        // Only a queue with a limit refuses.
        let Ok(admission) = self.0.enter(&network) else { return };
        let _slot = admission.slot().await;
        // The runtime resumes this task after all that are ready, and after it has looked for new events.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn a_task_that_takes_no_turns_waits_for_one_busy_task_each_time_and_addresses_alternate() {
        let turns = Turns::new();
        let order = Arc::new(Mutex::new(Vec::new()));
        let busy = |number| {
            let (turns, order) = (turns.clone(), Arc::clone(&order));
            tokio::spawn(async move {
                turns.turn(IpAddr::from([10, 0, 0, number / 50])).await;
                order.lock().expect("not poisoned").push(Some(number));
            })
        };
        let mut tasks: Vec<_> = (0..100_u8).map(busy).collect();
        let others = Arc::clone(&order);
        tasks.push(tokio::spawn(async move {
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            others.lock().expect("not poisoned").push(None);
        }));
        for task in tasks {
            task.await.expect("no panic");
        }
        let order = order.lock().expect("not poisoned");
        let place = order.iter().position(Option::is_none).expect("it has run");
        assert!(place <= 6, "{place} of a hundred busy tasks ran before it");
        let of_first_address = order[..50].iter().flatten().filter(|number| **number < 50).count();
        assert!((20..=30).contains(&of_first_address), "{of_first_address} of 50");
        assert_eq!(order.len(), 101);
    }
}
