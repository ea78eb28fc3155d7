//! What a response occupies until its peer has read it: memory, and a place among the open calls of its tenant.
//!
//! Invariant: both are kept until the connection has dropped the last byte of the body. HTTP/2 accepts a whole body however
//! small the peer's window is, so the end of the body alone does not mean that it was sent.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Response, header::CONTENT_TYPE};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tonic::{Status, body::Body};

use super::open_calls::OpenCall;
use crate::{
    error::Failure,
    memory::{Full, MemoryBudget, MemoryPermit, ResponseCharge},
};

/// How much of a response needs no memory, so that small responses are never refused. The number of open calls is limited.
const UNCHARGED: usize = 16 * 1024;

/// What is kept for a response, as an extension of it between [`charge`] and [`keep`].
#[derive(Debug, Clone)]
struct Unread(Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Kept {
    _call: Option<OpenCall>,
    /// What the service has charged for the response.
    of_service: Option<ResponseCharge>,
    charge: Option<MemoryPermit>,
}

impl Unread {
    /// Charges the bytes of an encoded response, unless its service has.
    fn charge(&self, memory: &MemoryBudget, bytes: usize) -> Result<(), Full> {
        let mut kept: MutexGuard<'_, _> = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = bytes.saturating_sub(UNCHARGED);
        if bytes > 0 && kept.of_service.is_none() && kept.charge.is_none() {
            kept.charge = Some(memory.try_reserve_share(bytes)?);
        }
        Ok(())
    }
}

/// Charges a response when it is encoded. Without memory for it, a response of a call that changes nothing is replaced by an
/// error; `memory` is `None` for all other calls.
pub(super) fn charge(
    mut response: Response<Body>,
    call: Option<OpenCall>,
    memory: Option<MemoryBudget>,
) -> Response<Body> {
    let of_service = response.extensions_mut().remove::<ResponseCharge>();
    if response.body().is_end_stream() || (call.is_none() && of_service.is_none()) {
        return response;
    }
    let unread = Unread(Arc::new(Mutex::new(Kept { _call: call, of_service, charge: None })));
    response.extensions_mut().insert(unread.clone());
    response.map(|inner| Body::new(ChargedBody { inner: Some(inner), memory, unread, next: None }))
}

/// Ties what is kept for a response to each piece of its body. For the outermost layer, because others copy the body.
pub(super) fn keep(mut response: Response<Body>) -> Response<Body> {
    let Some(unread) = response.extensions_mut().remove::<Unread>() else { return response };
    response.map(|inner| {
        Body::new(inner.map_frame(move |frame| {
            frame.map_data(|bytes| Bytes::from_owner(Piece { bytes, _unread: unread.clone() }))
        }))
    })
}

/// A piece of a body.
struct Piece {
    bytes: Bytes,
    _unread: Unread,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of a response that is charged when it is encoded.
struct ChargedBody {
    /// `None` when nothing more is to be encoded.
    inner: Option<Body>,
    memory: Option<MemoryBudget>,
    unread: Unread,
    next: Option<Result<Frame<Bytes>, Status>>,
}

impl http_body::Body for ChargedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let next = match (this.next.take(), &mut this.inner) {
            (Some(next), _) => Some(next),
            (None, Some(inner)) => ready!(Pin::new(inner).poll_frame(cx)),
            (None, None) => None,
        };
        let bytes = match &next {
            Some(Ok(frame)) => frame.data_ref().map(Bytes::len),
            _ => None,
        };
        let (Some(bytes), Some(memory), Some(inner)) = (bytes, &this.memory, &mut this.inner) else {
            return Poll::Ready(next);
        };
        if let Err(full) = this.unread.charge(memory, bytes) {
            this.inner = None;
            let mut trailers = Status::from(Failure::from(full)).into_http::<()>().into_parts().0.headers;
            trailers.remove(CONTENT_TYPE);
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        // The encoder ends here, because it keeps the whole message even when it was compressed.
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(Some(last)) => {
                if last.as_ref().is_ok_and(Frame::is_trailers) {
                    this.inner = None;
                }
                this.next = Some(last);
            }
            Poll::Ready(None) => this.inner = None,
            Poll::Pending => {}
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none() && self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http_body_util::StreamBody;

    use super::*;
    use crate::{error::reason_of, transport::open_calls::OpenCalls};

    const BYTES: usize = 100_000;

    /// A response as tonic encodes it: the message, and then the trailers.
    fn response(bytes: usize) -> Response<Body> {
        let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), "0".parse().expect("a value"))]);
        let frames = [Ok::<_, Status>(Frame::data(Bytes::from(vec![7; bytes]))), Ok(Frame::trailers(trailers))];
        Response::new(Body::new(StreamBody::new(futures_util::stream::iter(frames))))
    }

    #[tokio::test]
    async fn a_response_is_charged_until_its_last_byte_is_dropped() {
        let (memory, calls) = (MemoryBudget::new(1 << 20), OpenCalls::default());
        let mut body = keep(charge(response(BYTES), calls.begin("acme"), Some(memory.clone()))).into_body();
        assert_eq!(memory.used(), 0, "it is not encoded");
        let mut data = body.frame().await.expect("a frame").expect("sent").into_data().expect("data");
        assert_eq!(memory.used(), BYTES - UNCHARGED);
        let trailers = body.frame().await.expect("a frame").expect("sent").into_trailers().expect("trailers");
        assert_eq!(trailers["grpc-status"], "0");
        assert!(body.frame().await.is_none());
        drop(body);
        // HTTP/2 has sent what fits into the window.
        let sent = data.split_to(10);
        assert_eq!((sent.len(), memory.used(), calls.count("acme")), (10, BYTES - UNCHARGED, 1));
        drop(sent);
        drop(data);
        assert_eq!((memory.used(), calls.count("acme")), (0, 0));
    }

    #[tokio::test]
    async fn without_memory_a_large_response_becomes_an_error_and_a_small_one_does_not() {
        let (memory, calls) = (MemoryBudget::new(BYTES), OpenCalls::default());
        let charged = |bytes| keep(charge(response(bytes), calls.begin("acme"), Some(memory.clone())));
        let mut unread = charged(BYTES).into_body();
        let first = unread.frame().await.expect("a frame").expect("sent");
        let refused = charged(BYTES).into_body().collect().await.expect("an answer");
        let status = Status::from_header_map(refused.trailers().expect("trailers")).expect("a status");
        assert_eq!(reason_of(&status).as_deref(), Some("MEMORY_EXHAUSTED"));
        assert!(refused.to_bytes().is_empty());
        let small = charged(UNCHARGED).into_body().collect().await.expect("an answer");
        assert_eq!(small.to_bytes().len(), UNCHARGED);
        drop((unread, first));
        assert_eq!(charged(BYTES).into_body().collect().await.expect("an answer").to_bytes().len(), BYTES);
    }

    #[tokio::test]
    async fn a_response_that_its_service_has_charged_is_never_refused() {
        let (memory, of_service) = (MemoryBudget::new(BYTES), MemoryBudget::new(BYTES));
        let mut answer = response(BYTES);
        answer.extensions_mut().insert(ResponseCharge::new(of_service.try_reserve(BYTES).expect("free")));
        let _all = memory.try_reserve(BYTES).expect("free");
        let mut body = keep(charge(answer, None, Some(memory))).into_body();
        let data = body.frame().await.expect("a frame").expect("sent").into_data().expect("data");
        drop(body);
        assert_eq!((data.len(), of_service.used()), (BYTES, BYTES));
        drop(data);
        assert_eq!(of_service.used(), 0);
    }
}
