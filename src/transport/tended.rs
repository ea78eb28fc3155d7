//! An open connection, with what is known of it: its place among all of them, and the calls that run on it. One without a call
//! for too long is over: its peer may answer pings for ever, and would hold a socket and its buffers for it.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpConnectInfo, TlsConnectInfo};

use super::connections::Place;

/// A connection after its handshake.
#[derive(Debug)]
pub struct Tended {
    stream: TlsStream<TcpStream>,
    calls: Calls,
    /// None where calls are not counted.
    idle: Option<(Duration, Pin<Box<Sleep>>)>,
    _place: Place,
}

/// What a request knows of its connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address and its side of TLS.
    pub(super) tls: TlsConnectInfo<TcpConnectInfo>,
    /// To be held by each call for as long as it runs.
    pub(super) calls: Calls,
}

/// The calls of a connection.
#[derive(Debug, Clone)]
pub(super) struct Calls(Arc<Mutex<Count>>);

#[derive(Debug)]
struct Count {
    running: usize,
    /// When the last one ended.
    since: Instant,
}

/// A call that runs.
#[derive(Debug)]
pub(super) struct RunningCall(Calls);

impl Calls {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Count { running: 0, since: Instant::now() })))
    }

    /// One more.
    pub(super) fn begin(&self) -> RunningCall {
        self.count().running += 1;
        RunningCall(self.clone())
    }

    /// How long there has been none.
    fn idle_for(&self) -> Duration {
        let count = self.count();
        if count.running > 0 { Duration::ZERO } else { count.since.elapsed() }
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        let mut count = self.0.count();
        count.running = count.running.saturating_sub(1);
        count.since = Instant::now();
    }
}

impl Tended {
    /// One that ends when it has had no call for `idle`.
    pub(super) fn new(stream: TlsStream<TcpStream>, place: Place, idle: Option<Duration>) -> Self {
        let idle = idle.map(|idle| (idle, Box::pin(tokio::time::sleep(idle))));
        Self { stream, calls: Calls::new(), idle, _place: place }
    }

    /// The other side's address, while it is there.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.stream.get_ref().0.peer_addr().ok()
    }

    /// Whether there was no call for too long; else it is looked at again when that may be so.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((longest, look)) = &mut self.idle else { return Poll::Pending };
        while look.as_mut().poll(cx).is_ready() {
            let idle = self.calls.idle_for();
            if idle >= *longest {
                return Poll::Ready(());
            }
            look.as_mut().reset(Instant::now() + (*longest - idle));
        }
        Poll::Pending
    }
}

impl AsyncRead for Tended {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(cx, buf) {
            return Poll::Ready(result);
        }
        std::task::ready!(this.poll_idle(cx));
        tracing::debug!("a connection without calls is closed");
        // As if the peer had gone: what is there of an answer is still written.
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tended {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl Connected for Tended {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer { tls: self.stream.connect_info(), calls: self.calls.clone() }
    }
}
