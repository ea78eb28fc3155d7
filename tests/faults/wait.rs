//! Waiting with a deadline, and free ports.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use anyhow::bail;
use rand::Rng as _;
use tokio::time::{Instant, MissedTickBehavior, interval};

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Asks until it is true.
pub async fn until(what: &str, within: Duration, mut ask: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + within;
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if ask().await {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {within:?}");
        }
    }
}

/// A port of loopback that nobody listens on, below the range that systems give to outgoing connections.
pub fn free_port() -> anyhow::Result<u16> {
    let mut random = rand::rng();
    for _ in 0..200 {
        let port = random.random_range(20_000..32_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port")
}
