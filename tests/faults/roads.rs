//! The roads from clients to gateways: a load balancer that the suite plays itself. Each client has an address of its own,
//! which leads to the gateway that it belongs to while that one is up, and to the other one while it is not.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::proxy::Proxy;

pub struct Road {
    proxy: Proxy,
    home: usize,
    now: AtomicUsize,
}

/// All roads to the gateways of these ports.
pub struct Roads {
    ports: Vec<u16>,
    roads: Vec<Road>,
}

impl Roads {
    pub fn to(ports: Vec<u16>) -> Self {
        Self { ports, roads: Vec::new() }
    }

    /// One more client; its number, and its address. Each second one belongs to the other gateway.
    pub async fn build(&mut self) -> (usize, String) {
        let home = self.roads.len() % self.ports.len();
        let proxy = Proxy::to(self.ports[home]).await;
        let address = format!("https://{}", proxy.endpoint());
        self.roads.push(Road { proxy, home, now: AtomicUsize::new(home) });
        (self.roads.len() - 1, address)
    }

    /// Whether this road leads to this gateway now.
    pub fn leads_to(&self, road: usize, gateway: usize) -> bool {
        self.roads[road].now.load(Ordering::Relaxed) == gateway
    }

    fn all_to(&self, gateway: usize) -> impl Iterator<Item = &Road> {
        self.roads.iter().filter(move |road| road.now.load(Ordering::Relaxed) == gateway)
    }

    /// New connections go to the other gateway; those that are there stay.
    pub fn divert(&self, gateway: usize) {
        let other = (gateway + 1) % self.ports.len();
        for road in self.all_to(gateway) {
            road.proxy.forward_to(self.ports[other]);
            road.now.store(other, Ordering::Relaxed);
        }
    }

    /// Everyone goes home: those who are elsewhere lose their connections.
    pub fn home(&self) {
        for road in &self.roads {
            if road.now.swap(road.home, Ordering::Relaxed) != road.home {
                road.proxy.forward_to(self.ports[road.home]);
                road.proxy.reset();
            }
        }
    }

    /// Resets every connection to this gateway, and every new one until [`Self::resume`].
    pub fn cut(&self, gateway: usize) {
        self.all_to(gateway).for_each(|road| road.proxy.cut());
    }

    /// Nothing goes through any more, either way, and nobody is told.
    pub fn hold(&self, gateway: usize) {
        self.all_to(gateway).for_each(|road| road.proxy.hold());
    }

    pub fn resume(&self) {
        self.roads.iter().for_each(|road| road.proxy.resume());
    }
}
