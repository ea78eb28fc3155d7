//! The operators' door: a router enters, and is served over plain HTTP on loopback or over TLS anywhere.

use std::{sync::Arc, time::Duration};

use axum::Router;
use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use super::{Listener, listener::Accepted};

/// Serves until stopped.
pub async fn serve_ops(
    router: Router,
    listener: Listener,
    tls: Option<Arc<ServerConfig>>,
    handshake_timeout: Duration,
    stop: CancellationToken,
) {
    let stopped = stop.clone().cancelled_owned();
    let served = match tls {
        None => axum::serve(listener.into_tcp(), router).with_graceful_shutdown(stopped).await,
        Some(tls) => {
            let Ok(address) = listener.address() else { return };
            // HTTP/1.1 alone is spoken here: whoever is offered HTTP/2 takes it.
            let mut tls = ServerConfig::clone(&tls);
            tls.alpn_protocols = vec![b"http/1.1".to_vec()];
            let tls = Arc::new(tls);
            let streams = Box::pin(listener.accept(tls, handshake_timeout, stop));
            axum::serve(Encrypted { streams, address }, router).with_graceful_shutdown(stopped).await
        }
    };
    if let Err(error) = served {
        tracing::error!(%error, "the ops server failed");
    }
}

/// Finished handshakes, as axum takes connections.
struct Encrypted<S> {
    streams: S,
    address: std::net::SocketAddr,
}

impl<S> axum::serve::Listener for Encrypted<S>
where
    S: futures_util::Stream<Item = std::io::Result<Accepted>> + Send + Unpin + 'static,
{
    type Io = Accepted;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        use futures_util::StreamExt as _;
        loop {
            match self.streams.next().await {
                Some(Ok(stream)) => return (stream, self.address),
                Some(Err(_)) => {}
                // Stopped: there will be no more, and axum asks no more either.
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(self.address)
    }
}
