//! The server side of one HTTP/2 connection, based on h2.
//!
//! hyper's server leaves unread DATA frames in h2, and h2 ends a connection that has too many small ones
//! (docs/adr/0016). Here each stream's frames are taken out at once and merged, while the peer's window opens only as
//! the service reads. Buffered bytes are therefore bounded by the windows and the memory budget, and small frames are
//! slowed down instead of answered with GOAWAY.

mod body;
mod exchange;

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{Ping, PingPong, Reason};
use http::{Request, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::either::Either;
use tonic::body::Body;
use tower::Service;

use self::{body::request_body, exchange::Exchange};
use super::{
    connection::{Activity, CloseReason},
    receive_budget::ReceiveBudget,
};
use crate::memory::{MemoryBudget, MemoryPermit};

/// The window of a stream: the maximum number of unread bytes, sufficient for 50 Mbit/s with a round trip of 40 ms.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The window of a connection: 256 paused streams do not stop the other streams of their connection. If the memory
/// budget is exhausted, the frames of streams wait in h2, uncharged, at most [`STREAM_WINDOW`] for each.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// The window of a connection before the peer has authenticated: the smallest that HTTP/2 allows.
const OPEN_CONNECTION_WINDOW: u32 = 65_535;
/// The calls of a connection that may be open before the peer has authenticated; a client needs one, for its token.
const OPEN_CALLS: usize = 32;
/// Further calls, and calls without memory, are refused. After this many refusals the connection is closed.
const REFUSED_CALLS: usize = 100;
/// What an open call costs, with the bytes of its body that a [`ReceiveBudget`] does not charge. The first one of a connection is not
/// charged, so that a client gets a token when others from its address use up their memory.
const CALL_MEMORY: usize = 8 * 1024;
/// The charge for a call of reflection: its responses are large, and the peer may not read them.
pub(super) const REFLECTION_MEMORY: usize = 256 * 1024;
/// The paths of reflection.
pub(super) const REFLECTION: &str = "/grpc.reflection.";
/// What h2 may hold in small frames between two polls of a stream, counted like h2 does: 256 bytes per frame.
const SMALL_FRAMES: usize = 64 << 20;
/// How many bytes of responses h2 may hold until the peer's window opens.
const SEND_BUFFER: usize = 400 * 1024;
/// HTTP/2 header list of a request (RFC 9113, section 6.5.2).
const HEADER_LIST: u32 = 16 * 1024;
/// Streams that were reset before they were accepted; more of them end the connection.
const PENDING_RESETS: usize = 64;

/// The limits of a connection.
#[derive(Debug, Clone)]
pub(super) struct Http2Limits {
    pub(super) max_streams: u32,
    pub(super) keepalive_interval: Duration,
    pub(super) keepalive_timeout: Duration,
    /// How long a peer may take to end a connection without running calls after GOAWAY.
    pub(super) close_timeout: Duration,
}

/// Serves a connection until it ends, and returns the reason. After `close`, no new stream is accepted, and the
/// connection ends with its last one. The bytes of a request are charged to its [`ReceiveBudget`], which the service sets.
/// The calls of a peer that has not authenticated are charged to the budget that `memory` returns for their path.
pub(super) async fn serve<S>(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    service: S,
    limits: &Http2Limits,
    activity: &Activity,
    memory: impl Fn(&str) -> MemoryBudget,
    close: impl Future<Output = CloseReason>,
) -> CloseReason
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(OPEN_CONNECTION_WINDOW)
        .data_frame_budget(SMALL_FRAMES)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(HEADER_LIST)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake::<_, Bytes>(io);
    let mut connection = match handshake.await {
        Ok(connection) => connection,
        Err(error) => return reason(&error),
    };
    let ping_pong = connection.ping_pong();
    let mut unresponsive = pin!(unresponsive(ping_pong, limits, activity));
    let mut close = pin!(close);
    let mut closing: Option<CloseReason> = None;
    let mut cut = pin!(Either::Left(std::future::pending()));
    let mut is_open = true;
    let open_calls = Arc::new(Semaphore::new(OPEN_CALLS));
    let mut refused = 0;
    loop {
        if is_open && activity.is_authenticated() {
            connection.set_target_window_size(CONNECTION_WINDOW);
            is_open = false;
        }
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, mut respond))) => {
                    let (mut parts, receive) = request.into_parts();
                    let path = parts.uri.path().to_owned();
                    let budget = ReceiveBudget::default();
                    parts.extensions.insert(budget.clone());
                    let (body, receiver) = request_body(receive, budget);
                    let mut service = service.clone();
                    // Readiness is not awaited, because the services are always ready.
                    let answer = service.call(Request::from_parts(parts, Body::new(body)));
                    // The call may have authenticated the connection.
                    let mut permit = None;
                    if !activity.is_authenticated() {
                        permit = match activity.is_write_blocked() {
                            // Responses that the peer does not read would remain in memory.
                            true => None,
                            false => unauthenticated_call(&open_calls, &memory(&path), &path),
                        };
                        if permit.is_none() {
                            refused += 1;
                            if refused > REFUSED_CALLS {
                                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                                return CloseReason::Flood;
                            }
                            respond.send_reset(Reason::REFUSED_STREAM);
                            continue;
                        }
                    }
                    tokio::spawn(Exchange::new(receiver, answer, respond, permit));
                }
                Some(Err(error)) => return closing.unwrap_or_else(|| reason(&error)),
                None => return closing.unwrap_or(CloseReason::Peer),
            },
            why = &mut close, if closing.is_none() => {
                connection.graceful_shutdown();
                closing = Some(why);
                cut.set(Either::Right(activity.must_be_cut(why, limits.close_timeout)));
            }
            () = &mut cut => return closing.unwrap_or(CloseReason::Timeout),
            () = &mut unresponsive => {
                connection.abrupt_shutdown(Reason::NO_ERROR);
                return CloseReason::Unresponsive;
            }
        }
    }
}

