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
    // The services are always ready.
    let service = service_fn(move |request| service.clone().call(request));
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
