//! Logs to standard error, traces to an OTLP collector. Whatever the filter says, what could print a message body or a
//! header stays silent.

use std::{io::IsTerminal as _, time::Duration};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Level, Metadata, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{Targets, filter_fn},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use super::Error;
use crate::config::{LogFormat, TelemetryConfig};

/// How long ending waits for the collector.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Flushes traces when it is dropped.
#[must_use = "traces are lost when the guard is dropped early"]
#[derive(Debug)]
pub struct TelemetryGuard(Option<SdkTracerProvider>);

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take() {
            // A collector that is away must not keep the process; its loss is not worth an error.
            let _ = provider.shutdown_with_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// Sets up logs, and traces when there is an endpoint for them. Once a process, inside a tokio runtime.
///
/// # Errors
/// When the filter or the endpoint is none, or logging was set up before.
pub fn init(config: &TelemetryConfig) -> Result<TelemetryGuard, Error> {
    let filter = EnvFilter::builder().parse(&config.log).map_err(Error::Filter)?;
    let is_human = match config.log_format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if is_human {
        lines.with_ansi(std::io::stderr().is_terminal()).boxed()
    } else {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    };
    let provider =
        config.otlp_endpoint.as_deref().map(|endpoint| provider(endpoint, config.sample_ratio)).transpose()?;
    let spans = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("warrengate"))
            // Our own spans only, and those whatever the log's filter says.
            .with_filter(Targets::new().with_target("warrengate", LevelFilter::INFO))
    });
    tracing_subscriber::registry()
        .with(filter_fn(is_harmless))
        .with(lines.with_filter(filter))
        .with(spans)
        .try_init()
        .map_err(Error::AlreadySet)?;
    Ok(TelemetryGuard(provider))
}

/// Not: lapin's warning on each returned message, which holds its body; its errors on each closed channel, which any tenant
/// can cause and our own lines tell with the tenant; and other crates' TRACE, which shows frames
/// (lapin), headers (h2) and addresses with passwords (amq-protocol).
fn is_harmless(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let is_ours = target == "warrengate" || target.starts_with("warrengate::");
    is_ours || (*metadata.level() != Level::TRACE && !matches!(target, "lapin::returned_messages" | "lapin::channel"))
}

fn provider(endpoint: &str, sample_ratio: f64) -> Result<SdkTracerProvider, Error> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(Error::Exporter)?;
    let resource = Resource::builder()
        .with_service_name("warrengate")
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(SdkTracerProvider::builder()
        // A bounded queue on a thread of its own: a collector that is away costs spans, not messages.
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample_ratio))))
        .with_resource(resource)
        .build())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{debug, trace, warn};

    use super::{super::TraceContext, *};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("unpoisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bodies_stay_silent_whatever_the_filter_says() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let filter = EnvFilter::builder().parse("trace,lapin::returned_messages=trace").expect("a filter");
        let subscriber = tracing_subscriber::registry().with(filter_fn(is_harmless)).with(lines.with_filter(filter));
        tracing::subscriber::with_default(subscriber, || {
            warn!(target: "lapin::returned_messages", "body-1");
            trace!(target: "lapin::channels", "body-2");
            trace!(target: "warrengatex", "body-3");
            debug!(target: "lapin::channels", "shown-1");
            trace!(target: "warrengate::stream", "shown-2");
        });
        let text = String::from_utf8(buffer.0.lock().expect("unpoisoned").clone()).expect("text");
        assert!(!text.contains("body-"), "{text}");
        assert!(text.contains("shown-1") && text.contains("shown-2"), "{text}");
    }

    #[tokio::test]
    async fn a_span_continues_the_trace_that_it_was_given_and_a_collector_that_is_away_keeps_nobody() {
        // Port 1 is nobody's: nothing connects, and nothing is sampled that could wait for it.
        let provider = provider("http://127.0.0.1:1", 0.0).expect("a provider");
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("warrengate"));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
            let parent = TraceContext::from_pair(parent, None).expect("valid");
            let span = tracing::info_span!("publish");
            parent.set_as_parent_of(&span);
            let own = TraceContext::of(&span).expect("a context");
            assert_eq!(own.trace_id(), parent.trace_id());
            assert_ne!(own.traceparent(), parent.traceparent());
            assert!(!own.is_sampled());
        });
        drop(TelemetryGuard(Some(provider)));
    }
}
