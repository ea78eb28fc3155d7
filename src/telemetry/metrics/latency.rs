//! Histograms of durations, with an exemplar for each bucket.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use super::values::{Reading, Value};

/// Upper bounds in seconds for operations that usually take milliseconds, such as confirms, calls and store operations.
pub(super) const SHORT: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];
/// Upper bounds in seconds for messages that may wait in a queue for an hour.
pub(super) const LONG: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0, 600.0, 3600.0];

/// A histogram of durations. Cloning is cheap, and clones share their counts.
#[derive(Debug, Clone)]
pub(super) struct Latency(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bounds: &'static [f64],
    counts: Mutex<Counts>,
}

#[derive(Debug, Clone)]
struct Counts {
    sum: f64,
    /// One for each bound, and one for durations above all of them.
    buckets: Vec<(u64, Option<Exemplar>)>,
}

/// A duration that was observed in a sampled trace.
#[derive(Debug, Clone)]
pub(super) struct Exemplar {
    pub(super) trace_id: String,
    pub(super) seconds: f64,
    pub(super) at: SystemTime,
}

/// A histogram's counts at one moment.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) sum: f64,
    pub(super) buckets: Vec<Bucket>,
}

/// The durations between the bound of the previous bucket and this one's.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    /// The upper bound in seconds; infinite for the last bucket.
    pub(super) bound: f64,
    pub(super) count: u64,
    pub(super) exemplar: Option<Exemplar>,
}

impl Latency {
    /// A histogram with these bounds, in ascending order.
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        let counts = Mutex::new(Counts { sum: 0.0, buckets: vec![(0, None); bounds.len() + 1] });
        Self(Arc::new(Inner { bounds, counts }))
    }

    /// Adds a duration. The id of a sampled trace becomes the exemplar of its bucket; without one, no memory is
    /// allocated.
    pub(super) fn observe(&self, duration: Duration, trace: Option<String>) {
        let seconds = duration.as_secs_f64();
        let exemplar = trace.map(|trace_id| Exemplar { trace_id, seconds, at: SystemTime::now() });
        let bucket = self.0.bounds.partition_point(|bound| *bound < seconds);
        let mut counts = self.counts();
        counts.sum += seconds;
        if let Some((count, kept)) = counts.buckets.get_mut(bucket) {
            *count += 1;
            if exemplar.is_some() {
                *kept = exemplar;
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Value for Latency {
    fn read(&self) -> Reading {
        let Counts { sum, buckets } = self.counts().clone();
        let bounds = self.0.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets = bounds.zip(buckets).map(|(bound, (count, exemplar))| Bucket { bound, count, exemplar });
        Reading::Histogram(Snapshot { sum, buckets: buckets.collect() })
    }
}
