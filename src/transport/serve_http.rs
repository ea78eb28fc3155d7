//! Serves a router over HTTP/1.1, plain or encrypted, for the operations, metrics and console listeners.
//!
//! Invariant: headers and body of a request arrive in time, and responses are read, or the connection is closed.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Json, Router, body::Body, response::IntoResponse as _};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use rustls::ServerConfig;
use serde_json::json;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tower::{Service as _, service_fn};

use super::{
    ConnectionLimits, Listener,
    connection::{Accepted, CloseReason, Protocol},
    http1,
};
use crate::telemetry::ProcessMetrics;

/// How long the headers of a request may take, and how long a connection is kept between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a peer may leave responses unread.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until `stop` is cancelled and the last response is sent. Each request has its [`super::Peer`] in its
/// extensions.
pub async fn serve_http(
    router: Router,
    listener: Listener,
    tls: Option<Arc<ServerConfig>>,
    limits: ConnectionLimits,
    metrics: Arc<ProcessMetrics>,
    stop: CancellationToken,
) {
    let tls = tls.map(|tls| {
        // Only HTTP/1.1 is offered, because a client that is offered HTTP/2 would use it.
        let mut tls = ServerConfig::clone(&tls);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(tls)
    });
    let (stopped, body_timeout) = (stop.clone(), limits.body_timeout);
    let serve = move |accepted: Accepted| {
        let (router, stopped) = (router.clone(), stopped.clone());
        async move {
            let Accepted { io, protocol, peer } = accepted;
            if protocol == Protocol::Http2 {
                return CloseReason::Protocol;
            }
            let activity = peer.activity.clone();
            let service = service_fn(move |mut request: Request<Incoming>| {
                let (mut router, running) = (router.clone(), peer.activity.begin());
                request.extensions_mut().insert(peer.clone());
                async move {
                    let response = match body_timeout {
                        Some(timeout) => answer(router, request, timeout).await,
                        None => router.call(request.map(Body::new)).await,
                    };
                    drop(running);
                    response
                }
            });
            let close = async {
                tokio::select! {
                    () = stopped.cancelled() => CloseReason::Shutdown,
                    () = activity.is_stalled(STALL_TIMEOUT) => CloseReason::Unresponsive,
                }
            };
            http1::serve(io, service, HEADER_TIMEOUT, &activity, close).await
        }
    };
    listener.serve(tls, limits, metrics, stop, serve).await;
}

/// The response of the router, or 408 if the body of the request did not arrive in time.
async fn answer(
    mut router: Router,
    request: Request<
        impl http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Send + 'static,
    >,
    timeout: Duration,
) -> Result<Response<Body>, Infallible> {
    let is_late = Arc::new(AtomicBool::new(false));
    let late = Arc::clone(&is_late);
    let request = request.map(|inner| {
        let (inner, deadline) = (Box::pin(inner), Box::pin(tokio::time::sleep(timeout)));
        Body::new(TimedBody { inner, deadline, is_late: late })
    });
    let response = router.call(request).await?;
    if !is_late.load(Ordering::Relaxed) {
        return Ok(response);
    }
    let description = format!("the request did not arrive within {} s", timeout.as_secs().max(1));
    // The form of OAuth's errors, since only requests for tokens have a body.
    let body = Json(json!({ "error": "invalid_request", "error_description": description }));
    Ok((StatusCode::REQUEST_TIMEOUT, [(header::CONNECTION, "close"), (header::CACHE_CONTROL, "no-store")], body)
        .into_response())
}

/// A body that fails when it is read after its deadline and has not arrived completely.
struct TimedBody<B> {
    inner: Pin<Box<B>>,
    deadline: Pin<Box<Sleep>>,
    is_late: Arc<AtomicBool>,
}

impl<B: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>> http_body::Body
    for TimedBody<B>
{
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Poll::Ready(frame) = self.inner.as_mut().poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)));
        }
        std::task::ready!(self.deadline.as_mut().poll(cx));
        self.is_late.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::to_bytes, routing::post};
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn a_body_that_does_not_arrive_in_time_is_answered_with_408() {
        let router = Router::new().route("/", post(async |body: Bytes| body));
        let timeout = Duration::from_millis(50);
        let send = async |body: Body| {
            let request = Request::post("/").body(body).expect("a request");
            let Ok(response) = answer(router.clone(), request, timeout).await;
            (response.status(), to_bytes(response.into_body(), 1_000).await.expect("a body"))
        };
        assert_eq!(send(Body::from("in time")).await, (StatusCode::OK, "in time".into()));
        let first = Ok::<_, Infallible>(Bytes::from("the first part"));
        let endless = stream::unfold(Some(first), async |next| match next {
            Some(part) => Some((part, None)),
            None => std::future::pending().await,
        });
        let (status, body) = send(Body::from_stream(endless)).await;
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
        assert!(String::from_utf8_lossy(&body).contains("did not arrive within"), "{body:?}");
    }
}
