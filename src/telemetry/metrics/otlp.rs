//! Metrics as OTLP messages. Sums and histograms are cumulative since the gateway's start, so a lost export loses no
//! data.

use std::time::SystemTime;

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Exemplar, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, exemplar, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};

use super::{
    latency::{self, Snapshot},
    names::{Described, MetricKind},
    values::Reading,
};

/// The time that cumulative values cover, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Period {
    pub(super) started: u64,
    pub(super) now: u64,
}

/// The data points of one metric.
pub(super) struct Points {
    kind: MetricKind,
    period: Period,
    numbers: Vec<NumberDataPoint>,
    histograms: Vec<HistogramDataPoint>,
}

impl Points {
    pub(super) fn new(kind: MetricKind, period: Period) -> Self {
        Self { kind, period, numbers: Vec::new(), histograms: Vec::new() }
    }

    pub(super) fn add(&mut self, labels: &[(&str, &str)], value: Reading) {
        let attributes =
            labels.iter().map(|(name, value)| attribute((*name).to_owned(), (*value).to_owned())).collect();
        match value {
            Reading::Integer(value) => self.number(attributes, number_data_point::Value::AsInt(value)),
            Reading::Float(value) => self.number(attributes, number_data_point::Value::AsDouble(value)),
            Reading::Histogram(snapshot) => self.histograms.push(histogram(attributes, snapshot, self.period)),
        }
    }

    fn number(&mut self, attributes: Vec<KeyValue>, value: number_data_point::Value) {
        self.numbers.push(NumberDataPoint {
            attributes,
            start_time_unix_nano: self.period.started,
            time_unix_nano: self.period.now,
            value: Some(value),
            ..NumberDataPoint::default()
        });
    }

    /// `None` without data points.
    pub(super) fn into_metric(self, described: &Described) -> Option<Metric> {
        if self.numbers.is_empty() && self.histograms.is_empty() {
            return None;
        }
        let aggregation_temporality = AggregationTemporality::Cumulative.into();
        let data = match self.kind {
            MetricKind::Counter => {
                Data::Sum(Sum { data_points: self.numbers, aggregation_temporality, is_monotonic: true })
            }
            MetricKind::Gauge => Data::Gauge(Gauge { data_points: self.numbers }),
            MetricKind::Histogram => {
                Data::Histogram(Histogram { data_points: self.histograms, aggregation_temporality })
            }
        };
        // Prometheus adds `_total` again, and the unit unless it is in the name.
        let name = described.name.strip_suffix("_total").unwrap_or(described.name);
        let unit = match name {
            _ if name.ends_with("_seconds") => "s",
            _ if name.ends_with("_bytes") => "By",
            _ => "",
        };
        Some(Metric {
            name: name.to_owned(),
            description: described.help.to_owned(),
            unit: unit.to_owned(),
            data: Some(data),
            ..Metric::default()
        })
    }
}

fn histogram(attributes: Vec<KeyValue>, Snapshot { sum, buckets }: Snapshot, period: Period) -> HistogramDataPoint {
    HistogramDataPoint {
        attributes,
        start_time_unix_nano: period.started,
        time_unix_nano: period.now,
        count: buckets.iter().map(|bucket| bucket.count).sum(),
        sum: Some(sum),
        bucket_counts: buckets.iter().map(|bucket| bucket.count).collect(),
        explicit_bounds: buckets.iter().map(|bucket| bucket.bound).filter(|bound| bound.is_finite()).collect(),
        exemplars: buckets.into_iter().filter_map(|bucket| exemplar(bucket.exemplar?)).collect(),
        ..HistogramDataPoint::default()
    }
}

/// The span of an exemplar is not known.
fn exemplar(exemplar: latency::Exemplar) -> Option<Exemplar> {
    Some(Exemplar {
        trace_id: u128::from_str_radix(&exemplar.trace_id, 16).ok()?.to_be_bytes().to_vec(),
        value: Some(exemplar::Value::AsDouble(exemplar.seconds)),
        time_unix_nano: nanoseconds(exemplar.at),
        ..Exemplar::default()
    })
}

/// Since 1970.
pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn attribute(key: String, text: String) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(text)) };
    KeyValue { key, value: Some(value), ..KeyValue::default() }
}

/// The request that exports these metrics.
pub(super) fn request(metrics: Vec<Metric>, resource: Resource) -> ExportMetricsServiceRequest {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::TenantId,
        pb::Outcome,
        telemetry::{Metrics, MetricsFormat},
    };

    #[test]
    fn the_export_has_the_values_of_the_page() {
        let metrics = Metrics::new([]);
        let acme = metrics.tenant(&TenantId::parse("acme").expect("a tenant"));
        acme.published(Outcome::Confirmed, 7);
        let trace = "0af7651916cd43dd8448eb211c80319c";
        acme.confirmed_after(std::time::Duration::from_micros(1_500), Some(trace.to_owned()));
        acme.confirmed_after(std::time::Duration::from_secs(3_600), None);
        let page = metrics.render(MetricsFormat::OpenMetrics);
        let all = &metrics.otlp(Period { started: 1, now: 2 });
        let data = |name: &str| all.iter().find(|metric| metric.name == name).and_then(|metric| metric.data.clone());
        let has =
            |point: &[KeyValue], name: &str, value: &str| point.contains(&attribute(name.to_owned(), value.to_owned()));

        let Some(Data::Sum(published)) = data("warrengate_published") else { panic!("a sum: {all:?}") };
        assert!(published.is_monotonic);
        let confirmed = published.data_points.iter().find(|point| has(&point.attributes, "outcome", "confirmed"));
        let confirmed = confirmed.expect("a point");
        assert!(has(&confirmed.attributes, "tenant", "acme"));
        assert_eq!((confirmed.value, confirmed.start_time_unix_nano), (Some(number_data_point::Value::AsInt(7)), 1));

        let Some(Data::Histogram(confirm)) = data("warrengate_confirm_duration_seconds") else { panic!("{all:?}") };
        let point = &confirm.data_points[0];
        assert_eq!((point.count, point.bucket_counts.iter().sum::<u64>()), (2, 2));
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        assert_eq!(point.bucket_counts.last(), Some(&1), "the hour is beyond every bound");
        assert!(point.sum.is_some_and(|sum| (sum - 3_600.001_5).abs() < 1e-6), "{point:?}");
        assert_eq!(point.exemplars[0].trace_id[..2], [0x0a, 0xf7]);

        let Some(Data::Gauge(_)) = data("warrengate_open_streams") else { panic!("a gauge: {all:?}") };
        // Both outputs have the same metrics; those of the page without samples are not exported.
        let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let with_samples: Vec<_> = families
            .filter(|family| page.lines().any(|line| line.starts_with(family) && !line.starts_with('#')))
            .collect();
        let exported: Vec<_> = all.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(exported, with_samples);
    }
}
