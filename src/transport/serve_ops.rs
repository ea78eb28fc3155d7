//! Serving of a router over HTTP/1.1, plain or encrypted, for the operations and metrics listeners.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{Request, Response};
use hyper::body::Incoming;
use rustls::ServerConfig;
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

/// Serves until `stop` is cancelled and the last response is sent.
pub async fn serve_ops(
    router: Router,
    listener: Listener,
    tls: Option<Arc<ServerConfig>>,
    limits: ConnectionLimits,
    metrics: Arc<ProcessMetrics>,
    stop: CancellationToken,
) {
    let tls = tls.map(|tls| {
        // Only HTTP/1.1 is offered, because a client that is offered HTTP/2 uses it.
        let mut tls = ServerConfig::clone(&tls);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(tls)
    });
    let stopped = stop.clone();
    let serve = move |accepted: Accepted| {
        let (router, stopped) = (router.clone(), stopped.clone());
        async move {
            let Accepted { io, protocol, peer } = accepted;
            if protocol == Protocol::Http2 {
                return CloseReason::Protocol;
            }
            let (activity, address) = (peer.activity, peer.address);
            let calls = activity.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let (mut router, running) = (router.clone(), calls.begin());
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(Client(address));
                async move {
                    let response: Result<Response<Body>, _> = router.call(request).await;
                    drop(running);
                    response
                }
            });
            let close = async {
                stopped.cancelled().await;
                CloseReason::Shutdown
            };
            http1::serve(io, service, HEADER_TIMEOUT, &activity, close).await
        }
    };
    listener.serve(tls, limits, metrics, stop, serve).await;
}

/// The address of the client of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client(pub(super) SocketAddr);