/// The permit of a call of an unauthenticated peer: one of its connection's calls, and memory.
fn unauthenticated_call(open: &Arc<Semaphore>, memory: &MemoryBudget, path: &str) -> Option<CallPermit> {
    let cost = match path.starts_with(REFLECTION) {
        true => REFLECTION_MEMORY,
        false if open.available_permits() == OPEN_CALLS => 0,
        false => CALL_MEMORY,
    };
    let open = Arc::clone(open).try_acquire_owned().ok()?;
    Some(CallPermit { _memory: memory.try_reserve(cost).ok()?, _open: open })
}

/// A running call of an unauthenticated peer.
struct CallPermit {
    _memory: MemoryPermit,
    _open: OwnedSemaphorePermit,
}

/// Waits until the peer does not respond to a ping in time. Any received bytes count as a response.
async fn unresponsive(ping_pong: Option<PingPong>, limits: &Http2Limits, activity: &Activity) {
    let Some(mut ping_pong) = ping_pong else { return std::future::pending().await };
    let mut is_sent = false;
    loop {
        let silent = activity.silent_for();
        if silent < limits.keepalive_interval {
            tokio::time::sleep(limits.keepalive_interval - silent).await;
            continue;
        }
        is_sent = is_sent || ping_pong.send_ping(Ping::opaque()).is_ok();
        if is_sent {
            let pong = std::future::poll_fn(|cx| ping_pong.poll_pong(cx));
            match tokio::time::timeout(limits.keepalive_timeout, pong).await {
                Ok(Ok(_)) => {
                    is_sent = false;
                    continue;
                }
                Ok(Err(_)) => {}
                Err(_) if activity.silent_for() >= limits.keepalive_timeout => return,
                Err(_) => continue,
            }
        }
        // The connection has ended; the task that polls it reports that.
        return std::future::pending().await;
    }
}

