//! A real OTLP receiver in the test's process: OpenTelemetry's own gRPC service, keeping what it is sent. With a Jaeger beside
//! the tests it hands on everything, and what a test looks at is compared with what Jaeger shows.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::{jaeger::Jaeger, wait::within};

/// Whoever sends spans here finds them again.
pub struct Collector {
    pub address: SocketAddr,
    kept: Kept,
}

#[derive(Clone)]
struct Kept {
    spans: Arc<Mutex<Vec<Seen>>>,
    count: Arc<watch::Sender<usize>>,
    jaeger: Arc<Option<Jaeger>>,
}

/// A span, made readable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub service: String,
    pub name: String,
    pub kind: SpanKind,
    pub trace: String,
    pub id: String,
    pub parent: String,
    /// Span ids.
    pub links: Vec<String>,
    pub attributes: HashMap<String, String>,
    pub events: Vec<String>,
    pub failed: bool,
    pub status: String,
    pub start: u64,
}

impl Seen {
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

impl Collector {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let kept =
            Kept { spans: Arc::default(), count: Arc::new(watch::channel(0).0), jaeger: Arc::new(Jaeger::find()) };
        let service = TraceServiceServer::new(kept.clone());
        let serving = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, kept }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans of a trace in the order of their beginning, when there are so many.
    pub async fn trace(&self, id: &str, spans: usize) -> Vec<Seen> {
        let what = format!("{spans} spans of trace {id}");
        let found = self.spans(&what, |span| span.trace == id, spans).await;
        assert_eq!(found.len(), spans, "{found:#?}");
        found
    }

    /// All spans that the filter names, when there are at least so many.
    pub async fn spans(&self, what: &str, filter: impl Fn(&Seen) -> bool, least: usize) -> Vec<Seen> {
        let mut count = self.kept.count.subscribe();
        let waiting = async {
            loop {
                let mut found = self.seen();
                found.retain(&filter);
                if found.len() >= least {
                    found.sort_by_key(|span| span.start);
                    return found;
                }
                count.changed().await.unwrap();
            }
        };
        let Ok(found) = tokio::time::timeout(super::wait::DEADLINE, waiting).await else {
            panic!("{what}: not there; seen:\n{:#?}", self.seen());
        };
        if let Some(jaeger) = &*self.kept.jaeger {
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

    pub fn seen(&self) -> Vec<Seen> {
        self.kept.spans.lock().unwrap().clone()
    }

    /// Waits until the exporter has sent what it had, so that nothing more can come of what is over.
    pub async fn is_quiet_after(&self, marker: impl Future<Output = String>) {
        let trace = within("a marker", marker).await;
        self.spans("the marker's spans", |span| span.trace == trace, 1).await;
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let request = request.into_inner();
        if let Some(jaeger) = &*self.jaeger {
            jaeger.hand_on(request.clone()).await;
        }
        let mut seen = Vec::new();
        for resource in request.resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let service = texts(attributes).remove("service.name").unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                seen.push(read(service.clone(), span));
            }
        }
        let mut spans = self.spans.lock().unwrap();
        spans.extend(seen);
        self.count.send_replace(spans.len());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn read(service: String, span: Span) -> Seen {
    let status = span.status.clone().unwrap_or_default();
    Seen {
        service,
        kind: span.kind(),
        name: span.name,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
        attributes: texts(span.attributes),
        events: span.events.into_iter().map(|event| event.name).collect(),
        failed: status.code() == StatusCode::Error,
        status: status.message,
        start: span.start_time_unix_nano,
    }
}

fn texts(attributes: Vec<KeyValue>) -> HashMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(int)) => int.to_string(),
        Some(Value::BoolValue(bool)) => bool.to_string(),
        Some(Value::DoubleValue(double)) => double.to_string(),
        other => format!("{other:?}"),
    };
    attributes.into_iter().map(|attribute| (attribute.key, text(attribute.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
