//! Durations. One enters with the trace it was seen in, if that is kept; a histogram with an exemplar a bucket leaves.

use std::time::{Duration, SystemTime};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, exemplar::HistogramWithExemplars},
};

/// The labels of an exemplar.
type Trace = [(&'static str, String); 1];

/// Upper bounds in seconds, for what usually takes milliseconds: a confirm, a call, the store.
pub(super) const SHORT: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];
/// For what may wait in a queue for an hour.
pub(super) const LONG: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0, 600.0, 3600.0];

/// A histogram of durations. Cloning is cheap, and clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Latency(HistogramWithExemplars<Trace>);

impl Latency {
    pub(super) fn new(bounds: &[f64]) -> Self {
        Self(HistogramWithExemplars::new(bounds.iter().copied()))
    }

    /// Adds one. The id of a trace that is kept becomes its bucket's exemplar; without one nothing is allocated.
    pub(super) fn observe(&self, duration: Duration, trace: Option<String>) {
        let now = trace.is_some().then(SystemTime::now);
        self.0.observe(duration.as_secs_f64(), trace.map(|id| [("trace_id", id)]), now);
    }
}

impl EncodeMetric for Latency {
    fn encode(&self, encoder: MetricEncoder<'_>) -> std::fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        self.0.metric_type()
    }
}
