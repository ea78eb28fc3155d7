//! Notes in a request's extensions how its body ended, before tonic reports a cancelled call as one whose client has sent
//! everything.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use tower::{Layer, Service};

use crate::service::RequestEnd;

/// Gives every request a [`RequestEnd`].
#[derive(Clone)]
pub(super) struct RequestEndLayer;

impl<S> Layer<S> for RequestEndLayer {
    type Service = RequestEndService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestEndService(inner)
    }
}

/// See [`RequestEndLayer`].
#[derive(Clone)]
pub(super) struct RequestEndService<S>(S);

impl<S, B> Service<Request<B>> for RequestEndService<S>
where
    S: Service<Request<tonic::body::Body>>,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let end = RequestEnd::default();
        head.extensions.insert(end.clone());
        self.0.call(Request::from_parts(head, tonic::body::Body::new(Watched { body, end })))
    }
}

/// A body whose failure is noted.
struct Watched<B> {
    body: B,
    end: RequestEnd,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Err(_))) = &polled {
            self.end.set_broken();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
