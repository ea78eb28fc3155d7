//! The layer that creates the [`Call`] of every request: its trace, its log span and its metrics.
//!
//! The response headers and the details of an error contain the trace id, and the call's span ends with the last byte.
//! Status and error are read from the gRPC response, so that services need not report them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::connection::{Peer, RunningCall};
use crate::{
    error,
    telemetry::{Call, ProcessMetrics, RpcMetrics, Traces},
};

/// Starts a [`Call`] for every request and records its end.
#[derive(Clone)]
pub(super) struct TraceLayer {
    pub(super) traces: Traces,
    pub(super) metrics: Arc<ProcessMetrics>,
}

impl<S> Layer<S> for TraceLayer {
    type Service = TraceService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        TraceService { around: self.clone(), inner }
    }
}

/// See [`TraceLayer`].
#[derive(Clone)]
pub(super) struct TraceService<S> {
    around: TraceLayer,
    inner: S,
}

type Answering<E> = Pin<Box<dyn Future<Output = Result<Response<tonic::body::Body>, E>> + Send>>;

impl<S, A, B> Service<Request<A>> for TraceService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<tonic::body::Body>;
    type Error = S::Error;
    type Future = Answering<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let connection = request.extensions().get::<Peer>();
        let on_connection = connection.map(|connection| connection.activity.begin());
        let peer = connection.map(|connection| connection.address);
        let call = Call::begin(&self.around.traces, request.uri().path(), request.headers(), peer);
        let metrics = Arc::clone(self.around.metrics.rpc(request.uri().path()));
        let mut running = Running {
            call: call.clone(),
            metrics,
            started: Instant::now(),
            ended: false,
            _on_connection: on_connection,
        };
        let log = call.log().clone();
        request.extensions_mut().insert(call);
        let answering = self.inner.call(request);
        let answering = async move {
            let mut response = answering.await?;
            let call = &running.call;
            for (name, value) in [("x-trace-id", &call.trace_id()), ("traceparent", &call.traceparent())] {
                if let Ok(value) = HeaderValue::from_str(value) {
                    response.headers_mut().insert(name, value);
                }
            }
            // An error without a body has its status in the headers.
            running.finish(response.headers_mut());
            let body = |inner| tonic::body::Body::new(Traced { inner, running });
            Ok(response.map(body))
        };
        Box::pin(answering.instrument(log))
    }
}

/// A call without a status. If the response is dropped, the call was cancelled.
struct Running {
    call: Call,
    metrics: Arc<RpcMetrics>,
    started: Instant,
    ended: bool,
    _on_connection: Option<RunningCall>,
}

impl Running {
    /// Reads a status, ends the call with it, and adds the trace id to the details of an error.
    fn finish(&mut self, headers: &mut HeaderMap) {
        let Some(status) = Status::from_header_map(headers) else { return };
        self.end(status.code(), error::reason_of(&status).as_deref());
        if status.code() != Code::Ok {
            let status = error::with_trace(status, &self.call.trace_id());
            // Both values are base64 or percent-encoded, so this cannot fail.
            let _ = status.add_header(headers);
        }
    }

    fn end(&mut self, code: Code, reason: Option<&str>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let took = self.started.elapsed();
        self.call.end(code, reason);
        self.metrics.ended(code.into(), took);
        tracing::debug!(parent: self.call.log(), ?code, reason, millis = took.as_secs_f64() * 1000.0, "call ended");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(Code::Cancelled, None);
    }
}

/// The body of a response, whose end is the end of the call.
struct Traced<B> {
    inner: B,
    running: Running,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Traced<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            self.running.finish(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
