//! Settings for the export of traces: keys of `[telemetry]` and OpenTelemetry's standard `OTEL_*` variables. The
//! gateway's own variables take precedence over the standard ones, and those over the file.

use std::{collections::HashMap, time::Duration};

use super::source::Source;
use crate::names::TenantId;

/// The protocol to the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// gRPC, usually on port 4317.
    Grpc,
    /// Protobuf over HTTP, usually on port 4318.
    Http,
}

impl std::fmt::Display for OtlpProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl OtlpProtocol {
    /// Its name in OpenTelemetry.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http/protobuf",
        }
    }
}

/// The destination and the sampling of traces.
#[derive(Debug, Clone)]
pub struct TracesConfig {
    /// The collector's address, with its path for HTTP; without one, traces are not exported.
    pub endpoint: Option<String>,
    /// The protocol. Default: gRPC.
    pub protocol: OtlpProtocol,
    /// How long one export may take. Default 10 s.
    pub timeout: Duration,
    /// The share of the traces started here that is sampled, 0 to 1. Default 0.1.
    pub sample_ratio: f64,
    /// The same for individual tenants.
    pub tenant_sample_ratios: HashMap<TenantId, f64>,
    /// The gateway's `service.name`. Default `warrengate`.
    pub service_name: String,
    /// The maximum number of spans that wait for the collector; more are dropped and counted. Default 16,384.
    pub queue: usize,
    /// The maximum number of spans in one export. Default 512.
    pub batch: usize,
    /// How often an incomplete batch is exported. Default 1 s.
    pub interval: Duration,
}

impl Default for TracesConfig {
    /// Without export.
    fn default() -> Self {
        read(&mut Source::default())
    }
}

impl TracesConfig {
    /// The sampling ratio of one tenant.
    pub fn ratio_of(&self, tenant: &TenantId) -> f64 {
        self.tenant_sample_ratios.get(tenant).copied().unwrap_or(self.sample_ratio)
    }
}

/// A protocol, or the default.
pub(super) fn protocol(source: &mut Source, key: &'static str, default: OtlpProtocol) -> OtlpProtocol {
    source.parsed(key, default, |text| match text {
        "grpc" => Ok(OtlpProtocol::Grpc),
        "http/protobuf" => Ok(OtlpProtocol::Http),
        _ => Err("must be \"grpc\" or \"http/protobuf\"".to_owned()),
    })
}

/// A collector's address.
pub(super) fn url(source: &mut Source, key: &'static str) -> Option<String> {
    let url = source.text(key)?;
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    if rest.is_none_or(|rest| rest.is_empty() || rest.contains(['@', ' '])) {
        source.error(key, None, "must be an address such as \"http://127.0.0.1:4317\", without user and password");
    }
    Some(url)
}

/// Whether a signal is exported at all.
pub(super) fn is_exported(source: &mut Source, key: &'static str, default: bool) -> bool {
    let name = |is_exported| if is_exported { "otlp" } else { "none" };
    let exporter = source.parsed(key, name(default), |text| {
        [name(true), name(false)]
            .into_iter()
            .find(|name| *name == text)
            .ok_or_else(|| "must be \"otlp\" or \"none\"".to_owned())
    });
    exporter == name(true)
}

pub(super) fn read(source: &mut Source) -> TracesConfig {
    let protocol = protocol(source, "telemetry.otlp_protocol", OtlpProtocol::Grpc);
    let base = url(source, "telemetry.otlp_endpoint");
    let endpoint = match (url(source, "telemetry.otlp_traces_endpoint"), base, protocol) {
        (Some(exact), ..) => Some(exact),
        (None, Some(base), OtlpProtocol::Http) => Some(format!("{}/v1/traces", base.trim_end_matches('/'))),
        (None, base, _) => base,
    };
    let is_exported = is_exported(source, "telemetry.traces_exporter", true);
    let endpoint = endpoint.filter(|_| is_exported);
    let queue = source.number("telemetry.span_queue", 16_384, 1, 1 << 20);
    let batch = source.number("telemetry.span_batch", 512, 1, 1 << 20).min(queue);
    let second = Duration::from_secs(1);
    TracesConfig {
        endpoint,
        protocol,
        timeout: source.duration("telemetry.otlp_timeout", 10 * second, second / 100, 60 * second),
        sample_ratio: source.ratio("telemetry.sample_ratio", 0.1),
        tenant_sample_ratios: tenants(source),
        service_name: source.text_or("telemetry.service_name", "warrengate"),
        queue: usize::try_from(queue).unwrap_or(usize::MAX),
        batch: usize::try_from(batch).unwrap_or(usize::MAX),
        interval: source.duration("telemetry.span_interval", second, second / 100, 60 * second),
    }
}

