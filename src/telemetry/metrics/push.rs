//! The export of metrics to a collector, if one is configured. All metrics are sent at every interval, one export at a
//! time, and nothing is queued. One log line reports that the collector is unreachable, and one that it is reachable
//! again.

use std::{
    future::Future,
    time::{Duration, SystemTime},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
    resource::v1::Resource,
};
use prost::Message as _;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tonic::{
    metadata::{AsciiMetadataKey, AsciiMetadataValue},
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use super::{
    Metrics,
    otlp::{self, Period, attribute, nanoseconds},
};
use crate::{
    config::{MetricsConfig, OtlpProtocol},
    telemetry::Error,
};

/// How long a stopping gateway waits for the collector.
const FINAL_EXPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// The destination of metrics.
pub struct MetricsPush {
    metrics: Metrics,
    transport: Transport,
    headers: Vec<(String, String)>,
    resource: Resource,
    endpoint: String,
    timeout: Duration,
    interval: Duration,
    started: u64,
    failing: bool,
}

enum Transport {
    Grpc(Box<MetricsServiceClient<Channel>>),
    Http(reqwest::Client),
}

impl std::fmt::Debug for MetricsPush {
    /// Headers may contain a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricsPush").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl MetricsPush {
    /// `None` without an endpoint. Nothing is sent yet, and an unavailable collector is not an error.
    ///
    /// # Errors
    /// When the endpoint is invalid.
    pub fn new(metrics: Metrics, config: &MetricsConfig, service_name: &str) -> Result<Option<Self>, Error> {
        let Some(endpoint) = config.endpoint.clone() else { return Ok(None) };
        let transport = match config.protocol {
            OtlpProtocol::Grpc => {
                let mut channel = Endpoint::from_shared(endpoint.clone())?.connect_timeout(config.timeout);
                if endpoint.starts_with("https://") {
                    channel = channel.tls_config(ClientTlsConfig::new().with_enabled_roots())?;
                }
                Transport::Grpc(Box::new(MetricsServiceClient::new(channel.connect_lazy())))
            }
            OtlpProtocol::Http => Transport::Http(reqwest::Client::new()),
        };
        Ok(Some(Self {
            metrics,
            transport,
            headers: headers(),
            resource: resource(service_name),
            endpoint,
            timeout: config.timeout,
            interval: config.interval,
            started: nanoseconds(SystemTime::now()),
            failing: false,
        }))
    }

    /// Sends all metrics at every interval, and once more at the end.
    pub async fn run(mut self, end: impl Future<Output = ()>) {
        tokio::pin!(end);
        let mut ticks = interval_at(Instant::now() + self.interval, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = &mut end => break,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                () = &mut end => break,
                () = self.send(self.timeout) => {}
            }
        }
        self.send(self.timeout.min(FINAL_EXPORT_TIMEOUT)).await;
    }

    async fn send(&mut self, limit: Duration) {
        let period = Period { started: self.started, now: nanoseconds(SystemTime::now()) };
        let request = otlp::request(self.metrics.otlp(period), self.resource.clone());
        let sent = match timeout(limit, self.export(request)).await {
            Ok(sent) => sent,
            Err(_) => Err("it did not respond in time".to_owned()),
        };
        match sent {
            Ok(()) if std::mem::take(&mut self.failing) => {
                tracing::info!(endpoint = self.endpoint, "metrics are exported again");
            }
            Ok(()) => {}
            Err(error) if !std::mem::replace(&mut self.failing, true) => {
                tracing::warn!(
                    endpoint = self.endpoint,
                    error,
                    "cannot export metrics; they remain available at /metrics, and the next export contains all of them"
                );
            }
            Err(_) => {}
        }
    }

    async fn export(&mut self, request: ExportMetricsServiceRequest) -> Result<(), String> {
        match &mut self.transport {
            Transport::Grpc(client) => {
                let mut request = tonic::Request::new(request);
                for (name, value) in &self.headers {
                    let name = AsciiMetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes());
                    if let (Ok(name), Ok(value)) = (name, AsciiMetadataValue::try_from(value)) {
                        request.metadata_mut().insert(name, value);
                    }
                }
                client
                    .export(request)
                    .await
                    .map(drop)
                    .map_err(|status| format!("{:?}: {}", status.code(), status.message()))
            }
            Transport::Http(client) => {
                let mut post = client.post(&self.endpoint).body(request.encode_to_vec());
                post = post.header("content-type", "application/x-protobuf");
                for (name, value) in &self.headers {
                    post = post.header(name, value);
                }
                let answer = post.send().await.and_then(reqwest::Response::error_for_status);
                answer.map(drop).map_err(|error| error.to_string())
            }
        }
    }
}

/// The resource attributes: those of traces, and the instance of the gateway.
fn resource(service_name: &str) -> Resource {
    let attributes = crate::telemetry::traces::resource(service_name);
    let attributes = attributes.iter().map(|(key, value)| attribute(key.to_string(), value.to_string()));
    let instance = attribute("service.instance.id".to_owned(), uuid::Uuid::new_v4().to_string());
    Resource { attributes: attributes.chain([instance]).collect(), ..Resource::default() }
}

/// OpenTelemetry's environment variable, `name=value,name=value`, percent-encoded. The exporter of traces reads it as
/// well.
fn headers() -> Vec<(String, String)> {
    let given = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let text = given("OTEL_EXPORTER_OTLP_METRICS_HEADERS").or_else(|| given("OTEL_EXPORTER_OTLP_HEADERS"));
    let decoded = |text: &str| percent_encoding::percent_decode_str(text.trim()).decode_utf8_lossy().into_owned();
    let text = text.unwrap_or_default();
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}
