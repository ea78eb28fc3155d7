//! Acceptance of connections, from a bound port to connections whose protocol is known.
//!
//! Invariant: everything that a peer can do before its first request is limited in time and number. A silent, slow or
//! malformed peer costs a socket and a task until the handshake timeout, and one over the limits is closed at once.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{either::Either, sync::CancellationToken, task::TaskTracker};

use super::{
    connection::{Accepted, Activity, CloseReason, Io, Peer, Socket},
    connections::Connections,
    proxy_protocol,
};
use crate::{
    config::Network,
    telemetry::{ListenerKind, ProcessMetrics},
};

/// The maximum number of concurrent handshakes. Each takes a fraction of a millisecond of work, unless the peer is
/// silent.
const MAX_HANDSHAKES: usize = 512;
/// The pause after a failed accept, which usually means that no file descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The limits of all connections of a listener.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// The maximum number of connections.
    pub connections: Connections,
    /// How long the handshake and the first bytes may take, each.
    pub handshake_timeout: Duration,
    /// How long a connection may be open without a call.
    pub idle_timeout: Duration,
    /// How long a connection may be open until its client has authenticated.
    pub unauthenticated_timeout: Duration,
    /// How long the body of an HTTP/1.1 request may take; `None` if the router limits it.
    pub body_timeout: Option<Duration>,
    /// The proxies whose connections begin with a PROXY protocol header.
    pub trusted_proxies: Arc<[Network]>,
}

/// A bound port; nothing is accepted until it is served.
pub struct Listener {
    tcp: TcpListener,
    kind: ListenerKind,
}

impl Listener {
    /// Binds a port.
    ///
    /// # Errors
    /// When the port is in use, or this user may not use it.
    pub async fn bind(address: SocketAddr, kind: ListenerKind) -> io::Result<Self> {
        Ok(Self { tcp: TcpListener::bind(address).await?, kind })
    }

    /// The address with its actual port.
    ///
    /// # Errors
    /// When the operating system reports an error.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts connections until `stop` is cancelled, passes each to `serve`, and returns when the last one has ended.
    pub(super) async fn serve<F>(
        self,
        tls: Option<Arc<ServerConfig>>,
        limits: ConnectionLimits,
        metrics: Arc<ProcessMetrics>,
        stop: CancellationToken,
        serve: impl Fn(Accepted) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = CloseReason> + Send + 'static,
    {
        let Self { tcp, kind } = self;
        let tls = tls.map(TlsAcceptor::from);
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        let open = TaskTracker::new();
        loop {
            let Ok(handshake) = Arc::clone(&handshakes).acquire_owned().await else { break };
            let accepted = tokio::select! {
                accepted = tcp.accept() => accepted,
                () = stop.cancelled() => break,
            };
            let (tcp, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, listener = kind.as_str(), "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (tls, limits, metrics, serve) = (tls.clone(), limits.clone(), Arc::clone(&metrics), serve.clone());
            open.spawn(async move {
                let (peer, reason) = match accept(tcp, address, tls, &limits).await {
                    Ok(accepted) => {
                        drop(handshake);
                        let _open = metrics.connection(kind);
                        let peer = accepted.peer.clone();
                        (Some(peer), serve(accepted).await)
                    }
                    Err(reason) => (None, reason),
                };
                metrics.connection_closed(kind, reason);
                log(kind, address, peer, reason);
            });
        }
        drop(tcp);
        open.close();
        open.wait().await;
    }
}

/// Does everything up to the first bytes of HTTP.
async fn accept(
    mut tcp: TcpStream,
    mut address: SocketAddr,
    tls: Option<TlsAcceptor>,
    limits: &ConnectionLimits,
) -> Result<Accepted, CloseReason> {
    // Small frames are sent at once.
    let _ = tcp.set_nodelay(true);
    let timeout = limits.handshake_timeout;
    if proxy_protocol::is_trusted(address.ip(), &limits.trusted_proxies) {
        match tokio::time::timeout(timeout, proxy_protocol::read_header(&mut tcp)).await {
            Ok(Ok(client)) => address = client.unwrap_or(address),
            Ok(Err(_)) => return Err(CloseReason::Proxy),
            Err(_) => return Err(CloseReason::Timeout),
        }
    }
    let permit = limits.connections.permit(address.ip()).ok_or(CloseReason::Limit)?;
    let activity = Activity::new(permit);
    let socket: Socket = match tls {
        None => Either::Left(tcp),
        Some(tls) => match tokio::time::timeout(timeout, tls.accept(tcp)).await {
            Ok(Ok(stream)) => Either::Right(Box::new(stream)),
            Ok(Err(_)) | Err(_) => return Err(CloseReason::Handshake),
        },
    };
    let recognised = tokio::time::timeout(timeout, Io::recognise(socket, activity.clone())).await;
    match recognised {
        Ok(Ok((protocol, io))) => Ok(Accepted { io, protocol, peer: Peer { address, activity } }),
        Ok(Err(_)) => Err(CloseReason::Peer),
        Err(_) => Err(CloseReason::Timeout),
    }
}

/// Logs connections that the gateway ended: of clients always, of unauthenticated peers at debug level, because they
/// could fill the log.
fn log(listener: ListenerKind, address: SocketAddr, peer: Option<Peer>, reason: CloseReason) {
    let is_client = peer.as_ref().is_some_and(|peer| peer.activity.is_authenticated());
    let address = peer.map_or(address, |peer| peer.address);
    let is_usual = matches!(reason, CloseReason::Peer | CloseReason::Shutdown | CloseReason::Idle);
    let (listener, reason) = (listener.as_str(), reason.as_str());
    match is_client && !is_usual {
        true => tracing::warn!(listener, peer = %address, reason, "connection closed by the gateway"),
        false => tracing::debug!(listener, peer = %address, reason, "connection closed"),
    }
}
