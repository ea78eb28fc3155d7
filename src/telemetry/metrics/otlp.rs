//! The same metrics for OpenTelemetry. The page at `/metrics` enters, as OpenMetrics has it, and an OTLP request leaves: one
//! list of metrics, one encoding, two formats. Sums and histograms count since the gateway's start, so an export that is lost
//! costs nothing but its moment.

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Exemplar, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, exemplar, metric::Data, number_data_point::Value,
    },
    resource::v1::Resource,
};

use super::names::{Described, METRICS, MetricKind};

/// When, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) started: u64,
    pub(super) now: u64,
}

/// A line of the page: `name{a="b"} 1 # {trace_id="00"} 0.5 1.0`.
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, &'a str)>,
    value: &'a str,
    exemplar: Option<Exemplar>,
}

impl<'a> Sample<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        // No label of ours holds a "#", a quote or a comma (names.rs).
        let (line, exemplar) = line.split_once(" # ").map_or((line, None), |(line, rest)| (line, Some(rest)));
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
        let labels = labels.map(|(name, value)| (name, value.trim_matches('"'))).collect();
        Some(Self { name, labels, value, exemplar: exemplar.and_then(read_exemplar) })
    }

    fn number(&self) -> Value {
        self.value.parse().map_or_else(|_| Value::AsDouble(self.float()), Value::AsInt)
    }

    fn float(&self) -> f64 {
        self.value.parse().unwrap_or_default()
    }

    fn count(&self) -> u64 {
        self.value.parse().unwrap_or_default()
    }

    fn attributes(&self) -> Vec<KeyValue> {
        let others = self.labels.iter().filter(|(name, _)| *name != "le");
        others.map(|(name, value)| attribute((*name).to_owned(), (*value).to_owned())).collect()
    }
}

/// `{trace_id="00"} 0.5 1700000000.0`; the span is not known.
fn read_exemplar(text: &str) -> Option<Exemplar> {
    let (labels, rest) = text.strip_prefix("{trace_id=\"")?.split_once("\"} ")?;
    let (value, seconds) = rest.split_once(' ').map_or((rest, None), |(value, time)| (value, Some(time)));
    let seconds: f64 = seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or_default();
    Some(Exemplar {
        trace_id: u128::from_str_radix(labels, 16).ok()?.to_be_bytes().to_vec(),
        value: Some(exemplar::Value::AsDouble(value.parse().ok()?)),
        time_unix_nano: (seconds * 1e9) as u64,
        ..Exemplar::default()
    })
}

pub(super) fn attribute(key: String, text: String) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(text)) };
    KeyValue { key, value: Some(value), ..KeyValue::default() }
}

/// Everything that the page has.
pub(super) fn request(page: &str, resource: Resource, span: Span) -> ExportMetricsServiceRequest {
    let mut samples: Vec<Vec<Sample<'_>>> = METRICS.iter().map(|_| Vec::new()).collect();
    let names: Vec<Vec<String>> = METRICS.iter().map(|metric| metric.samples()).collect();
    for sample in page.lines().filter(|line| !line.starts_with('#')).filter_map(Sample::parse) {
        if let Some(which) = names.iter().position(|names| names.iter().any(|name| name == sample.name)) {
            samples[which].push(sample);
        }
    }
    let of_each = METRICS.iter().zip(&samples).filter(|(_, samples)| !samples.is_empty());
    let metrics = of_each.map(|(described, samples)| metric(described, samples, span)).collect();
    let scope = InstrumentationScope { name: "warrengate".to_owned(), ..InstrumentationScope::default() };
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }];
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource),
            scope_metrics,
            ..ResourceMetrics::default()
        }],
    }
}

