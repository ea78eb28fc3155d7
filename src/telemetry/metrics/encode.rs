//! From handles to text. A metric's description and its samples enter, and OpenMetrics leaves; the older text format is made
//! from that, without what it does not know: exemplars, and the end.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder},
    metrics::MetricType,
};

use super::names::{Described, MetricKind};

/// Writes a metric's samples.
pub(super) struct Samples<'a>(MetricEncoder<'a>);

impl Samples<'_> {
    /// One sample, with its labels.
    pub(super) fn add<const N: usize>(&mut self, labels: [(&str, &str); N], value: &impl EncodeMetric) -> fmt::Result {
        value.encode(self.0.encode_family(&labels)?)
    }

    /// A counter's value, read from elsewhere.
    pub(super) fn counter(&mut self, value: f64) -> fmt::Result {
        self.0.encode_counter::<prometheus_client::encoding::NoLabelSet, _, f64>(&value, None)
    }

    /// A gauge's value, read from elsewhere.
    pub(super) fn gauge(&mut self, value: f64) -> fmt::Result {
        self.0.encode_gauge(&value)
    }

    /// As [`Self::gauge`], with labels.
    pub(super) fn gauge_with<const N: usize>(&mut self, labels: [(&str, &str); N], value: f64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_gauge(&value)
    }
}

/// Writes a metric: its description, and the samples that `each` adds.
pub(super) fn metric(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &Described,
    each: impl FnOnce(&mut Samples<'_>) -> fmt::Result,
) -> fmt::Result {
    let kind = match metric.kind {
        MetricKind::Counter => MetricType::Counter,
        MetricKind::Gauge => MetricType::Gauge,
        MetricKind::Histogram => MetricType::Histogram,
    };
    // OpenMetrics: a counter's samples have the ending, its family does not.
    let family = metric.name.strip_suffix("_total").unwrap_or(metric.name);
    each(&mut Samples(encoder.encode_descriptor(family, metric.help, None, kind)?))
}

/// OpenMetrics as Prometheus' text format, version 0.0.4.
pub(super) fn as_prometheus(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((family, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let ending = if kind == "counter" { "_total" } else { "" };
            if let Some((_, help)) = help.take().filter(|(name, _)| *name == family) {
                text.extend(["# HELP ", family, ending, " ", help, "\n"]);
            }
            text.extend(["# TYPE ", family, ending, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            // No label of ours holds a "#": an exemplar is all that can follow one.
            text.extend([line.split(" # ").next().unwrap_or(line), "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_has_the_full_names_and_no_exemplars() {
        let openmetrics = "# HELP a A.\n# TYPE a counter\na_total{x=\"1\"} 3\n# HELP b_seconds B.\n\
            # TYPE b_seconds histogram\nb_seconds_bucket{le=\"+Inf\"} 1 # {trace_id=\"00\"} 0.5 1.0\n# EOF\n";
        let text = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1\"} 3\n# HELP b_seconds B.\n\
            # TYPE b_seconds histogram\nb_seconds_bucket{le=\"+Inf\"} 1\n";
        assert_eq!(as_prometheus(openmetrics), text);
    }
}
