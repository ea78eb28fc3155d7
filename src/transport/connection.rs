//! An accepted connection: its bytes and its activity.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::connections::ConnectionPermit;
use crate::auth::network;
pub(super) use crate::telemetry::CloseReason;

/// HTTP/2's connection preface (RFC 9113, section 3.4); no HTTP/1.1 request that is served here is shorter.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a peer that has not authenticated, or does not read, may take to end its connection.
const UNAUTHENTICATED_GRACE: Duration = Duration::from_secs(2);

/// The activity of an open connection. Clones share the same state.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<State>);

#[derive(Debug)]
struct State {
    accepted: Instant,
    /// When the last bytes of the peer arrived, in milliseconds after `accepted`.
    last_read: AtomicU64,
    /// Since when bytes wait because the peer does not read, in milliseconds after `accepted`, plus 1; 0 if none do.
    blocked_since: AtomicU64,
    calls: Mutex<Calls>,
    permit: ConnectionPermit,
}

#[derive(Debug)]
struct Calls {
    running: usize,
    /// When the last one ended.
    since: Instant,
}

/// A running call on the connection.
#[derive(Debug)]
pub(super) struct RunningCall(Activity);

impl Activity {
    /// Begins with the acceptance of the connection, before any handshake.
    pub(super) fn new(permit: ConnectionPermit) -> Self {
        let accepted = Instant::now();
        let calls = Mutex::new(Calls { running: 0, since: accepted });
        let (last_read, blocked_since) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(State { accepted, last_read, blocked_since, calls, permit }))
    }

    /// Counts a call until the result is dropped.
    pub(super) fn begin(&self) -> RunningCall {
        self.calls().running += 1;
        RunningCall(self.clone())
    }

    /// For how long no call has been running.
    pub(super) fn idle_for(&self) -> Duration {
        let calls = self.calls();
        if calls.running > 0 { Duration::ZERO } else { calls.since.elapsed() }
    }

    /// For how long nothing has been received from the peer.
    pub(super) fn silent_for(&self) -> Duration {
        let last = Duration::from_millis(self.0.last_read.load(Ordering::Relaxed));
        self.0.accepted.elapsed().saturating_sub(last)
    }

    /// Whether bytes are waiting because the peer does not read earlier ones.
    pub(super) fn is_write_blocked(&self) -> bool {
        self.0.blocked_since.load(Ordering::Relaxed) > 0
    }

    /// Waits until the peer has read nothing of what waits for it for so long.
    pub(super) async fn is_stalled(&self, timeout: Duration) {
        loop {
            let since = self.0.blocked_since.load(Ordering::Relaxed);
            let blocked_for = match since {
                0 => Duration::ZERO,
                since => self.0.accepted.elapsed().saturating_sub(Duration::from_millis(since - 1)),
            };
            let left = timeout.saturating_sub(blocked_for);
            if left.is_zero() {
                return;
            }
            // A stall that begins meanwhile is noticed at most half of the time late.
            tokio::time::sleep(left.min(timeout / 2)).await;
        }
    }

    /// Records that the peer has presented a valid token or the secret of a client.
    pub(super) fn authenticated(&self) {
        self.0.permit.authenticated();
    }

    /// Whether the peer is authenticated.
    pub(super) fn is_authenticated(&self) -> bool {
        self.0.permit.is_authenticated()
    }

    /// Waits until no call has been running for `idle`, or until `unauthenticated` has passed since the peer connected
    /// and it has not authenticated. Its calls do not extend that time, because an attacker could keep them open.
    pub(super) async fn is_idle(&self, idle: Duration, unauthenticated: Duration) -> CloseReason {
        loop {
            let idle = idle.saturating_sub(self.idle_for());
            let (left, reason) = match self.is_authenticated() {
                true => (idle, CloseReason::Idle),
                false => {
                    (idle.min(unauthenticated.saturating_sub(self.0.accepted.elapsed())), CloseReason::Unauthenticated)
                }
            };
            if left.is_zero() {
                return reason;
            }
            tokio::time::sleep(left).await;
        }
    }

    /// Waits until a connection that is ending must be cut: after `grace` without a running call. If it ends because
    /// its peer has not authenticated, soon and regardless of running calls.
    pub(super) async fn must_be_cut(&self, reason: CloseReason, grace: Duration) {
        if matches!(reason, CloseReason::Unauthenticated | CloseReason::Unresponsive) {
            return tokio::time::sleep(grace.min(UNAUTHENTICATED_GRACE)).await;
        }
        tokio::time::sleep(grace).await;
        loop {
            let left = grace.saturating_sub(self.idle_for());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.max(grace / 10)).await;
        }
    }

    fn record_read(&self) {
        self.0.last_read.store(self.millis(), Ordering::Relaxed);
    }

    fn wrote<T>(&self, result: Poll<T>) -> Poll<T> {
        let blocked_since = &self.0.blocked_since;
        if result.is_ready() {
            blocked_since.store(0, Ordering::Relaxed);
        } else if blocked_since.load(Ordering::Relaxed) == 0 {
            blocked_since.store(self.millis().saturating_add(1), Ordering::Relaxed);
        }
        result
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.0.accepted.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        let mut calls = self.0.calls();
        calls.running = calls.running.saturating_sub(1);
        calls.since = Instant::now();
    }
}

