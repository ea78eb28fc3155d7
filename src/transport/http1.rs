//! The server side of one HTTP/1.1 connection: gRPC-Web, and the operations listener.

use std::{convert::Infallible, pin::pin, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::either::Either;
use tower::Service;

use super::connection::{Activity, CloseReason};

/// The maximum number and size of a request's headers.
const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 32 * 1024;
/// The maximum number of received bytes that the service has not read.
const MAX_BUFFER: usize = 64 * 1024;

/// Serves a connection until it ends, and returns the reason. The headers of each request must arrive within
/// `header_timeout`, which is also how long a connection is kept between requests. After `close`, no further request
/// is served.
pub(super) async fn serve<S, B>(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    service: S,
    header_timeout: Duration,
    activity: &Activity,
    close: impl Future<Output = CloseReason>,
) -> CloseReason
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let of_requests = activity.clone();
    let service = service_fn(move |request| {
        let (mut service, activity) = (service.clone(), of_requests.clone());
        async move {
            // A peer may send many requests at once.
            activity.turn().await;
            // The services are always ready.
            service.call(request).await
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEADER_BYTES)
            .max_buf_size(MAX_BUFFER)
            .serve_connection(TokioIo::new(io), service)
    );
    let mut close = pin!(close);
    let mut closing = None;
    let mut cut = pin!(Either::Left(std::future::pending()));
    loop {
        tokio::select! {
            ended = connection.as_mut() => return match (closing, ended) {
                (Some(why), _) => why,
                (None, Ok(())) => CloseReason::Peer,
                (None, Err(error)) if error.is_timeout() => CloseReason::Timeout,
                (None, Err(error)) if error.is_parse() => CloseReason::Protocol,
                (None, Err(_)) => CloseReason::Peer,
            },
            why = &mut close, if closing.is_none() => {
                connection.as_mut().graceful_shutdown();
                closing = Some(why);
                cut.set(Either::Right(activity.must_be_cut(why, header_timeout)));
            }
            () = &mut cut => return closing.unwrap_or(CloseReason::Timeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use http_body_util::Full;
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::transport::Connections;

    #[tokio::test]
    async fn other_tasks_run_between_the_requests_that_a_peer_sends_at_once() {
        const REQUESTS: usize = 40;
        let (mut peer, ours) = tokio::io::duplex(1 << 20);
        let requests = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(REQUESTS);
        peer.write_all(requests.as_bytes()).await.expect("written");
        let served = Arc::new(AtomicUsize::new(0));
        let of_service = Arc::clone(&served);
        let serving = tokio::spawn(async move {
            let address = "10.0.0.1".parse().expect("an address");
            let activity = Activity::new(Connections::new(9, 9, 9).permit(address).expect("free"));
            let service = tower::service_fn(move |_| {
                of_service.fetch_add(1, Ordering::Relaxed);
                async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"served")))) }
            });
            serve(ours, service, Duration::from_secs(60), &activity, std::future::pending()).await
        });
        let other = tokio::spawn(async move {
            let (mut before, mut most_at_once) = (0, 0);
            while before < REQUESTS {
                tokio::task::yield_now().await;
                let now = served.load(Ordering::Relaxed);
                most_at_once = most_at_once.max(now - before);
                before = now;
            }
            most_at_once
        });
        let most_at_once = tokio::time::timeout(Duration::from_secs(60), other).await.expect("in time");
        // hyper serves 16 at once if nothing waits. A second one may follow when another event wakes the connection.
        assert!(most_at_once.as_ref().is_ok_and(|most| *most <= 2), "{most_at_once:?}");
        serving.abort();
    }
}
