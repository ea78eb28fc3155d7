//! Free ports on the loopback address.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use rand::Rng as _;

use super::Error;

/// Below every system's ephemeral range (Linux from 32768, macOS from 49152), so that no outgoing connection takes the port
/// between the check and the broker's bind.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// The loopback address with a port.
pub(super) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A free port.
pub(super) fn free() -> Result<u16, Error> {
    let mut random = rand::rng();
    (0..200).map(|_| random.random_range(RANGE)).find(|port| is_free(*port)).ok_or(Error::NoFreePort)
}

/// The requested port if it is free; any free port if none is requested.
pub(super) fn requested(port: Option<u16>, purpose: &'static str) -> Result<u16, Error> {
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
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind(loopback(0)).expect("bound");
        let port = taken.local_addr().expect("address").port();
        let error = requested(Some(port), "AMQPS").expect_err("taken");
        assert!(error.to_string().contains(&format!("port {port} (AMQPS) is used")));
        drop(taken);
        assert_eq!(requested(Some(port), "AMQPS").expect("free"), port);
        assert!(RANGE.contains(&requested(None, "AMQPS").expect("free")));
    }
}
