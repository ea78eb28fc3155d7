//! Settings for the export of metrics by OTLP, in addition to the page at `/metrics`. It is off by default. Keys of
//! `[telemetry]` and the standard `OTEL_*` variables apply, in the same precedence as for traces.

use std::time::Duration;

use super::{
    source::Source,
    traces::{OtlpProtocol, is_exported, protocol, url},
};

/// The destination of the metrics export by OTLP.
#[derive(Debug, Clone)]
pub struct MetricsConfig {
    /// The collector's address, with its path for HTTP; without one (the default), metrics are at `/metrics` only.
    pub endpoint: Option<String>,
    /// The protocol. Default: the same as for traces.
    pub protocol: OtlpProtocol,
    /// How long one export may take. Default 10 s.
    pub timeout: Duration,
    /// How often they are exported. Default 1 min.
    pub interval: Duration,
}

pub(super) fn read(source: &mut Source, of_traces: OtlpProtocol, timeout: Duration) -> MetricsConfig {
    let second = Duration::from_secs(1);
    let protocol = protocol(source, "telemetry.otlp_metrics_protocol", of_traces);
    let exact = url(source, "telemetry.otlp_metrics_endpoint");
    let base = url(source, "telemetry.otlp_endpoint");
    // An address for all signals does not enable the export of metrics, but one for metrics does.
    let is_exported = is_exported(source, "telemetry.metrics_exporter", exact.is_some());
    let endpoint = match (exact, protocol) {
        (Some(exact), _) => exact,
        (None, OtlpProtocol::Grpc) => base.unwrap_or_else(|| "http://127.0.0.1:4317".to_owned()),
        (None, OtlpProtocol::Http) => {
            let base = base.unwrap_or_else(|| "http://127.0.0.1:4318".to_owned());
            format!("{}/v1/metrics", base.trim_end_matches('/'))
        }
    };
    MetricsConfig {
        endpoint: is_exported.then_some(endpoint),
        protocol,
        timeout: source.duration("telemetry.otlp_metrics_timeout", timeout, second / 100, 60 * second),
        interval: source.duration("telemetry.metrics_interval", 60 * second, second / 100, 3_600 * second),
    }
}

impl Default for MetricsConfig {
    /// Without export.
    fn default() -> Self {
        read(&mut Source::default(), OtlpProtocol::Grpc, Duration::from_secs(10))
    }
}
