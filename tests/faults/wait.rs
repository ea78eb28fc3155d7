//! Waiting with a deadline, and free ports.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use anyhow::bail;
use rand::Rng as _;
use tokio::time::{Instant, MissedTickBehavior, interval};

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Polls until the condition is true.
pub async fn until(what: &str, within: Duration, mut condition: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + within;
    let mut tick = interval(POLL_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if condition().await {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {within:?}");
        }
    }
}

/// A free loopback port below the ephemeral range.
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
