//! Encoding of metrics: one walk over all metrics and their samples, with text or OTLP as the output.

use std::fmt::{self, Write as _};

use opentelemetry_proto::tonic::metrics::v1::Metric;

use super::{
    MetricsFormat,
    latency::Snapshot,
    names::{Described, MetricKind},
    otlp::{Period, Points},
    values::{Reading, Value},
};

/// Where metrics are written to.
pub(super) enum Encoder<'a> {
    Text(&'a mut String, MetricsFormat),
    Otlp(&'a mut Vec<Metric>, Period),
}

/// Writes the samples of one metric.
pub(super) struct Samples<'a> {
    metric: &'a Described,
    output: Output<'a>,
}

enum Output<'a> {
    Text(&'a mut String, MetricsFormat),
    Otlp(&'a mut Points),
}

/// Writes a metric: its description, and the samples that `each` adds.
pub(super) fn metric(
    encoder: &mut Encoder<'_>,
    metric: &Described,
    each: impl FnOnce(&mut Samples<'_>) -> fmt::Result,
) -> fmt::Result {
    match encoder {
        Encoder::Text(text, format) => {
            let kind = match metric.kind {
                MetricKind::Counter => "counter",
                MetricKind::Gauge => "gauge",
                MetricKind::Histogram => "histogram",
            };
            let family = match format {
                MetricsFormat::Prometheus => metric.name,
                // A counter's samples have the ending, its family does not.
                MetricsFormat::OpenMetrics => metric.name.strip_suffix("_total").unwrap_or(metric.name),
            };
            writeln!(text, "# HELP {family} {}\n# TYPE {family} {kind}", metric.help)?;
            each(&mut Samples { metric, output: Output::Text(text, *format) })
        }
        Encoder::Otlp(metrics, period) => {
            let mut points = Points::new(metric.kind, *period);
            each(&mut Samples { metric, output: Output::Otlp(&mut points) })?;
            metrics.extend(points.into_metric(metric));
            Ok(())
        }
    }
}

impl Samples<'_> {
    /// One sample, with its labels.
    pub(super) fn add<const N: usize>(&mut self, labels: [(&str, &str); N], value: &impl Value) -> fmt::Result {
        self.sample(&labels, value.read())
    }

    /// A counter's value, read from elsewhere.
    pub(super) fn counter(&mut self, value: f64) -> fmt::Result {
        self.add([], &value)
    }

    /// A gauge's value, read from elsewhere.
    pub(super) fn gauge(&mut self, value: f64) -> fmt::Result {
        self.add([], &value)
    }

    /// As [`Self::gauge`], with labels.
    pub(super) fn gauge_with<const N: usize>(&mut self, labels: [(&str, &str); N], value: f64) -> fmt::Result {
        self.add(labels, &value)
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: Reading) -> fmt::Result {
        let name = self.metric.name;
        match &mut self.output {
            Output::Otlp(points) => {
                points.add(labels, value);
                Ok(())
            }
            Output::Text(text, _) => match value {
                Reading::Integer(value) => line(text, name, "", labels, None, format_args!("{value}")),
                Reading::Float(value) => line(text, name, "", labels, None, format_args!("{value:?}")),
                Reading::Histogram(snapshot) => self.histogram(labels, &snapshot),
            },
        }
    }

    fn histogram(&mut self, labels: &[(&str, &str)], snapshot: &Snapshot) -> fmt::Result {
        let Output::Text(text, format) = &mut self.output else { return Ok(()) };
        let name = self.metric.name;
        let mut count = 0;
        for bucket in &snapshot.buckets {
            count += bucket.count;
            line(text, name, "_bucket", labels, Some(bucket.bound), format_args!("{count}"))?;
            if let (Some(exemplar), MetricsFormat::OpenMetrics) = (&bucket.exemplar, *format) {
                let at = exemplar.at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
                text.pop();
                let (trace, seconds) = (&exemplar.trace_id, exemplar.seconds);
                writeln!(text, " # {{trace_id=\"{trace}\"}} {seconds:?} {at:.3}")?;
            }
        }
        line(text, name, "_sum", labels, None, format_args!("{:?}", snapshot.sum))?;
        line(text, name, "_count", labels, None, format_args!("{count}"))
    }
}

/// `name_ending{le="bound",label="value"} value`.
fn line(
    text: &mut String,
    name: &str,
    ending: &str,
    labels: &[(&str, &str)],
    bound: Option<f64>,
    value: fmt::Arguments<'_>,
) -> fmt::Result {
    text.extend([name, ending]);
    let mut separator = '{';
    if let Some(bound) = bound {
        match bound.is_infinite() {
            true => text.push_str("{le=\"+Inf\""),
            false => write!(text, "{{le=\"{bound:?}\"")?,
        }
        separator = ',';
    }
    for (label, value) in labels {
        write!(text, "{separator}{label}=\"")?;
        // Label values come from closed lists; they are escaped so that a valid page does not depend on it.
        value.chars().for_each(|c| match c {
            '\n' => text.push_str("\\n"),
            '\\' | '"' => text.extend(['\\', c]),
            _ => text.push(c),
        });
        text.push('"');
        separator = ',';
    }
    text.push_str(if separator == ',' { "} " } else { " " });
    writeln!(text, "{value}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::metrics::latency::Latency;

    const A: Described = Described { name: "a_total", kind: MetricKind::Counter, labels: &["x"], help: "A." };
    const B: Described = Described { name: "b_seconds", kind: MetricKind::Histogram, labels: &[], help: "B." };

    fn page(format: MetricsFormat) -> String {
        let latency = Latency::new(&[0.5, 1.0]);
        latency.observe(Duration::from_millis(500), Some("00".to_owned()));
        latency.observe(Duration::from_secs(9), None);
        let mut text = String::new();
        let mut encoder = Encoder::Text(&mut text, format);
        metric(&mut encoder, &A, |samples| samples.add([("x", "1\"\\\n")], &3.0)).expect("written");
        metric(&mut encoder, &B, |samples| samples.add([], &latency)).expect("written");
        text
    }

    #[test]
    fn openmetrics_has_families_and_exemplars() {
        let text = page(MetricsFormat::OpenMetrics);
        let (before, after) = text.split_once(" # {trace_id=\"00\"} 0.5 ").expect("an exemplar");
        let expected = "# HELP a A.\n# TYPE a counter\na_total{x=\"1\\\"\\\\\\n\"} 3.0\n# HELP b_seconds B.\n\
                        # TYPE b_seconds histogram\nb_seconds_bucket{le=\"0.5\"} 1";
        assert_eq!(before, expected);
        let (_, after) = after.split_once('\n').expect("a time");
        let expected =
            "b_seconds_bucket{le=\"1.0\"} 1\nb_seconds_bucket{le=\"+Inf\"} 2\nb_seconds_sum 9.5\nb_seconds_count 2\n";
        assert_eq!(after, expected);
    }

    #[test]
    fn the_older_format_has_the_full_names_and_no_exemplars() {
        let text = page(MetricsFormat::Prometheus);
        assert!(text.starts_with("# HELP a_total A.\n# TYPE a_total counter\n"), "{text}");
        assert!(text.contains("b_seconds_bucket{le=\"0.5\"} 1\n") && !text.contains("trace_id"), "{text}");
    }
}
