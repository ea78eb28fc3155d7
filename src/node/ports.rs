//! Ports on loopback. A wish enters; a port that nobody listens on leaves.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use rand::Rng as _;

use super::Error;

/// Below every system's ephemeral range (Linux from 32768, macOS from 49152): an outgoing connection cannot take the port
/// between our look and the broker's bind.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// The address of a port on loopback.
pub(super) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A port nobody listens on.
pub(super) fn free() -> Result<u16, Error> {
    let mut random = rand::rng();
    (0..200).map(|_| random.random_range(RANGE)).find(|port| is_free(*port)).ok_or(Error::NoFreePort)
}

/// The port wished for, when nobody listens there; any free one without a wish.
pub(super) fn wished(port: Option<u16>, purpose: &'static str) -> Result<u16, Error> {
    match port {
        None => free(),
        Some(port) if is_free(port) => Ok(port),
        Some(port) => Err(Error::PortTaken { port, purpose }),
    }
}

pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind(loopback(port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind(loopback(0)).expect("bound");
        let port = taken.local_addr().expect("address").port();
        let error = wished(Some(port), "AMQPS").expect_err("taken");
        assert!(error.to_string().contains(&format!("port {port} (AMQPS) is taken")));
        drop(taken);
        assert_eq!(wished(Some(port), "AMQPS").expect("free"), port);
        assert!(RANGE.contains(&wished(None, "AMQPS").expect("free")));
    }
}
