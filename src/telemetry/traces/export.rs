//! Export of spans to the collector. Ended spans wait in a bounded queue, and a thread of its own sends them in
//! batches. Ending a span never waits: spans that exceed the queue's capacity, or their tenant's share of it, are dropped
//! and counted. One line is logged when the collector stops accepting traces, and one when it accepts them again.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
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
    let waiting = Arc::new(Waiting::new(config.queue));
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
    Ok(Bounded { inner, waiting, dropped })
}

fn exporter(config: &TracesConfig, endpoint: &str) -> Result<OtlpExporter, ExporterBuildError> {
    let builder = OtlpExporter::builder();
    match config.protocol {
        OtlpProtocol::Grpc => builder.with_tonic().with_endpoint(endpoint).with_timeout(config.timeout).build(),
        OtlpProtocol::Http => builder.with_http().with_endpoint(endpoint).with_timeout(config.timeout).build(),
    }
}

/// The spans that wait for their export, in all and by tenant.
#[derive(Debug)]
struct Waiting {
    capacity: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_tenant: HashMap<String, usize>,
}

impl Waiting {
    fn new(capacity: usize) -> Self {
        Self { capacity, counts: Mutex::default() }
    }

    /// Counts a span if there is capacity. A tenant has at most as many spans as are still free, so that one whose callers
    /// sample everything leaves half of the queue to the others.
    fn add(&self, span: &SpanData) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.capacity.saturating_sub(counts.total);
        let Some(tenant) = tenant(span) else {
            counts.total += usize::from(free > 0);
            return free > 0;
        };
        let own = counts.by_tenant.get(&*tenant).copied().unwrap_or_default();
        if own >= free {
            return false;
        }
        counts.total += 1;
        match counts.by_tenant.get_mut(&*tenant) {
            Some(own) => *own += 1,
            None => drop(counts.by_tenant.insert(tenant.into_owned(), 1)),
        }
        true
    }

    /// Removes the spans of a batch; shutdown may have reset the counts before.
    fn remove(&self, tenants: HashMap<Option<String>, usize>) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (tenant, spans) in tenants {
            counts.total = counts.total.saturating_sub(spans);
            if let Some(tenant) = tenant
                && let Some(own) = counts.by_tenant.get_mut(&tenant)
            {
                *own = own.saturating_sub(spans);
                if *own == 0 {
                    counts.by_tenant.remove(&tenant);
                }
            }
        }
    }

    /// Resets the counts and returns the total.
    fn take(&self) -> usize {
        std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner)).total
    }
}

/// The tenant of a span, if it has one.
fn tenant(span: &SpanData) -> Option<Cow<'_, str>> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key.as_str() == super::TENANT)?;
    Some(attribute.value.as_str())
}

/// The library's processor behind a counter of waiting spans. The library drops spans silently, so it is never given
/// more than its queue holds.
#[derive(Debug)]
pub(super) struct Bounded {
    inner: BatchSpanProcessor,
    waiting: Arc<Waiting>,
    dropped: Dropped,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if self.waiting.add(&span) {
            self.inner.on_end(span);
        } else {
            self.dropped.add(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let done = self.inner.shutdown_with_timeout(timeout);
        // The remaining spans will not be sent any more.
        self.dropped.add(self.waiting.take());
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
    waiting: Arc<Waiting>,
    dropped: Dropped,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let mut tenants: HashMap<Option<String>, usize> = HashMap::new();
        for span in &batch {
            *tenants.entry(tenant(span).map(Cow::into_owned)).or_default() += 1;
        }
        let done = self.inner.export(batch).await;
        // The spans are in memory until here.
        self.waiting.remove(tenants);
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
    use std::sync::atomic::AtomicUsize;

    use opentelemetry::{
        KeyValue,
        trace::{Span as _, Tracer as _, TracerProvider as _},
    };
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

    fn counted(inner: Collector, dropped: &Dropped, waiting: &Arc<Waiting>) -> Counted<Collector> {
        let (endpoint, failing) = ("http://collector".to_owned(), AtomicBool::new(false));
        Counted { inner, endpoint, waiting: Arc::clone(waiting), dropped: dropped.clone(), failing }
    }

    #[tokio::test]
    async fn an_unavailable_collector_is_logged_once_and_its_return_once() {
        let (collector, dropped, lines) = (Collector::default(), Dropped::default(), Lines::default());
        let exporter = counted(collector.clone(), &dropped, &Arc::new(Waiting::new(8)));
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

    /// A provider whose collector is down and whose queue holds eight spans, which are exported at its shutdown.
    fn provider(collector: &Collector, dropped: &Dropped) -> SdkTracerProvider {
        let waiting = Arc::new(Waiting::new(8));
        let batch = BatchConfigBuilder::default()
            .with_max_queue_size(8)
            .with_max_export_batch_size(8)
            .with_scheduled_delay(Duration::from_secs(3600))
            .build();
        collector.is_down.store(true, Ordering::Relaxed);
        let exporter = counted(collector.clone(), dropped, &waiting);
        let inner = BatchSpanProcessor::builder(exporter).with_batch_config(batch).build();
        let bounded = Bounded { inner, waiting, dropped: dropped.clone() };
        SdkTracerProvider::builder().with_span_processor(bounded).build()
    }

    #[test]
    fn a_tenant_leaves_half_of_the_queue_to_others() {
        let (collector, dropped) = (Collector::default(), Dropped::default());
        // The library exports before its queue is full, so that the counts are tested directly.
        let provider = provider(&collector, &dropped);
        let (tracer, waiting) = (provider.tracer("test"), Waiting::new(8));
        let accepted = |tenant: Option<&'static str>, spans: usize| {
            let span = |_| {
                let mut span = tracer.start("span");
                if let Some(tenant) = tenant {
                    span.set_attribute(KeyValue::new(super::super::TENANT, tenant));
                }
                waiting.add(&span.exported_data().expect("recorded"))
            };
            (0..spans).map(span).filter(|accepted| *accepted).count()
        };
        assert_eq!(accepted(Some("acme"), 100), 4);
        assert_eq!(accepted(Some("globex"), 100), 2);
        assert_eq!(accepted(None, 100), 2);
        waiting.remove(HashMap::from([(Some("acme".to_owned()), 4), (None, 1)]));
        assert_eq!(accepted(Some("acme"), 100), 3);
        assert_eq!(waiting.take(), 6);
    }

    #[test]
    fn every_span_beyond_the_capacity_is_counted() {
        let (collector, dropped) = (Collector::default(), Dropped::default());
        let provider = provider(&collector, &dropped);
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
