//! Free ports on the loopback address.
//!
//! A node reserves a block of ports with a file lock, so that nodes of several processes that start at the same time do
//! not choose the same ports.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use rand::Rng as _;

use super::Error;

/// Below every system's ephemeral range (Linux from 32768, macOS from 49152), so that no outgoing connection takes the
/// port between the check and the broker's bind.
const RANGE: std::ops::Range<u16> = 20_000..32_000;
/// Ports of a block: AMQPS, management, epmd, distribution, and six for the command-line tools.
const BLOCK: u16 = 16;
const ATTEMPTS: usize = 200;

/// The loopback address with a port.
pub(super) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Consecutive free ports that no other process of this user reserves.
#[derive(Debug)]
pub(super) struct Reservation {
    first: u16,
    /// The system releases the lock when this process ends.
    _lock: Option<File>,
}

impl Reservation {
    pub(super) fn new() -> Result<Self, Error> {
        let folder = std::env::temp_dir().join("warrengate-ports");
        let _ = fs::create_dir_all(&folder);
        let mut random = rand::rng();
        for _ in 0..ATTEMPTS {
            let first = RANGE.start + BLOCK * random.random_range(0..(RANGE.end - RANGE.start) / BLOCK);
            // Without a lock file, as when the folder belongs to another user, checking the ports has to be enough.
            let lock = File::create(folder.join(first.to_string())).ok();
            let is_ours = lock.as_ref().is_none_or(|lock| lock.try_lock().is_ok());
            if is_ours && (first..first + BLOCK).all(is_free) {
                return Ok(Self { first, _lock: lock });
            }
        }
        Err(Error::NoFreePort)
    }

    /// A port of the block, by its number from 0 to 15.
    pub(super) fn port(&self, number: u16) -> u16 {
        debug_assert!(number < BLOCK);
        self.first + number
    }
}

/// Fails when the port is in use.
pub(super) fn check(port: u16, purpose: &'static str) -> Result<u16, Error> {
    if is_free(port) { Ok(port) } else { Err(Error::PortTaken { port, purpose }) }
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
        let error = check(port, "AMQPS").expect_err("in use");
        assert!(error.to_string().contains(&format!("port {port} (AMQPS) is used")), "{error}");
        drop(taken);
        assert_eq!(check(port, "AMQPS").expect("free"), port);
    }

    #[test]
    fn reservations_do_not_overlap() {
        let all: Vec<_> = (0..20).map(|_| Reservation::new().expect("ports")).collect();
        let mut first: Vec<_> = all.iter().map(|one| one.port(0)).collect();
        first.sort_unstable();
        assert!(first.windows(2).all(|two| two[0] + BLOCK <= two[1]), "{first:?}");
        assert!(all.iter().all(|one| RANGE.contains(&one.port(0)) && RANGE.contains(&one.port(BLOCK - 1))));
    }
}