/// The connection of a request, in the request's extensions.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The client's address, as reported by a trusted proxy if there is one.
    pub(super) address: SocketAddr,
    /// Its connection.
    pub(super) activity: Activity,
}

impl Peer {
    /// The client's address, as reported by a trusted proxy if there is one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address, or the /64 network of an IPv6 address, for which limits are counted.
    pub(super) fn network(&self) -> String {
        network(self.address.ip()).to_string()
    }
}

/// The HTTP version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// The bytes of a connection, encrypted or not.
pub(super) type Socket = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// An accepted connection whose protocol is known.
pub(super) struct Accepted {
    pub(super) io: Io<Socket>,
    pub(super) protocol: Protocol,
    pub(super) peer: Peer,
}

/// A connection that records when bytes are received.
#[derive(Debug)]
pub(super) struct Io<S> {
    stream: S,
    /// Bytes that were read to detect the protocol and have not been passed on.
    first: Vec<u8>,
    taken: usize,
    activity: Activity,
}

impl<S: AsyncRead + Unpin> Io<S> {
    /// Reads until the protocol is known: everything that does not begin with HTTP/2's preface is HTTP/1.1.
    pub(super) async fn recognise(mut stream: S, activity: Activity) -> io::Result<(Protocol, Self)> {
        let mut first = Vec::with_capacity(PREFACE.len());
        let protocol = loop {
            if first.len() == PREFACE.len() {
                break Protocol::Http2;
            }
            let read = (&mut stream).take((PREFACE.len() - first.len()) as u64).read_buf(&mut first).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if !PREFACE.starts_with(&first) {
                break Protocol::Http1;
            }
        };
        activity.record_read();
        Ok((protocol, Self { stream, first, taken: 0, activity }))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Io<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.taken < this.first.len() {
            let count = buf.remaining().min(this.first.len() - this.taken);
            buf.put_slice(&this.first[this.taken..this.taken + count]);
            this.taken += count;
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if read.is_ready() {
            this.activity.record_read();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Io<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.activity.wrote(Pin::new(&mut this.stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.activity.wrote(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.activity.wrote(Pin::new(&mut this.stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;
    use crate::transport::Connections;

    fn activity() -> Activity {
        let peer = "10.0.0.1".parse().expect("an address");
        Activity::new(Connections::new(10, 10, 10).permit(peer).expect("a permit"))
    }

    #[tokio::test]
    async fn the_protocol_is_detected_from_the_first_bytes_and_no_byte_is_lost() {
        for (sent, expected) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nand more"[..], Protocol::Http2),
            (&b"POST /warrengate.v1.Messaging/Publish HTTP/1.1\r\n"[..], Protocol::Http1),
            (&b"GET / HTTP/1.0\r\n"[..], Protocol::Http1),
        ] {
            let (mut peer, ours) = duplex(256);
            // In two pieces, the first of which does not determine the protocol.
            let recognised = tokio::join!(Io::recognise(ours, activity()), async {
                peer.write_all(&sent[..1]).await.expect("written");
                tokio::task::yield_now().await;
                peer.write_all(&sent[1..]).await.expect("written");
                drop(peer);
            });
            let (protocol, mut io) = recognised.0.expect("recognised");
            let mut read = Vec::new();
            io.read_to_end(&mut read).await.expect("all");
            assert_eq!((protocol, read.as_slice()), (expected, sent));
        }
        let (peer, ours) = duplex(64);
        drop(peer);
        let error = Io::recognise(ours, activity()).await.expect_err("nothing was received");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_connection_whose_peer_does_not_read_is_stalled() {
        let activity = activity();
        let timeout = Duration::from_millis(100);
        assert!(tokio::time::timeout(3 * timeout, activity.is_stalled(timeout)).await.is_err(), "nothing waits");
        let _ = activity.wrote(Poll::<()>::Pending);
        let began = Instant::now();
        activity.is_stalled(timeout).await;
        assert!(began.elapsed() + Duration::from_millis(2) >= timeout);
        assert!(activity.is_write_blocked());
        let _ = activity.wrote(Poll::Ready(()));
        assert!(tokio::time::timeout(3 * timeout, activity.is_stalled(timeout)).await.is_err(), "it has read");
    }

    #[tokio::test]
    async fn a_connection_is_idle_without_calls_and_earlier_if_the_peer_is_not_authenticated() {
        let (later, soon) = (Duration::from_millis(200), Duration::from_millis(50));
        let activity = activity();
        let start = Instant::now();
        assert_eq!(activity.is_idle(later, soon).await, CloseReason::Unauthenticated);
        assert!(start.elapsed() >= soon);
        let call = activity.begin();
        assert_eq!(activity.is_idle(later, soon).await, CloseReason::Unauthenticated, "whatever calls are running");
        activity.authenticated();
        assert!(tokio::time::timeout(2 * later, activity.is_idle(later, soon)).await.is_err(), "a call runs");
        drop(call);
        let start = Instant::now();
        assert_eq!(activity.is_idle(later, soon).await, CloseReason::Idle);
        assert!(start.elapsed() >= later);
    }
}
