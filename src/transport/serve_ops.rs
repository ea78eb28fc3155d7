//! The operators' door: a router enters, and is served over plain HTTP on loopback or over TLS anywhere.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, extract::connect_info::Connected, serve::IncomingStream};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    Listener,
    listener::{Accepted, Manners},
};

/// Serves until stopped.
pub async fn serve_ops(
    router: Router,
    listener: Listener,
    tls: Option<Arc<ServerConfig>>,
    manners: Manners,
    stop: CancellationToken,
) {
    let stopped = stop.clone().cancelled_owned();
    let served = match tls {
        None => {
            let service = router.into_make_service_with_connect_info::<Peer>();
            axum::serve(listener.into_tcp(), service).with_graceful_shutdown(stopped).await
        }
        Some(tls) => {
            let Ok(address) = listener.address() else { return };
            // HTTP/1.1 alone is spoken here: whoever is offered HTTP/2 takes it.
            let mut tls = ServerConfig::clone(&tls);
            tls.alpn_protocols = vec![b"http/1.1".to_vec()];
            let tls = Arc::new(tls);
            let streams = Box::pin(listener.accept(tls, manners, stop));
            let service = router.into_make_service_with_connect_info::<Peer>();
            axum::serve(Encrypted { streams, address }, service).with_graceful_shutdown(stopped).await
        }
    };
    if let Err(error) = served {
        tracing::error!(%error, "the ops server failed");
    }
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl<S> Connected<IncomingStream<'_, Encrypted<S>>> for Peer
where
    Encrypted<S>: axum::serve::Listener<Addr = SocketAddr>,
{
    fn connect_info(stream: IncomingStream<'_, Encrypted<S>>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// Finished handshakes, as axum takes connections.
struct Encrypted<S> {
    streams: S,
    address: SocketAddr,
}

impl<S> axum::serve::Listener for Encrypted<S>
where
    S: futures_util::Stream<Item = std::io::Result<Accepted>> + Send + Unpin + 'static,
{
    type Io = Accepted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        use futures_util::StreamExt as _;
        loop {
            match self.streams.next().await {
                Some(Ok(stream)) => {
                    // A peer that is gone already has no address any more.
                    let peer = stream.get_ref().peer().unwrap_or(self.address);
                    return (stream, peer);
                }
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
