//! Export of spans to the collector. Ended spans wait in a bounded queue, and a thread of its own sends them in
//! batches. Ending a span never waits: spans that exceed the queue's capacity are dropped and counted. One line is
//! logged when the collector stops accepting traces, and one when it accepts them again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry_otlp::{ExporterBuildError, SpanExporter as OtlpExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor},
};

use crate::{
    config::{OtlpProtocol, TracesConfig},
    telemetry::Error,
};

/// The number of lost spans.
#[derive(Debug, Clone, Default)]
pub(super) struct Dropped(Arc<AtomicU64>);

impl Dropped {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, spans: usize) {
        self.0.fetch_add(spans as u64, Ordering::Relaxed);
    }
}

/// # Errors
/// When the endpoint is invalid.
pub(super) fn processor(config: &TracesConfig, endpoint: &str, dropped: Dropped) -> Result<Bounded, Error> {
    let exporter = exporter(config, endpoint).map_err(Error::Exporter)?;
    let waiting = Arc::new(AtomicUsize::new(0));
    let counted = Counted {
        inner: exporter,
        endpoint: endpoint.to_owned(),
        waiting: Arc::clone(&waiting),
        dropped: dropped.clone(),
        failing: AtomicBool::new(false),
    };
    let batch = BatchConfigBuilder::default()
        .with_max_queue_size(config.queue)
        .with_max_export_batch_size(config.batch)
        .with_scheduled_delay(config.interval)
        .build();
    let inner = BatchSpanProcessor::builder(counted).with_batch_config(batch).build();
    Ok(Bounded { inner, capacity: config.queue, waiting, dropped })
}

fn exporter(config: &TracesConfig, endpoint: &str) -> Result<OtlpExporter, ExporterBuildError> {
    let builder = OtlpExporter::builder();
    match config.protocol {
        OtlpProtocol::Grpc => builder.with_tonic().with_endpoint(endpoint).with_timeout(config.timeout).build(),
        OtlpProtocol::Http => builder.with_http().with_endpoint(endpoint).with_timeout(config.timeout).build(),
    }
}

/// The library's processor behind a counter of waiting spans. The library drops spans silently, so it is never given
/// more than its queue holds.
#[derive(Debug)]
pub(super) struct Bounded {
    inner: BatchSpanProcessor,
    capacity: usize,
    waiting: Arc<AtomicUsize>,
    dropped: Dropped,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.capacity {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.dropped.add(1);
            return;
        }
        self.inner.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let done = self.inner.shutdown_with_timeout(timeout);
        // The remaining spans will not be sent any more.
        self.dropped.add(self.waiting.swap(0, Ordering::Relaxed));
        done
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// An exporter that counts lost spans.
#[derive(Debug)]
struct Counted<E> {
    inner: E,
    endpoint: String,
    waiting: Arc<AtomicUsize>,
    dropped: Dropped,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let done = self.inner.export(batch).await;
        // The spans are in memory until here; shutdown may have reset the counter meanwhile.
        let _ = self
            .waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| Some(waiting.saturating_sub(spans)));
        match &done {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!(endpoint = self.endpoint, dropped = self.dropped.get(), "traces are exported again");
                }
            }
            Err(error) => {
                self.dropped.add(spans);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        endpoint = self.endpoint,
                        %error,
                        "cannot export traces; they are dropped and counted until the collector accepts them"
                    );
                }
            }
        }
        done
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::{error::OTelSdkError, trace::SdkTracerProvider};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Collector {
        is_down: Arc<AtomicBool>,
        exports: Arc<AtomicUsize>,
    }

    impl SpanExporter for Collector {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            self.exports.fetch_add(1, Ordering::Relaxed);
            match self.is_down.load(Ordering::Relaxed) {
                true => Err(OTelSdkError::InternalFailure("unreachable".to_owned())),
                false => Ok(()),
            }
        }
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("unpoisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn counted(inner: Collector, dropped: &Dropped, waiting: &Arc<AtomicUsize>) -> Counted<Collector> {
        let (endpoint, failing) = ("http://collector".to_owned(), AtomicBool::new(false));
        Counted { inner, endpoint, waiting: Arc::clone(waiting), dropped: dropped.clone(), failing }
    }

    #[tokio::test]
    async fn an_unavailable_collector_is_logged_once_and_its_return_once() {
        let (collector, dropped, lines) = (Collector::default(), Dropped::default(), Lines::default());
        let exporter = counted(collector.clone(), &dropped, &Arc::default());
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        for is_down in [true, true, true, false, false] {
            collector.is_down.store(is_down, Ordering::Relaxed);
            let _ = exporter.export(Vec::new()).await;
        }
        let text = String::from_utf8(lines.0.lock().expect("unpoisoned").clone()).expect("text");
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("cannot export") && text.contains("exported again"), "{text}");
    }

    #[test]
    fn every_span_beyond_the_capacity_is_counted() {
        let (collector, dropped, waiting) = (Collector::default(), Dropped::default(), Arc::<AtomicUsize>::default());
        let batch = BatchConfigBuilder::default()
            .with_max_queue_size(8)
            .with_max_export_batch_size(8)
            .with_scheduled_delay(Duration::from_secs(3600))
            .build();
        collector.is_down.store(true, Ordering::Relaxed);
        let exporter = counted(collector.clone(), &dropped, &waiting);
        let inner = BatchSpanProcessor::builder(exporter).with_batch_config(batch).build();
        let bounded = Bounded { inner, capacity: 8, waiting, dropped: dropped.clone() };
        let provider = SdkTracerProvider::builder().with_span_processor(bounded).build();
        let tracer = provider.tracer("test");
        for _ in 0..1_000 {
            drop(tracer.start("span"));
        }
        let _ = provider.shutdown_with_timeout(Duration::from_secs(5));
        // No span was exported, so all of them are counted as dropped.
        assert_eq!(dropped.get(), 1_000);
        assert!(collector.exports.load(Ordering::Relaxed) >= 1);
    }
}
