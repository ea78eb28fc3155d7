//! One request and its response on a stream of an HTTP/2 connection.
//!
//! The response is dropped as soon as the peer resets the stream, so that a cancelled call ends at once.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderName, Response, header};
use http_body::Body as _;
use tonic::body::Body;

use super::{CallPermit, body::Receiver};

/// Headers of HTTP/1.1 that HTTP/2 forbids (RFC 9113, section 8.2.2).
const CONNECTION_HEADERS: [HeaderName; 4] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, HeaderName::from_static("keep-alive")];

/// A request that is being received and answered.
pub(super) struct Exchange<F> {
    /// `None` when nothing more is to be received.
    receiver: Option<Receiver>,
    answer: Answer<F>,
    /// For a call of a peer that has not authenticated.
    _permit: Option<CallPermit>,
}

enum Answer<F> {
    /// The service is working on it.
    Awaited(Pin<Box<F>>, SendResponse<Bytes>),
    /// Its body is being sent.
    Sent { body: Pin<Box<Body>>, stream: SendStream<Bytes>, chunk: Option<Bytes> },
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Exchange<F> {
    pub(super) fn new(receiver: Receiver, answer: F, respond: SendResponse<Bytes>, permit: Option<CallPermit>) -> Self {
        let answer = Answer::Awaited(Box::pin(answer), respond);
        Self { receiver: Some(receiver), answer, _permit: permit }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            match &mut self.answer {
                Answer::Awaited(answer, respond) => {
                    if respond.poll_reset(cx)?.is_ready() {
                        return Poll::Ready(Ok(()));
                    }
                    let Ok(response) = ready!(answer.as_mut().poll(cx));
                    let (mut parts, body) = response.into_parts();
                    CONNECTION_HEADERS.iter().for_each(|name| drop(parts.headers.remove(name)));
                    let is_all = body.is_end_stream();
                    let stream = respond.send_response(Response::from_parts(parts, ()), is_all)?;
                    if is_all {
                        return Poll::Ready(Ok(()));
                    }
                    self.answer = Answer::Sent { body: Box::pin(body), stream, chunk: None };
                }
                Answer::Sent { body, stream, chunk } => {
                    if stream.poll_reset(cx)?.is_ready() {
                        return Poll::Ready(Ok(()));
                    }
                    if let Some(waiting) = chunk {
                        // Only what is available is reserved, and only one byte of it, so that a stream does not take
                        // the connection's window from other streams.
                        while stream.capacity() == 0 {
                            match ready!(stream.poll_capacity(cx)) {
                                Some(capacity) => {
                                    capacity?;
                                }
                                None => return Poll::Ready(Ok(())),
                            }
                        }
                        stream.send_data(std::mem::take(waiting), false)?;
                        *chunk = None;
                    }
                    match ready!(body.as_mut().poll_frame(cx)) {
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(data) if data.is_empty() => {}
                            Ok(data) => {
                                stream.reserve_capacity(1);
                                *chunk = Some(data);
                            }
                            Err(frame) => {
                                let trailers = frame.into_trailers().unwrap_or_else(|_| HeaderMap::new());
                                stream.reserve_capacity(0);
                                stream.send_trailers(trailers)?;
                                return Poll::Ready(Ok(()));
                            }
                        },
                        Some(Err(error)) => {
                            tracing::debug!(%error, "the body of an answer failed");
                            stream.send_reset(Reason::INTERNAL_ERROR);
                            return Poll::Ready(Ok(()));
                        }
                        None => {
                            stream.send_data(Bytes::new(), true)?;
                            return Poll::Ready(Ok(()));
                        }
                    }
                }
            }
        }
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for Exchange<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if let Some(receiver) = &mut this.receiver
            && receiver.poll(cx).is_ready()
        {
            this.receiver = None;
        }
        // An error means that the peer has reset the stream or that the connection is lost.
        this.poll_answer(cx).map(drop)
    }
}
