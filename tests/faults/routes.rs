//! A simple load balancer between clients and gateways. Each client has its own address, which leads to its own gateway
//! while that runs, and to the other one otherwise.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use warrengate_testkit::proxy::Proxy;

use crate::history::History;

pub struct Route {
    proxy: Proxy,
    own_gateway: usize,
    current: AtomicUsize,
    paused: AtomicBool,
}

/// The routes to the gateways on these ports.
pub struct Routes {
    ports: Vec<u16>,
    routes: Vec<Route>,
    /// The number of the first route; the numbers of other environments are lower.
    first: usize,
}

impl Routes {
    pub fn to(ports: Vec<u16>, first: usize) -> Self {
        Self { ports, routes: Vec::new(), first }
    }

    /// Adds a route for a client; returns its number and address. The gateways alternate.
    pub async fn add(&mut self) -> (usize, String) {
        let own_gateway = self.routes.len() % self.ports.len();
        let proxy = Proxy::to(self.ports[own_gateway]).await;
        let address = format!("https://{}", proxy.endpoint());
        self.routes.push(Route {
            proxy,
            own_gateway,
            current: AtomicUsize::new(own_gateway),
            paused: AtomicBool::new(false),
        });
        (self.first + self.routes.len() - 1, address)
    }

    fn get(&self, number: usize) -> Option<&Route> {
        self.routes.get(number.checked_sub(self.first)?)
    }

    /// Whether this route belongs to this environment.
    pub fn has(&self, route: usize) -> bool {
        self.get(route).is_some()
    }

    /// Whether this route currently leads to this gateway.
    pub fn leads_to(&self, route: usize, gateway: usize) -> bool {
        self.get(route).is_some_and(|route| route.current.load(Ordering::Relaxed) == gateway)
    }

    fn all_to(&self, gateway: usize) -> impl Iterator<Item = (usize, &Route)> {
        self.routes.iter().enumerate().filter(move |(_, route)| route.current.load(Ordering::Relaxed) == gateway)
    }

    /// New connections go to the other gateway; existing ones remain.
    pub fn divert(&self, gateway: usize) {
        let other = (gateway + 1) % self.ports.len();
        for (_, route) in self.all_to(gateway) {
            route.proxy.forward_to(self.ports[other]);
            route.current.store(other, Ordering::Relaxed);
        }
    }

    /// Returns all routes to their own gateways; diverted clients lose their connections.
    pub fn restore(&self, history: &History) {
        for (number, route) in self.routes.iter().enumerate() {
            if route.current.swap(route.own_gateway, Ordering::Relaxed) != route.own_gateway {
                route.proxy.forward_to(self.ports[route.own_gateway]);
                route.proxy.reset();
                history.disconnected(self.first + number);
            }
        }
    }

    /// Resets every connection to this gateway, and every new one until [`Self::resume`].
    pub fn cut(&self, gateway: usize, history: &History) {
        for (number, route) in self.all_to(gateway) {
            route.proxy.cut();
            history.disconnected(self.first + number);
        }
    }

    /// Stops forwarding in both directions without closing connections.
    pub fn hold(&self, gateway: usize) {
        for (_, route) in self.all_to(gateway) {
            route.proxy.hold();
            route.paused.store(true, Ordering::Relaxed);
        }
    }

    /// Forwards again. Clients may have closed a paused connection, so it counts as disconnected.
    pub fn resume(&self, history: &History) {
        for (number, route) in self.routes.iter().enumerate() {
            if route.paused.swap(false, Ordering::Relaxed) {
                history.disconnected(self.first + number);
            }
            route.proxy.resume();
        }
    }
}
