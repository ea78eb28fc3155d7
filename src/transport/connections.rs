//! Limits on the number of open connections, in total and per address.
//!
//! Invariant: half of all connections are reserved for peers that have presented a valid token, and for networks that
//! such peers came from within a day, so that unknown peers cannot keep known clients out. Connections without an
//! authenticated client have a limit of their own per address, because it bounds the memory that they use.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use moka::sync::Cache;

use crate::auth::network;

/// How often refused connections are logged, with their number.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How long the network of an authenticated client is remembered, and how many networks.
const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 3600);
const MAX_REMEMBERED: u64 = 65_536;

/// Counts connections. Clones share the same counts.
#[derive(Debug, Clone)]
pub struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    max_per_address: usize,
    max_unauthenticated_per_address: usize,
    open: Mutex<Open>,
    known_networks: Cache<IpAddr, ()>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    /// Connections of peers that are not authenticated, from unknown networks.
    unknown: usize,
    by_network: HashMap<IpAddr, NetworkCounts>,
    refused: u64,
    logged: Option<Instant>,
}

/// The open connections of one network.
#[derive(Debug, Clone, Copy, Default)]
struct NetworkCounts {
    all: usize,
    unauthenticated: usize,
}

/// The permit for one open connection.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    inner: Arc<Inner>,
    network: IpAddr,
    is_unknown: AtomicBool,
    is_authenticated: AtomicBool,
}

impl Connections {
    /// Allows `max` connections in total, and `max_per_address` for one address (or IPv6 /64), of which
    /// `max_unauthenticated_per_address` may be without an authenticated client.
    pub fn new(max: usize, max_per_address: usize, max_unauthenticated_per_address: usize) -> Self {
        let known_networks = Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(REMEMBERED_FOR).build();
        Self(Arc::new(Inner {
            max,
            max_per_address,
            max_unauthenticated_per_address,
            open: Mutex::default(),
            known_networks,
        }))
    }

    /// The same limits for another listener, with the same known networks.
    pub fn for_other_listener(&self) -> Self {
        let Inner { max, max_per_address, max_unauthenticated_per_address, ref known_networks, .. } = *self.0;
        let known_networks = known_networks.clone();
        Self(Arc::new(Inner {
            max,
            max_per_address,
            max_unauthenticated_per_address,
            open: Mutex::default(),
            known_networks,
        }))
    }

    /// A permit for one more connection, unless a limit is reached.
    pub(super) fn permit(&self, peer: IpAddr) -> Option<ConnectionPermit> {
        let inner = &self.0;
        let network = network(peer);
        let is_unknown = !inner.known_networks.contains_key(&network);
        let mut open = inner.open();
        let of_network = open.by_network.get(&network).copied().unwrap_or_default();
        let max_unknown = (inner.max / 2).max(1);
        if open.all >= inner.max
            || of_network.all >= inner.max_per_address
            || of_network.unauthenticated >= inner.max_unauthenticated_per_address
            || (is_unknown && open.unknown >= max_unknown)
        {
            open.log_refusal(peer);
            return None;
        }
        open.all += 1;
        open.unknown += usize::from(is_unknown);
        let of_network = open.by_network.entry(network).or_default();
        of_network.all += 1;
        of_network.unauthenticated += 1;
        drop(open);
        Some(ConnectionPermit {
            inner: Arc::clone(inner),
            network,
            is_unknown: is_unknown.into(),
            is_authenticated: false.into(),
        })
    }
}

impl Inner {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn log_refusal(&mut self, peer: IpAddr) {
        self.refused += 1;
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            tracing::warn!(%peer, refused = self.refused, open = self.all, "connection limit reached, refusing connections");
            self.refused = 0;
            self.logged = Some(Instant::now());
        }
    }
}

impl ConnectionPermit {
    /// Records that the peer has presented a valid token: its connection counts as a client's, and its network is
    /// remembered.
    pub(super) fn authenticated(&self) {
        if self.is_authenticated.swap(true, Ordering::Relaxed) {
            return;
        }
        self.inner.known_networks.insert(self.network, ());
        let mut open = self.inner.open();
        if self.is_unknown.swap(false, Ordering::Relaxed) {
            open.unknown = open.unknown.saturating_sub(1);
        }
        if let Some(of_network) = open.by_network.get_mut(&self.network) {
            of_network.unauthenticated = of_network.unauthenticated.saturating_sub(1);
        }
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.is_authenticated.load(Ordering::Relaxed)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = self.inner.open();
        open.all = open.all.saturating_sub(1);
        if self.is_unknown.load(Ordering::Relaxed) {
            open.unknown = open.unknown.saturating_sub(1);
        }
        if let Some(of_network) = open.by_network.get_mut(&self.network) {
            of_network.all = of_network.all.saturating_sub(1);
            if !self.is_authenticated() {
                of_network.unauthenticated = of_network.unauthenticated.saturating_sub(1);
            }
            if of_network.all == 0 {
                open.by_network.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permit(connections: &Connections, address: &str) -> Option<ConnectionPermit> {
        connections.permit(address.parse().expect("an address"))
    }

    #[test]
    fn connections_are_counted_in_all_and_by_network_until_they_are_closed() {
        let connections = Connections::new(6, 2, 2);
        let first = permit(&connections, "10.0.0.1").expect("free");
        let second = permit(&connections, "10.0.0.1").expect("free");
        assert!(permit(&connections, "10.0.0.1").is_none(), "two of one address");
        let third = permit(&connections, "2001:db8::1").expect("another address");
        drop(first);
        let again = permit(&connections, "10.0.0.1").expect("free again");
        drop((third, again, second));
        assert!(connections.0.open().by_network.is_empty());
        let _network = ["2001:db8::1", "2001:db8::2"].map(|address| permit(&connections, address).expect("free"));
        assert!(permit(&connections, "2001:db8::3").is_none(), "one network");
    }

    #[test]
    fn unknown_peers_cannot_take_the_connections_reserved_for_known_clients() {
        let connections = Connections::new(4, 100, 100);
        let client = permit(&connections, "10.0.0.1").expect("free");
        client.authenticated();
        let _unknown = ["10.0.0.2", "10.0.0.3"].map(|address| permit(&connections, address).expect("free"));
        assert!(permit(&connections, "10.0.0.4").is_none(), "half of the connections are reserved");
        let again = permit(&connections, "10.0.0.1").expect("its network is known, although this connection is not");
        assert!(!again.is_authenticated());
        assert!(permit(&connections, "10.0.0.1").is_none(), "four in total");
        drop((client, again));
        let open = connections.0.open();
        assert_eq!((open.all, open.unknown), (2, 2));
    }

    #[test]
    fn connections_without_an_authenticated_client_have_a_limit_of_their_own_per_address() {
        let connections = Connections::new(100, 100, 2);
        let first = permit(&connections, "10.0.0.1").expect("free");
        let second = permit(&connections, "10.0.0.1").expect("free");
        assert!(permit(&connections, "10.0.0.1").is_none(), "two at most");
        let _other = permit(&connections, "10.0.0.2").expect("another address");
        first.authenticated();
        let third = permit(&connections, "10.0.0.1").expect("free, as the first is authenticated");
        assert!(permit(&connections, "10.0.0.1").is_none(), "known networks have the same limit");
        drop((first, second));
        let _fourth = permit(&connections, "10.0.0.1").expect("one of two is closed");
        assert!(permit(&connections, "10.0.0.1").is_none(), "the closed client was not counted");
        drop(third);
    }
}
