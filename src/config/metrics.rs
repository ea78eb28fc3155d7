//! Where metrics go beside the page at `/metrics`: nowhere, unless somebody says so. As for traces, keys of `[telemetry]` and
//! the standard `OTEL_*` variables enter, and the more particular counts.

use std::time::Duration;

use super::{
    source::Source,
    traces::{OtlpProtocol, is_on, protocol, url},
};

/// Where metrics go by OTLP.
#[derive(Debug, Clone)]
pub struct MetricsConfig {
    /// The collector's address; none (the default): they are at `/metrics` alone. For HTTP with its path.
    pub endpoint: Option<String>,
    /// How they travel. Default: as traces do.
    pub protocol: OtlpProtocol,
    /// How long one export may take. Default 10 s.
    pub timeout: Duration,
    /// How often they go. Default 1 min.
    pub interval: Duration,
}

pub(super) fn read(source: &mut Source, of_traces: OtlpProtocol, timeout: Duration) -> MetricsConfig {
    let second = Duration::from_secs(1);
    let protocol = protocol(source, "telemetry.otlp_metrics_protocol", of_traces);
    let exact = url(source, "telemetry.otlp_metrics_endpoint");
    let base = url(source, "telemetry.otlp_endpoint");
    // An address for traces does not mean metrics; one for metrics does.
    let is_on = is_on(source, "telemetry.metrics_exporter", exact.is_some());
    let endpoint = match (exact, protocol) {
        (Some(exact), _) => exact,
        (None, OtlpProtocol::Grpc) => base.unwrap_or_else(|| "http://127.0.0.1:4317".to_owned()),
        (None, OtlpProtocol::Http) => {
            let base = base.unwrap_or_else(|| "http://127.0.0.1:4318".to_owned());
            format!("{}/v1/metrics", base.trim_end_matches('/'))
        }
    };
    MetricsConfig {
        endpoint: is_on.then_some(endpoint),
        protocol,
        timeout: source.duration("telemetry.otlp_metrics_timeout", timeout, second / 100, 60 * second),
        interval: source.duration("telemetry.metrics_interval", 60 * second, second / 100, 3_600 * second),
    }
}

impl Default for MetricsConfig {
    /// Nowhere.
    fn default() -> Self {
        read(&mut Source::default(), OtlpProtocol::Grpc, Duration::from_secs(10))
    }
}
