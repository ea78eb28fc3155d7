//! Lookups of exchanges before the first message to each, because a publish to a missing one would close the channel
//! for all publishers of the lane. Only the publishers whose next message is for the exchange wait.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};

use crate::{
    backoff::Backoff,
    broker::{connection::tenant_connections::TenantConnections, error::Error, topology::exchange_exists},
};

/// How many exchanges a lane looks up at the same time; each lookup has a channel.
const CONCURRENT_LOOKUPS: usize = 4;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// Looks up whether an exchange exists.
type Lookup = BoxFuture<'static, (Arc<str>, Result<bool, Error>)>;

/// The lookups of a lane.
pub(super) struct Lookups {
    connections: Arc<TenantConnections>,
    /// The members of the lane that wait for each exchange.
    waiting: HashMap<Arc<str>, Vec<usize>>,
    queued: VecDeque<Arc<str>>,
    running: FuturesUnordered<Lookup>,
    backoff: Backoff,
}

/// The result of a lookup.
pub(super) enum LookupResult {
    /// Whether the exchange exists, and the members that waited.
    Up { exchange: Arc<str>, exists: bool, members: Vec<usize> },
    /// The lookup failed and is repeated.
    Failed(Error),
}

impl Lookups {
    pub(super) fn new(connections: Arc<TenantConnections>) -> Self {
        let (waiting, queued, running) = (HashMap::new(), VecDeque::new(), FuturesUnordered::new());
        Self { connections, waiting, queued, running, backoff: BACKOFF }
    }

    /// Looks up an exchange for a member, together with others that wait for the same exchange.
    pub(super) fn start(&mut self, exchange: Arc<str>, member: usize) {
        match self.waiting.get_mut(&exchange) {
            Some(members) => members.push(member),
            None => {
                self.waiting.insert(Arc::clone(&exchange), vec![member]);
                self.queued.push_back(exchange);
            }
        }
    }

    /// The next finished lookup. `is_awaited` says whether a member still waits for an exchange.
    pub(super) fn poll_ended(
        &mut self,
        cx: &mut Context<'_>,
        is_awaited: impl Fn(usize, &str) -> bool,
    ) -> Option<LookupResult> {
        while self.running.len() < CONCURRENT_LOOKUPS
            && let Some(exchange) = self.queued.pop_front()
        {
            self.run(exchange, Duration::ZERO);
        }
        let Poll::Ready(Some((exchange, result))) = self.running.poll_next_unpin(cx) else { return None };
        match result {
            Ok(exists) => {
                self.backoff.reset();
                let members = self.waiting.remove(&exchange).unwrap_or_default();
                Some(LookupResult::Up { exchange, exists, members })
            }
            Err(error) => {
                let members = self.waiting.get(&exchange).map_or(&[][..], Vec::as_slice);
                if members.iter().any(|member| is_awaited(*member, &exchange)) {
                    let delay = self.backoff.pause();
                    self.run(exchange, delay);
                } else {
                    self.waiting.remove(&exchange);
                }
                Some(LookupResult::Failed(error))
            }
        }
    }

    fn run(&self, exchange: Arc<str>, delay: Duration) {
        let connections = Arc::clone(&self.connections);
        let lookup = async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let result = exchange_exists(&connections, &exchange).await;
            (exchange, result)
        };
        self.running.push(lookup.boxed());
    }
}
