//! Memory use of the gateways during the run, sampled once per second, and a check whether it grows.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio_util::sync::{CancellationToken, DropGuard};

/// Reads the memory of a process, in KiB.
type Gauge = Arc<dyn Fn() -> Option<u64> + Send + Sync>;

/// Growth below these limits is tolerated: caches fill up, and the allocator keeps freed memory.
const TOLERATED_SHARE: f64 = 0.15;
const TOLERATED_KIB: u64 = 12 * 1024;

/// Samples the memory of one process.
pub struct Memory {
    samples: Arc<Mutex<Vec<(Instant, u64)>>>,
    _stop: DropGuard,
}

/// Medians, in KiB.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    pub third_quarter: u64,
    pub last_quarter: u64,
    pub grows: bool,
}

impl Growth {
    pub fn only_if(self, checked: bool) -> Self {
        Self { grows: self.grows && checked, ..self }
    }
}

impl Memory {
    pub fn sample(gauge: impl Fn() -> Option<u64> + Send + Sync + 'static) -> Self {
        let gauge: Gauge = Arc::new(gauge);
        let samples: Arc<Mutex<Vec<_>>> = Arc::default();
        let stop = CancellationToken::new();
        let (into, stopped) = (Arc::clone(&samples), stop.clone());
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_secs(1));
            loop {
                tokio::select! {
                    _ = tick.tick() => into.lock().unwrap().extend(gauge().map(|kib| (Instant::now(), kib))),
                    () = stopped.cancelled() => return,
                }
            }
        });
        Self { samples, _stop: stop.drop_guard() }
    }

    /// Compares the third quarter of the run with the last one by their medians, so that single samples have no effect.
    pub fn check(&self, began: Instant, ended: Instant) -> Option<Growth> {
        let part = |number: u32| began + (ended - began) * number / 4;
        let median = |from: Instant, to: Instant| {
            let samples = self.samples.lock().unwrap();
            let mut inside: Vec<u64> =
                samples.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, kib)| *kib).collect();
            inside.sort_unstable();
            inside.get(inside.len() / 2).copied()
        };
        let (third_quarter, last_quarter) = (median(part(2), part(3))?, median(part(3), ended)?);
        let tolerated = third_quarter + (third_quarter as f64 * TOLERATED_SHARE) as u64 + TOLERATED_KIB;
        Some(Growth { third_quarter, last_quarter, grows: last_quarter > tolerated })
    }
}
