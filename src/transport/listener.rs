//! From a bound port to finished TLS handshakes. A peer that is silent during the handshake costs a task and a socket for
//! the handshake's time, and no more of them than the limit; one that fails is logged and forgotten. One that has no place is
//! closed before anything is done for it.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::Stream;
use rustls::ServerConfig;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{connections::Connections, first_bytes::FirstBytes, tended::Tended};

/// An accepted connection, encrypted.
pub(super) type Accepted = FirstBytes<Tended>;

/// What is asked of connections.
#[derive(Debug, Clone)]
pub struct Manners {
    /// How many there may be.
    pub connections: Connections,
    /// How long the handshake may take, and then the peer's first bytes.
    pub handshake: Duration,
    /// How long one may be without a call; none where calls are not counted.
    pub idle: Option<Duration>,
}

/// Handshakes at the same time. Each is a fraction of a millisecond of work, or a silent peer.
const HANDSHAKES: usize = 512;

/// A bound port; nothing is accepted before [`Listener::accept`].
pub struct Listener {
    tcp: TcpListener,
}

impl Listener {
    /// # Errors
    /// When the port is taken or not ours to take.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { tcp: TcpListener::bind(address).await? })
    }

    /// # Errors
    /// When the operating system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The port as it is, for plain HTTP on loopback.
    pub fn into_tcp(self) -> TcpListener {
        self.tcp
    }

    /// Accepts until stopped, whoever has the manners.
    pub fn accept(
        self,
        tls: Arc<ServerConfig>,
        manners: Manners,
        stop: CancellationToken,
    ) -> impl Stream<Item = io::Result<Accepted>> {
        let (ready, mut streams) = mpsc::channel(16);
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(tls);
            let Manners { connections, handshake: timeout, idle } = manners;
            let places = Arc::new(Semaphore::new(HANDSHAKES));
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let accepted = tokio::select! {
                    accepted = self.tcp.accept() => accepted,
                    () = stop.cancelled() => return,
                };
                let (tcp, peer) = match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of file descriptors, most likely: trying at once would only burn a core.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                // Dropping it closes it.
                let Some(taken) = connections.place(peer.ip()) else { continue };
                let (acceptor, ready) = (acceptor.clone(), ready.clone());
                tokio::spawn(async move {
                    let _place = place;
                    // Small frames leave at once.
                    let _ = tcp.set_nodelay(true);
                    match tokio::time::timeout(timeout, acceptor.accept(tcp)).await {
                        Ok(Ok(stream)) => {
                            // The server has stopped when nobody takes it.
                            let stream = Tended::new(stream, taken, idle);
                            let _ = ready.send(Ok(FirstBytes::within(timeout, stream))).await;
                        }
                        Ok(Err(error)) => tracing::debug!(%peer, %error, "tls handshake failed"),
                        Err(_) => tracing::debug!(%peer, "tls handshake timed out"),
                    }
                });
            }
        });
        futures_util::stream::poll_fn(move |cx| streams.poll_recv(cx))
    }
}
