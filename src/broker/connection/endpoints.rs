//! The broker's nodes: in which order to try them, and how many connections may be in progress at each.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::Endpoint;

/// How many connections may be in progress at one endpoint. A handshake costs the broker some milliseconds of a core.
/// With more at once than it can serve within `connect_timeout`, every attempt times out and starts again while the
/// broker still works on the abandoned ones.
const MAX_CONCURRENT_CONNECTS: usize = 8;
/// How long an endpoint that failed is tried after the others.
const FAILURE_MEMORY: Duration = Duration::from_secs(30);

/// The configured endpoints and the health of each.
pub(super) struct Endpoints {
    list: Vec<Endpoint>,
    health: Mutex<Health>,
    /// Connections in progress at each endpoint, of all tenants.
    connecting: Vec<Semaphore>,
}

struct Health {
    next: usize,
    /// The last failure of each endpoint, unless it has worked since.
    failed: Vec<Option<Instant>>,
}

impl Endpoints {
    pub(super) fn new(list: Vec<Endpoint>) -> Self {
        let health = Mutex::new(Health { next: 0, failed: vec![None; list.len()] });
        let connecting = list.iter().map(|_| Semaphore::new(MAX_CONCURRENT_CONNECTS)).collect();
        Self { list, health, connecting }
    }

    /// All endpoints in the order to try them: first the working ones, starting with a different one each time; then
    /// those that failed recently, starting with the one whose failure is oldest.
    pub(super) fn in_order(&self) -> Vec<(usize, &Endpoint)> {
        let mut health = self.health();
        let order = health.order(Instant::now());
        health.next = health.next.wrapping_add(1);
        order.into_iter().map(|index| (index, &self.list[index])).collect()
    }

    /// Waits, in order of arrival, until one more connection may be opened at this endpoint. An endpoint that does not
    /// respond does not delay connections to the others.
    pub(super) async fn connect_permit(&self, endpoint: usize) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed; if it were, connecting without a permit is better than not connecting.
        self.connecting[endpoint].acquire().await.ok()
    }

    /// Records whether an endpoint accepted a connection.
    pub(super) fn record(&self, endpoint: usize, works: bool) {
        self.health().failed[endpoint] = (!works).then(Instant::now);
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    fn order(&self, now: Instant) -> Vec<usize> {
        let count = self.failed.len();
        let mut order: Vec<_> = (0..count).map(|index| (index + self.next) % count).collect();
        let recent_failure =
            |index: usize| self.failed[index].filter(|failed| now.duration_since(*failed) < FAILURE_MEMORY);
        // The sort is stable, and `None` (a working endpoint) sorts first.
        order.sort_by_key(|index| recent_failure(*index));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_failed_is_tried_last_for_a_while() {
        let now = Instant::now();
        let mut health = Health { next: 0, failed: vec![None; 3] };
        assert_eq!(health.order(now), [0, 1, 2]);
        health.next = 1;
        assert_eq!(health.order(now), [1, 2, 0]);
        health.failed[1] = Some(now);
        assert_eq!(health.order(now), [2, 0, 1]);
        health.failed[2] = Some(now + Duration::from_secs(1));
        assert_eq!(health.order(now + Duration::from_secs(1)), [0, 1, 2]);
        assert_eq!(health.order(now + Duration::from_secs(60)), [1, 2, 0]);
    }
}
