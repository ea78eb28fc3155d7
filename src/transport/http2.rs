//! The server side of one HTTP/2 connection, based on h2.
//!
//! hyper's server leaves unread DATA frames in h2, and h2 ends a connection that has too many small ones
//! (docs/adr/0016). Here each stream's frames are taken out at once and merged, while the peer's window opens only as
//! the service reads. Buffered bytes are therefore bounded by the windows and the memory budget, and small frames are
//! slowed down instead of answered with GOAWAY.

mod body;
mod exchange;

use std::{convert::Infallible, pin::pin, time::Duration};

use bytes::Bytes;
use h2::{Ping, PingPong, Reason};
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;
use tower::Service;

use self::{body::request_body, exchange::Exchange};
use super::connection::{Activity, CloseReason};
use crate::memory::MemoryBudget;

/// The window of a stream: unread bytes that may be on their way, sized for a client with 50 Mbit/s and 40 ms.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The window of a connection. It is larger than the memory budget of a connection, and what the budget does not admit waits
/// in h2, uncharged: 256 paused streams do not stop the other streams of their connection.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// The window of a connection before the peer has authenticated: the smallest that HTTP/2 allows.
const OPEN_CONNECTION_WINDOW: u32 = 65_535;
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
/// connection ends with its last one. The bytes of a request are charged to the budget that `memory` returns for it.
pub(super) async fn serve<S>(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    service: S,
    limits: &Http2Limits,
    activity: &Activity,
    memory: impl Fn() -> MemoryBudget,
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
    let mut closed = pin!(tokio::time::sleep(Duration::ZERO));
    let mut is_open = true;
    loop {
        if is_open && activity.is_authenticated() {
            connection.set_target_window_size(CONNECTION_WINDOW);
            is_open = false;
        }
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let (parts, receive) = request.into_parts();
                    let (body, receiver) = request_body(receive, memory());
                    let mut service = service.clone();
                    // Readiness is not awaited, because the services are always ready.
                    let answer = service.call(Request::from_parts(parts, Body::new(body)));
                    tokio::spawn(Exchange::new(receiver, answer, respond));
                }
                Some(Err(error)) => return closing.unwrap_or_else(|| reason(&error)),
                None => return closing.unwrap_or(CloseReason::Peer),
            },
            why = &mut close, if closing.is_none() => {
                connection.graceful_shutdown();
                closing = Some(why);
                closed.as_mut().reset(tokio::time::Instant::now() + limits.close_timeout);
            }
            () = &mut closed, if closing.is_some() => {
                let left = limits.close_timeout.saturating_sub(activity.idle_for());
                match (closing, left.is_zero()) {
                    (Some(why), true) => return why,
                    _ => closed.as_mut().reset(tokio::time::Instant::now() + left.max(limits.close_timeout / 10)),
                }
            }
            () = &mut unresponsive => {
                connection.abrupt_shutdown(Reason::NO_ERROR);
                return CloseReason::Unresponsive;
            }
        }
    }
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
        // The connection has ended, which is noticed by the task that polls it.
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
