//! Traces, exported by OTLP from a thread of its own. A call gets a [`Call`], a stream a [`MessageTracer`]. Nothing is
//! global: each gateway has its own traces, flushed when it stops. Sampling is decided before a span is created, so an
//! unsampled trace costs only a comparison.

mod call;
mod deliveries;
mod export;
mod ids;
mod message;
mod sending;

pub use self::{
    call::{Call, CallKind},
    deliveries::{DeliverySpans, Settling},
    message::MessageTracer,
    sending::Sending,
};

use std::{sync::Arc, time::Duration};

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanBuilder, SpanContext, SpanKind, TraceContextExt as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span},
};

use self::export::Dropped;
use super::{Error, Settlement};
use crate::{
    config::TracesConfig,
    names::{ClientId, TenantId},
    pb::Outcome,
};

/// How long a stopping gateway waits for the collector.
const FLUSH: Duration = Duration::from_secs(5);

// Attributes of the gateway, in addition to OpenTelemetry's.
const TENANT: &str = "warrengate.tenant";
const CLIENT: &str = "warrengate.client";
const OUTCOME: &str = "warrengate.outcome";
const RULE: &str = "warrengate.rule";
const REASON: &str = "warrengate.reason";
const QUEUE: &str = "warrengate.queue";
const ATTEMPT: &str = "warrengate.attempt";
const REDELIVERED: &str = "warrengate.redelivered";
const OFFSET: &str = "warrengate.stream_offset";
const SETTLEMENT: &str = "warrengate.settlement";
const RETRY_DELAY: &str = "warrengate.retry_delay_ms";
const DEAD_LETTER_REASON: &str = "warrengate.dead_letter_reason";
const REDRIVES: &str = "warrengate.redrives";
const LATENCY: &str = "warrengate.latency_ms";

const fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Unspecified => "unspecified",
        Outcome::Confirmed => "confirmed",
        Outcome::Unroutable => "unroutable",
        Outcome::Rejected => "rejected",
        Outcome::Denied => "denied",
        Outcome::Throttled => "throttled",
        Outcome::Unknown => "unknown",
    }
}

/// The name of the settlement's operation.
const fn settlement(settlement: Settlement) -> &'static str {
    match settlement {
        Settlement::Ack => "ack",
        Settlement::Retry => "retry",
        Settlement::DeadLetter => "dead-letter",
        Settlement::Drop => "drop",
        Settlement::TakenBack => "take-back",
    }
}

/// A gateway's traces. Cloning is cheap.
#[derive(Clone)]
pub struct Traces(Arc<Inner>);

struct Inner {
    config: TracesConfig,
    exporting: Option<Exporting>,
    dropped: Dropped,
}

struct Exporting {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl std::fmt::Debug for Traces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Traces(..)")
    }
}

impl Traces {
    /// Starts exporting if an endpoint is configured. Nothing is sent yet, and an unavailable collector is not an
    /// error. Must be called in a tokio runtime that runs at least as long as the traces.
    ///
    /// # Errors
    /// When the endpoint is invalid.
    pub fn start(config: &TracesConfig) -> Result<Self, Error> {
        let dropped = Dropped::default();
        let exporting = match &config.endpoint {
            None => None,
            Some(endpoint) => {
                let resource = resource(&config.service_name);
                let provider = SdkTracerProvider::builder()
                    .with_span_processor(export::processor(config, endpoint, dropped.clone())?)
                    // Sampling is decided before a span is created.
                    .with_sampler(Sampler::AlwaysOn)
                    .with_id_generator(ids::Ids::default())
                    .with_resource(resource)
                    .build();
                let tracer = provider.tracer("warrengate");
                Some(Exporting { provider, tracer })
            }
        };
        Ok(Self(Arc::new(Inner { config: config.clone(), exporting, dropped })))
    }

    /// The number of spans that did not reach the collector because the queue was full or an export failed.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.get()
    }

    /// The tracer of a stream's messages, obtained once per stream. The plan's sampling ratio has precedence over the
    /// configuration's.
    pub fn messages(
        &self,
        tenant: &TenantId,
        client: &ClientId,
        plan_ratio: Option<f64>,
        call: Option<&Call>,
    ) -> MessageTracer {
        let ratio = plan_ratio.unwrap_or_else(|| self.0.config.ratio_of(tenant));
        if let Some(call) = call {
            call.sample_at(ratio);
        }
        match &self.0.exporting {
            Some(exporting) => MessageTracer::new(exporting.tracer.clone(), ratio, tenant, client, call),
            // The caller's context is still passed on to the consumer.
            None => MessageTracer::without_spans(call),
        }
    }

    /// Sends the remaining spans, for at most 5 s.
    pub async fn shutdown(&self) {
        let Some(exporting) = &self.0.exporting else { return };
        let provider = exporting.provider.clone();
        // It blocks. An unavailable collector must not delay the gateway; lost spans are counted.
        let flushing = tokio::task::spawn_blocking(move || drop(provider.shutdown_with_timeout(FLUSH)));
        let _ = tokio::time::timeout(FLUSH, flushing).await;
    }

    fn tracer(&self) -> Option<&SdkTracer> {
        self.0.exporting.as_ref().map(|exporting| &exporting.tracer)
    }

    /// The sampling ratio of a call: its tenant's, or the default.
    fn ratio(&self, tenant: Option<&TenantId>) -> f64 {
        tenant.map_or(self.0.config.sample_ratio, |tenant| self.0.config.ratio_of(tenant))
    }
}

/// The resource attributes of this process, including `OTEL_RESOURCE_ATTRIBUTES`.
pub(super) fn resource(service_name: &str) -> Resource {
    Resource::builder()
        .with_service_name(service_name.to_owned())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Whether a trace that begins here is sampled.
fn is_new_trace_sampled(ratio: f64) -> bool {
    ratio > 0.0 && (ratio >= 1.0 || rand::random::<f64>() < ratio)
}

/// Starts a sampled span, in its parent's trace or in a new one.
fn start(
    tracer: &SdkTracer,
    name: String,
    kind: SpanKind,
    parent: Option<&SpanContext>,
    links: Vec<Link>,
    attributes: Vec<KeyValue>,
) -> Span {
    let mut builder = SpanBuilder::from_name(name).with_kind(kind);
    builder.links = (!links.is_empty()).then_some(links);
    builder.attributes = Some(attributes);
    let context = match parent {
        Some(parent) => Context::new().with_remote_span_context(parent.clone()),
        None => Context::new(),
    };
    tracer.build_with_context(builder, &context)
}
