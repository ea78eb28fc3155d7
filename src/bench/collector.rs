//! Where the gateway's spans go while it is measured: an OTLP collector that counts them and keeps nothing, or one that
//! takes connections and never says a word. It ends when it is dropped.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status};

use super::Error;

/// A collector on a free port of the loopback address.
pub(super) struct Collector {
    address: SocketAddr,
    spans: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

impl Collector {
    /// One that answers, or one that hangs.
    pub(super) async fn start(answers: bool) -> Result<Self, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(Error::Pipe)?;
        let address = listener.local_addr().map_err(Error::Pipe)?;
        let spans = Arc::new(AtomicU64::new(0));
        let counter = Counter(Arc::clone(&spans));
        let task = tokio::spawn(async move {
            if answers {
                let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(counter));
                // It ends with its task.
                let _ = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
            } else {
                let mut held = Vec::new();
                while let Ok((connection, _)) = listener.accept().await {
                    held.push(connection);
                }
            }
        });
        Ok(Self { address, spans, _task: AbortOnDropHandle::new(task) })
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Spans received so far.
    pub(super) fn spans(&self) -> u64 {
        self.spans.load(Relaxed)
    }
}

struct Counter(Arc<AtomicU64>);

#[tonic::async_trait]
impl TraceService for Counter {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.get_ref().resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        self.0.fetch_add(scopes.map(|scope| scope.spans.len() as u64).sum(), Relaxed);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
