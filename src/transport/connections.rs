//! How many connections there may be, in all and of one address. A peer's address enters; a [`Place`] leaves, which is free again
//! when it is dropped, or none. Invariant: what is counted here is what is open, so memory is bounded by the first number.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::auth::network;

/// How often refusals are told to the log, with their number.
const TOLD: Duration = Duration::from_secs(10);

/// Counts connections.
#[derive(Debug, Clone)]
pub struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    most_per_address: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
    refused: u64,
    told: Option<Instant>,
}

/// One connection's place.
#[derive(Debug)]
pub(super) struct Place {
    inner: Arc<Inner>,
    address: IpAddr,
}

impl Connections {
    /// So many in all, and so many of one address (an IPv6 /64).
    pub fn new(most: usize, most_per_address: usize) -> Self {
        Self(Arc::new(Inner { most, most_per_address, open: Mutex::default() }))
    }

    /// A place for one more, while there is one.
    pub(super) fn place(&self, peer: IpAddr) -> Option<Place> {
        let address = network(peer);
        let mut open = self.0.open();
        let of_address = open.by_address.get(&address).copied().unwrap_or(0);
        if open.all >= self.0.most || of_address >= self.0.most_per_address {
            open.refuse(peer);
            return None;
        }
        open.all += 1;
        open.by_address.insert(address, of_address + 1);
        drop(open);
        Some(Place { inner: Arc::clone(&self.0), address })
    }
}

impl Inner {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn refuse(&mut self, peer: IpAddr) {
        self.refused += 1;
        if self.told.is_none_or(|told| told.elapsed() >= TOLD) {
            tracing::warn!(%peer, refused = self.refused, open = self.all, "connections are refused: there are too many");
            self.refused = 0;
            self.told = Some(Instant::now());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.inner.open();
        open.all = open.all.saturating_sub(1);
        if let Some(count) = open.by_address.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_all_and_by_network_and_come_back() {
        let connections = Connections::new(3, 2);
        let place = |address: &str| connections.place(address.parse().expect("an address"));
        let (first, _second) = (place("10.0.0.1").expect("free"), place("10.0.0.1").expect("free"));
        assert!(place("10.0.0.1").is_none(), "two of one address");
        let third = place("2001:db8::1").expect("another address");
        assert!(place("10.0.0.2").is_none(), "three in all");
        drop(first);
        let again = place("10.0.0.1").expect("free again");
        drop((third, again));
        assert_eq!(connections.0.open().by_address.len(), 1);
        let _network = [place("2001:db8::1"), place("2001:db8::2")].map(|place| place.expect("free"));
        drop(_second);
        assert!(place("2001:db8::3").is_none(), "one network");
    }
}