fn metric(described: &Described, samples: &[Sample<'_>], span: Span) -> Metric {
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match described.kind {
        MetricKind::Counter => Data::Sum(Sum {
            data_points: numbers(samples, span),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        MetricKind::Gauge => Data::Gauge(Gauge { data_points: numbers(samples, span) }),
        MetricKind::Histogram => {
            Data::Histogram(Histogram { data_points: histograms(samples, span), aggregation_temporality: cumulative })
        }
    };
    // Prometheus adds these endings again, and a unit that the name has already adds none.
    let name = described.name.strip_suffix("_total").unwrap_or(described.name);
    let unit = match name {
        _ if name.ends_with("_seconds") => "s",
        _ if name.ends_with("_bytes") => "By",
        _ => "",
    };
    Metric {
        name: name.to_owned(),
        description: described.help.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn numbers(samples: &[Sample<'_>], span: Span) -> Vec<NumberDataPoint> {
    let point = |sample: &Sample<'_>| NumberDataPoint {
        attributes: sample.attributes(),
        start_time_unix_nano: span.started,
        time_unix_nano: span.now,
        value: Some(sample.number()),
        ..NumberDataPoint::default()
    };
    samples.iter().map(point).collect()
}

/// The samples of one histogram follow each other.
fn histograms(samples: &[Sample<'_>], span: Span) -> Vec<HistogramDataPoint> {
    let mut points: Vec<HistogramDataPoint> = Vec::new();
    let mut below = 0;
    for sample in samples {
        let attributes = sample.attributes();
        if points.last().is_none_or(|point| point.attributes != attributes) {
            below = 0;
            points.push(HistogramDataPoint {
                attributes,
                start_time_unix_nano: span.started,
                time_unix_nano: span.now,
                ..HistogramDataPoint::default()
            });
        }
        let Some(point) = points.last_mut() else { continue };
        if sample.name.ends_with("_sum") {
            point.sum = Some(sample.float());
        } else if sample.name.ends_with("_count") {
            point.count = sample.count();
        } else {
            // Prometheus counts what is below a bound, OpenTelemetry what is between two.
            point.bucket_counts.push(sample.count().saturating_sub(below));
            below = sample.count();
            let bound = sample.labels.iter().find(|(name, _)| *name == "le").and_then(|(_, le)| le.parse().ok());
            point.explicit_bounds.extend(bound.filter(|bound: &f64| bound.is_finite()));
            point.exemplars.extend(sample.exemplar.clone());
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::TenantId,
        pb::Outcome,
        telemetry::{Metrics, MetricsFormat},
    };

    #[test]
    fn what_the_page_says_is_what_is_sent() {
        let metrics = Metrics::new([]);
        let acme = metrics.tenant(&TenantId::parse("acme").expect("a tenant"));
        acme.published(Outcome::Confirmed, 7);
        let trace = "0af7651916cd43dd8448eb211c80319c";
        acme.confirmed_after(std::time::Duration::from_micros(1_500), Some(trace.to_owned()));
        acme.confirmed_after(std::time::Duration::from_secs(3_600), None);
        let page = metrics.render(MetricsFormat::OpenMetrics);
        let sent = request(&page, Resource::default(), Span { started: 1, now: 2 });
        let all = &sent.resource_metrics[0].scope_metrics[0].metrics;
        let data = |name: &str| all.iter().find(|metric| metric.name == name).and_then(|metric| metric.data.clone());
        let has =
            |point: &[KeyValue], name: &str, value: &str| point.contains(&attribute(name.to_owned(), value.to_owned()));

        let Some(Data::Sum(published)) = data("warrengate_published") else { panic!("a sum: {all:?}") };
        assert!(published.is_monotonic);
        let confirmed = published.data_points.iter().find(|point| has(&point.attributes, "outcome", "confirmed"));
        let confirmed = confirmed.expect("a point");
        assert!(has(&confirmed.attributes, "tenant", "acme"));
        assert_eq!((confirmed.value, confirmed.start_time_unix_nano), (Some(Value::AsInt(7)), 1));

        let Some(Data::Histogram(confirm)) = data("warrengate_confirm_duration_seconds") else { panic!("{all:?}") };
        let point = &confirm.data_points[0];
        assert_eq!((point.count, point.bucket_counts.iter().sum::<u64>()), (2, 2));
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        assert_eq!(point.bucket_counts.last(), Some(&1), "the hour is beyond every bound");
        assert!(point.sum.is_some_and(|sum| (sum - 3_600.001_5).abs() < 1e-6), "{point:?}");
        assert_eq!(point.exemplars[0].trace_id[..2], [0x0a, 0xf7]);

        let Some(Data::Gauge(_)) = data("warrengate_open_streams") else { panic!("a gauge: {all:?}") };
        let lines = page.lines().filter(|line| line.starts_with("# TYPE")).count();
        let empty = METRICS.len() - all.len();
        assert!(all.len() > 15 && lines >= all.len() && empty < 15, "{} of {lines}", all.len());
    }
}
