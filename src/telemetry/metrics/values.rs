//! Counters and gauges: atomic numbers. Cloning one is cheap, and clones share their number.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use super::latency::Snapshot;

/// A number that only increases.
#[derive(Debug, Clone, Default)]
pub(super) struct Counter(Arc<AtomicU64>);

impl Counter {
    pub(super) fn inc(&self) {
        self.inc_by(1);
    }

    pub(super) fn inc_by(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that increases and decreases.
#[derive(Debug, Clone, Default)]
pub(super) struct Gauge(Arc<AtomicI64>);

impl Gauge {
    pub(super) fn inc(&self) {
        self.inc_by(1);
    }

    pub(super) fn dec(&self) {
        self.inc_by(-1);
    }

    pub(super) fn inc_by(&self, count: i64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The value of a sample.
#[derive(Debug, Clone)]
pub(super) enum Reading {
    Integer(i64),
    Float(f64),
    Histogram(Snapshot),
}

/// A source of samples.
pub(super) trait Value {
    fn read(&self) -> Reading;
}

impl Value for Counter {
    fn read(&self) -> Reading {
        Reading::Integer(i64::try_from(self.get()).unwrap_or(i64::MAX))
    }
}

impl Value for Gauge {
    fn read(&self) -> Reading {
        Reading::Integer(self.get())
    }
}

/// A value that is read from elsewhere.
impl Value for f64 {
    fn read(&self) -> Reading {
        Reading::Float(*self)
    }
}