fn reason(error: &h2::Error) -> CloseReason {
    match error.reason() {
        _ if error.is_io() => CloseReason::Peer,
        _ if error.is_remote() => CloseReason::Peer,
        Some(Reason::ENHANCE_YOUR_CALM) => CloseReason::Flood,
        Some(Reason::NO_ERROR) | None => CloseReason::Peer,
        Some(_) => CloseReason::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::sync::Notify;
    use tonic::{Code, Status};
    use tower::service_fn;

    use super::*;
    use crate::transport::Connections;

    /// More than [`Peer::memory`].
    const BODY: usize = 60_000;

    /// A connection to a service that reads bodies only on a command of the test.
    struct Peer {
        send: h2::client::SendRequest<Bytes>,
        read: Arc<Notify>,
    }

    impl Peer {
        async fn connect(is_authenticated: bool, memory: usize) -> Self {
            let address = "10.0.0.1".parse().expect("an address");
            let activity = Activity::new(Connections::new(9, 9, 9).permit(address).expect("free"));
            if is_authenticated {
                activity.authenticated();
            }
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            let read = Arc::new(Notify::new());
            let waiting = Arc::clone(&read);
            let budget = MemoryBudget::new(memory);
            let memory = budget.clone();
            let service = service_fn(move |request: Request<Body>| {
                let receive = request.extensions().get::<ReceiveBudget>().expect("set");
                match is_authenticated {
                    true => receive.set_client(memory.clone(), request.uri().path() == "/stream"),
                    false => receive.set_anonymous(memory.clone()),
                }
                let waiting = Arc::clone(&waiting);
                async move {
                    waiting.notified().await;
                    Ok(match request.into_body().collect().await {
                        Ok(body) => {
                            assert_eq!(body.to_bytes().len(), BODY);
                            Status::ok("").into_http()
                        }
                        Err(status) => status.into_http(),
                    })
                }
            });
            let limits = Http2Limits {
                max_streams: 1_000,
                keepalive_interval: Duration::from_secs(60),
                keepalive_timeout: Duration::from_secs(60),
                close_timeout: Duration::from_secs(60),
            };
            tokio::spawn(async move {
                let memory = |_: &str| budget.clone();
                serve(ours, service, &limits, &activity, memory, std::future::pending()).await
            });
            let (send, connection) = h2::client::handshake(theirs).await.expect("served");
            tokio::spawn(connection);
            Self { send, read }
        }

        async fn call(&self, path: &str) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
            let request = Request::post(format!("https://example{path}")).body(()).expect("a request");
            self.send.clone().ready().await.expect("open").send_request(request, false).expect("sent")
        }

        async fn status_of_large_body(&self, path: &str) -> Code {
            let (response, mut body) = self.call(path).await;
            body.send_data(vec![0; BODY].into(), true).expect("sent");
            // Waits until everything is received that can be, before the service reads it.
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.read.notify_one();
            let response = response.await.expect("answered");
            Status::from_header_map(response.headers()).expect("a status").code()
        }
    }

    #[tokio::test]
    async fn a_body_without_free_memory_is_refused_unless_it_is_a_stream_of_an_authenticated_client() {
        for (is_authenticated, path, expected) in [
            (false, "/unary", Code::ResourceExhausted),
            (false, "/stream", Code::ResourceExhausted),
            (true, "/unary", Code::ResourceExhausted),
            (true, "/stream", Code::Ok),
        ] {
            let peer = Peer::connect(is_authenticated, BODY / 2).await;
            assert_eq!(peer.status_of_large_body(path).await, expected, "{is_authenticated} {path}");
        }
    }

    #[tokio::test]
    async fn calls_beyond_the_number_or_the_memory_for_unauthenticated_peers_are_refused() {
        for (memory, path, expected) in [
            (1 << 20, "/x", OPEN_CALLS),
            (4 * CALL_MEMORY, "/x", 5),
            (5 * REFLECTION_MEMORY, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", 5),
        ] {
            let peer = Peer::connect(false, memory).await;
            let mut calls = Vec::new();
            for _ in 0..expected {
                calls.push(peer.call(path).await);
            }
            let (refused, _body) = peer.call(path).await;
            let error = refused.await.expect_err("one too many");
            assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM), "{path}");
        }
        let client = Peer::connect(true, 1 << 20).await;
        let mut calls = Vec::new();
        for _ in 0..2 * OPEN_CALLS {
            calls.push(client.call("/x").await);
        }
        client.read.notify_waiters();
    }

    #[tokio::test]
    async fn a_flood_of_refused_calls_ends_the_connection() {
        let peer = Peer::connect(false, 1 << 20).await;
        let mut calls = Vec::new();
        for _ in 0..=OPEN_CALLS + REFUSED_CALLS {
            calls.push(peer.call("/x").await);
        }
        let mut refused = 0;
        for (response, _body) in calls {
            let error = response.await.expect_err("refused, or ended with the connection");
            refused += usize::from(error.reason() == Some(Reason::REFUSED_STREAM));
        }
        assert_eq!(refused, REFUSED_CALLS);
        peer.send.clone().ready().await.expect_err("the connection has ended");
    }
}