/// `["acme=1", "globex=0.01"]`.
fn tenants(source: &mut Source) -> HashMap<TenantId, f64> {
    const KEY: &str = "telemetry.tenant_sample_ratios";
    let mut ratios = HashMap::new();
    for text in source.list(KEY) {
        let parsed = text.split_once('=').and_then(|(tenant, ratio)| {
            let ratio: f64 = ratio.trim().parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))?;
            Some((TenantId::parse(tenant.trim()).ok()?, ratio))
        });
        match parsed {
            Some((tenant, ratio)) => drop(ratios.insert(tenant, ratio)),
            None => {
                source.error(KEY, Some(text), "must be tenants and ratios, for example [\"acme=1\", \"globex=0.01\"]")
            }
        }
    }
    ratios
}

/// The values of OpenTelemetry's standard variables under the gateway's keys, as (key, variable, value). A variable for
/// traces takes precedence over one for all signals. `OTEL_EXPORTER_OTLP_HEADERS`, `…_COMPRESSION` and
/// `OTEL_RESOURCE_ATTRIBUTES` are read by the exporter itself.
pub(super) fn standard(environment: &HashMap<String, String>) -> Vec<(&'static str, String, String)> {
    let given = |name: &str| environment.get(name).filter(|value| !value.is_empty()).cloned();
    let mut settings = Vec::new();
    let mut take = |key, names: &[&str], unit: &str| {
        if let Some((name, value)) = names.iter().find_map(|name| Some((*name, given(name)?))) {
            settings.push((key, name.to_owned(), format!("{value}{unit}")));
        }
    };
    take("telemetry.otlp_endpoint", &["OTEL_EXPORTER_OTLP_ENDPOINT"], "");
    take("telemetry.otlp_traces_endpoint", &["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"], "");
    take("telemetry.otlp_protocol", &["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"], "");
    take("telemetry.otlp_timeout", &["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"], "ms");
    take("telemetry.otlp_metrics_endpoint", &["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"], "");
    take("telemetry.otlp_metrics_protocol", &["OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"], "");
    take("telemetry.otlp_metrics_timeout", &["OTEL_EXPORTER_OTLP_METRICS_TIMEOUT"], "ms");
    take("telemetry.metrics_interval", &["OTEL_METRIC_EXPORT_INTERVAL"], "ms");
    take("telemetry.service_name", &["OTEL_SERVICE_NAME"], "");
    take("telemetry.span_queue", &["OTEL_BSP_MAX_QUEUE_SIZE"], "");
    take("telemetry.span_batch", &["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"], "");
    take("telemetry.span_interval", &["OTEL_BSP_SCHEDULE_DELAY"], "ms");
    let sampler = given("OTEL_TRACES_SAMPLER").unwrap_or_default();
    match sampler.strip_prefix("parentbased_").unwrap_or(&sampler) {
        "traceidratio" => take("telemetry.sample_ratio", &["OTEL_TRACES_SAMPLER_ARG"], ""),
        "always_on" => settings.push(("telemetry.sample_ratio", "OTEL_TRACES_SAMPLER".to_owned(), "1".to_owned())),
        "always_off" => settings.push(("telemetry.sample_ratio", "OTEL_TRACES_SAMPLER".to_owned(), "0".to_owned())),
        _ => {}
    }
    // Of the exporters that the specification lists, two apply here.
    let off = given("OTEL_SDK_DISABLED").filter(|text| text.eq_ignore_ascii_case("true"));
    for (key, name) in
        [("telemetry.traces_exporter", "OTEL_TRACES_EXPORTER"), ("telemetry.metrics_exporter", "OTEL_METRICS_EXPORTER")]
    {
        let list = given(name).unwrap_or_default();
        let contains = |word: &str| list.split(',').any(|each| each.trim().eq_ignore_ascii_case(word));
        if off.is_some() || contains("none") {
            settings.push((key, name.to_owned(), "none".to_owned()));
        } else if contains("otlp") {
            settings.push((key, name.to_owned(), "otlp".to_owned()));
        }
    }
    settings
}
