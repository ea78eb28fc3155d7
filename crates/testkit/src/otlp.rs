//! An OTLP collector in the test's own process: it keeps the spans that it receives, or only counts them.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_client::TraceServiceClient,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span as WireSpan, status::StatusCode},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status};

pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

/// A span in a readable form: ids in hexadecimal, attributes as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The resource's `service.name`.
    pub service: String,
    /// The span's name.
    pub name: String,
    /// The span's kind.
    pub kind: SpanKind,
    /// The trace's id.
    pub trace: String,
    /// The span's id.
    pub id: String,
    /// The parent span's id; empty for a root span.
    pub parent: String,
    /// The ids of the linked spans.
    pub links: Vec<String>,
    /// Attributes, each value as text.
    pub attributes: HashMap<String, String>,
    /// The names of its events.
    pub events: Vec<String>,
    /// Whether its status is an error.
    pub failed: bool,
    /// The status message.
    pub status: String,
    /// When it began, in nanoseconds since 1970.
    pub start: u64,
}

impl Span {
    /// An attribute; empty when it is not set.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// A running collector; dropping it ends it.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    received: Received,
    _server: AbortOnDropHandle<()>,
}

#[derive(Debug, Clone)]
struct Received {
    spans: Arc<Mutex<Vec<Span>>>,
    count: Arc<AtomicU64>,
    changed: Arc<watch::Sender<u64>>,
    keep: bool,
    forward_to: Option<Arc<str>>,
}

impl Collector {
    /// Starts a collector that keeps what it receives.
    ///
    /// # Panics
    /// When no port can be opened.
    pub async fn start() -> Self {
        Self::start_with(true, None).await
    }

    /// Starts a collector that also sends everything to another one, by OTLP over gRPC.
    ///
    /// # Panics
    /// When no port can be opened.
    pub async fn forwarding_to(endpoint: &str) -> Self {
        Self::start_with(true, Some(endpoint.into())).await
    }

    /// Starts a collector that counts spans and keeps none.
    ///
    /// # Panics
    /// When no port can be opened.
    pub async fn counting() -> Self {
        Self::start_with(false, None).await
    }

    async fn start_with(keep: bool, forward_to: Option<Arc<str>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let received = Received {
            spans: Arc::default(),
            count: Arc::default(),
            changed: Arc::new(watch::channel(0).0),
            keep,
            forward_to,
        };
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(received.clone()));
        let server = AbortOnDropHandle::new(tokio::spawn(async move {
            // It runs until its task is aborted.
            let _ = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
        }));
        Self { address, received, _server: server }
    }

    /// Its address, for OTLP over gRPC.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many spans have arrived.
    pub fn count(&self) -> u64 {
        self.received.count.load(Relaxed)
    }

    /// All spans kept so far.
    pub fn spans(&self) -> Vec<Span> {
        self.received.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spans that match, in the order in which they began, as soon as there are `least` of them; after the
    /// deadline, all spans that were received, as an error.
    ///
    /// # Errors
    /// When the deadline passes first.
    pub async fn wait_for(
        &self,
        matches: impl Fn(&Span) -> bool,
        least: usize,
        deadline: Duration,
    ) -> Result<Vec<Span>, Vec<Span>> {
        let mut changed = self.received.changed.subscribe();
        let waiting = async {
            loop {
                let mut found = self.spans();
                found.retain(&matches);
                if found.len() >= least {
                    found.sort_by_key(|span| span.start);
                    return found;
                }
                if changed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(deadline, waiting).await.map_err(|_| self.spans())
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let request = request.into_inner();
        if let Some(endpoint) = &self.forward_to {
            let other = TraceServiceClient::connect(endpoint.to_string()).await;
            other.map_err(|error| Status::unavailable(error.to_string()))?.export(request.clone()).await?;
        }
        let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        let arrived = scopes.map(|scope| scope.spans.len() as u64).sum::<u64>();
        if self.keep {
            let mut readable = Vec::new();
            for resource in request.resource_spans {
                let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
                let service = texts(attributes).remove("service.name").unwrap_or_default();
                for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    readable.push(read(service.clone(), span));
                }
            }
            self.spans.lock().unwrap_or_else(PoisonError::into_inner).extend(readable);
        }
        let count = self.count.fetch_add(arrived, Relaxed) + arrived;
        self.changed.send_replace(count);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn read(service: String, span: WireSpan) -> Span {
    let status = span.status.clone().unwrap_or_default();
    Span {
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

/// A server that accepts connections and never answers; dropping it ends it.
#[derive(Debug)]
pub struct SilentServer {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl SilentServer {
    /// # Panics
    /// When no port can be opened.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                open.push(connection);
            }
        }));
        Self { address, _task: task }
    }

    /// Its address as a URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}
