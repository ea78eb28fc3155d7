//! Enforcement of `grpc-timeout`: a call, including a stream, ends at the caller's deadline regardless of the service.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::error::{Failure, Kind};

/// Longer deadlines are ignored.
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Ends calls at their callers' deadlines.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = WithDeadline<S>;

    fn layer(&self, inner: S) -> WithDeadline<S> {
        WithDeadline { inner }
    }
}

/// See [`DeadlineLayer`].
#[derive(Debug, Clone)]
pub(super) struct WithDeadline<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for WithDeadline<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(timeout) = timeout(request.headers()) else { return Box::pin(self.inner.call(request)) };
        let mut deadline = Box::pin(tokio::time::sleep(timeout));
        let answer = self.inner.call(request);
        Box::pin(async move {
            tokio::select! {
                biased;
                response = answer => {
                    Ok(response?.map(|inner| Body::new(UntilDeadline { inner: Some(inner), deadline })))
                }
                () = &mut deadline => Ok(exceeded().into_http()),
            }
        })
    }
}

fn exceeded() -> Status {
    Failure::new(Kind::Deadline, "DEADLINE_EXCEEDED", "the deadline of the call has passed").into()
}

/// Parses at most eight digits and a unit. Like in tonic, an invalid value is ignored.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    };
    (timeout < MAX_TIMEOUT).then_some(timeout)
}

/// A response that is cut off at the deadline.
struct UntilDeadline {
    /// `None` after the deadline.
    inner: Option<Body>,
    deadline: Pin<Box<Sleep>>,
}

impl http_body::Body for UntilDeadline {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(inner).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        std::task::ready!(self.deadline.as_mut().poll(cx));
        // Dropping the response ends the service's work for the call.
        self.inner = None;
        let mut trailers = HeaderMap::new();
        let frame = match exceeded().add_header(&mut trailers) {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(error) => Err(error),
        };
        Poll::Ready(Some(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_parsed_as_specified() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().expect("a value"));
            timeout(&headers)
        };
        for (text, millis) in [("2S", 2_000), ("1M", 60_000), ("1H", 3_600_000), ("250m", 250), ("99999999u", 99_999)] {
            assert_eq!(read(text).map(|timeout| timeout.as_millis()), Some(millis), "{text}");
        }
        for text in ["", "S", "2", "123456789S", "-1S", "2s", "2 S", "99999999H"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
