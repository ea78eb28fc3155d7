//! A simple load balancer between clients and gateways. Each client has its own address, which leads to its gateway
//! while that runs, and to the other one otherwise.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use warrengate_testkit::proxy::Proxy;

use crate::ledger::Ledger;

pub struct Road {
    proxy: Proxy,
    home: usize,
    now: AtomicUsize,
    held: AtomicBool,
}

/// All roads to the gateways of these ports.
pub struct Roads {
    ports: Vec<u16>,
    roads: Vec<Road>,
    /// The number of the first; the other side's are before it.
    first: usize,
}

impl Roads {
    pub fn to(ports: Vec<u16>, first: usize) -> Self {
        Self { ports, roads: Vec::new(), first }
    }

    /// One more client; its number, and its address. Each second one belongs to the other gateway.
    pub async fn build(&mut self) -> (usize, String) {
        let home = self.roads.len() % self.ports.len();
        let proxy = Proxy::to(self.ports[home]).await;
        let address = format!("https://{}", proxy.endpoint());
        self.roads.push(Road { proxy, home, now: AtomicUsize::new(home), held: AtomicBool::new(false) });
        (self.first + self.roads.len() - 1, address)
    }

    fn road(&self, number: usize) -> Option<&Road> {
        self.roads.get(number.checked_sub(self.first)?)
    }

    /// Whether this road is on this side.
    pub fn has(&self, road: usize) -> bool {
        self.road(road).is_some()
    }

    /// Whether this road leads to this gateway now.
    pub fn leads_to(&self, road: usize, gateway: usize) -> bool {
        self.road(road).is_some_and(|road| road.now.load(Ordering::Relaxed) == gateway)
    }

    fn all_to(&self, gateway: usize) -> impl Iterator<Item = (usize, &Road)> {
        self.roads.iter().enumerate().filter(move |(_, road)| road.now.load(Ordering::Relaxed) == gateway)
    }

    /// New connections go to the other gateway; those that are there stay.
    pub fn divert(&self, gateway: usize) {
        let other = (gateway + 1) % self.ports.len();
        for (_, road) in self.all_to(gateway) {
            road.proxy.forward_to(self.ports[other]);
            road.now.store(other, Ordering::Relaxed);
        }
    }

    /// Everyone goes home; who is elsewhere loses the connection.
    pub fn home(&self, ledger: &Ledger) {
        for (number, road) in self.roads.iter().enumerate() {
            if road.now.swap(road.home, Ordering::Relaxed) != road.home {
                road.proxy.forward_to(self.ports[road.home]);
                road.proxy.reset();
                ledger.breaks(self.first + number);
            }
        }
    }

    /// Resets every connection to this gateway, and every new one until [`Self::resume`].
    pub fn cut(&self, gateway: usize, ledger: &Ledger) {
        for (number, road) in self.all_to(gateway) {
            road.proxy.cut();
            ledger.breaks(self.first + number);
        }
    }

    /// Nothing goes through any more, either way, and nobody is told.
    pub fn hold(&self, gateway: usize) {
        for (_, road) in self.all_to(gateway) {
            road.proxy.hold();
            road.held.store(true, Ordering::Relaxed);
        }
    }

    /// All is well again. Who was held may have given its connection up, so that counts as broken.
    pub fn resume(&self, ledger: &Ledger) {
        for (number, road) in self.roads.iter().enumerate() {
            if road.held.swap(false, Ordering::Relaxed) {
                ledger.breaks(self.first + number);
            }
            road.proxy.resume();
        }
    }
}
