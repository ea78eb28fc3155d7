//! The test kit's OTLP collector. When `./scripts/jaeger` runs the tests, spans also go to Jaeger, which must show the
//! same.

use super::{
    jaeger::Jaeger,
    wait::{DEADLINE, within},
};
pub use warrengate_testkit::otlp::{Span, SpanKind};

/// Keeps the spans that it receives.
pub struct Collector {
    inner: warrengate_testkit::otlp::Collector,
    jaeger: Option<Jaeger>,
}

impl Collector {
    pub async fn start() -> Self {
        let jaeger = Jaeger::find();
        let inner = match &jaeger {
            Some(jaeger) => warrengate_testkit::otlp::Collector::forwarding_to(&jaeger.otlp).await,
            None => warrengate_testkit::otlp::Collector::start().await,
        };
        Self { inner, jaeger }
    }

    pub fn endpoint(&self) -> String {
        self.inner.endpoint()
    }

    /// All spans of a trace in the order in which they began; fails unless there are exactly `spans`.
    pub async fn trace(&self, id: &str, spans: usize) -> Vec<Span> {
        let what = format!("{spans} spans of trace {id}");
        let found = self.spans(&what, |span| span.trace == id, spans).await;
        assert_eq!(found.len(), spans, "{found:#?}");
        found
    }

    /// All spans that match, as soon as there are at least `min`.
    pub async fn spans(&self, what: &str, matches: impl Fn(&Span) -> bool, min: usize) -> Vec<Span> {
        let found = match self.inner.wait_for(matches, min, DEADLINE).await {
            Ok(found) => found,
            Err(received) => panic!("{what}: not within {DEADLINE:?}; received:\n{received:#?}"),
        };
        if let Some(jaeger) = &self.jaeger {
            let mut rest = found.clone();
            while let Some(last) = rest.last() {
                let trace = last.trace.clone();
                let (of_it, others) = rest.into_iter().partition(|span| span.trace == trace);
                jaeger.shows(&of_it as &Vec<_>).await;
                rest = others;
            }
        }
        found
    }

    pub fn received(&self) -> Vec<Span> {
        self.inner.spans()
    }

    /// Waits until the exporter has sent everything that ended before the marker's trace.
    pub async fn is_quiet_after(&self, marker: impl Future<Output = String>) {
        let trace = within("a marker", marker).await;
        self.spans("the marker's spans", |span| span.trace == trace, 1).await;
    }
}
