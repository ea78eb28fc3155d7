//! The body of a request: a [`Receiver`] takes the DATA frames out of h2 as they arrive, and the body passes their
//! bytes to the service.
//!
//! The peer's window opens as the service reads, not as the receiver takes frames. At most one window is buffered for
//! each stream, and charged to the budget of its [`ReceiveBudget`].

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use h2::{FlowControl, RecvStream};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use crate::{
    error::Failure,
    memory::{Full, MemoryPermit},
    transport::receive_budget::ReceiveBudget,
};

/// Frames below this size are merged by copying; larger ones are passed on as they are.
const SMALL: usize = 1024;
/// The size of the buffer in which small frames are merged.
const JOINED: usize = 4 * 1024;

/// Creates the body of a request, and the receiver that must be polled to fill it. Nothing is received until the budget is
/// set.
pub(super) fn request_body(mut receive: RecvStream, budget: ReceiveBudget) -> (RequestBody, Receiver) {
    let flow = receive.flow_control().clone();
    let mut buffer = Buffer::default();
    if receive.is_end_stream() {
        buffer.end = Some(End::Complete(None));
    }
    let shared = Arc::new(SharedBuffer(Mutex::new(buffer)));
    let body = RequestBody { shared: Arc::clone(&shared), flow };
    (body, Receiver { shared, receive, budget, received: 0, waiting: None })
}

#[derive(Debug, Default)]
struct SharedBuffer(Mutex<Buffer>);

#[derive(Debug, Default)]
struct Buffer {
    chunks: VecDeque<Bytes>,
    /// Merged small frames at the end.
    joined: BytesMut,
    charged: Option<MemoryPermit>,
    end: Option<End>,
    reader: Option<Waker>,
    receiver: Option<Waker>,
    /// Whether the receiver has a chunk that waits until the reader has taken one.
    is_waiting: bool,
    is_abandoned: bool,
}

#[derive(Debug)]
enum End {
    /// The peer has sent everything.
    Complete(Option<HeaderMap>),
    /// The peer has reset the stream, or the connection is lost.
    Failed,
    /// There was no memory for it.
    Refused,
}

impl SharedBuffer {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.joined.is_empty()
    }

    fn push(&mut self, chunk: Bytes, charge: Option<MemoryPermit>) {
        match (&mut self.charged, charge) {
            (Some(charged), Some(charge)) => charged.merge(charge),
            (None, charge) => self.charged = charge,
            (Some(_), None) => {}
        }
        if chunk.len() >= SMALL {
            self.close_joined();
            self.chunks.push_back(chunk);
        } else {
            if self.joined.capacity() - self.joined.len() < chunk.len() {
                self.close_joined();
                self.joined = BytesMut::with_capacity(JOINED);
            }
            self.joined.extend_from_slice(&chunk);
        }
        self.wake_reader();
    }

    fn close_joined(&mut self) {
        if !self.joined.is_empty() {
            self.chunks.push_back(self.joined.split().freeze());
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        let chunk = match self.chunks.pop_front() {
            Some(chunk) => chunk,
            None if self.joined.is_empty() => return None,
            None => self.joined.split().freeze(),
        };
        if let Some(charged) = &mut self.charged {
            charged.shrink_to(charged.bytes().saturating_sub(chunk.len()));
        }
        if std::mem::take(&mut self.is_waiting)
            && let Some(receiver) = self.receiver.take()
        {
            receiver.wake();
        }
        Some(chunk)
    }

    fn finish(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
            self.wake_reader();
        }
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// Moves received frames into the buffer.
pub(super) struct Receiver {
    shared: Arc<SharedBuffer>,
    receive: RecvStream,
    budget: ReceiveBudget,
    /// How many bytes have arrived.
    received: usize,
    /// A chunk that waits for memory.
    waiting: Option<Bytes>,
}

impl Receiver {
    /// Ready when nothing more is to be received: the body is complete, the stream has failed, or its reader was dropped.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            {
                let mut buffer = self.shared.lock();
                if buffer.is_abandoned || buffer.end.is_some() {
                    return Poll::Ready(());
                }
                if !buffer.receiver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    buffer.receiver = Some(cx.waker().clone());
                }
            }
            if let Some(chunk) = self.waiting.take() {
                match self.budget.reserve(chunk.len(), self.received) {
                    Ok(permit) => self.shared.lock().push(chunk, Some(permit)),
                    Err(_) if !self.budget.is_patient() => {
                        self.shared.lock().finish(End::Refused);
                        return Poll::Ready(());
                    }
                    Err(_) => {
                        let mut buffer = self.shared.lock();
                        // A stream can always go on, one chunk after the other, so that it never waits for what other
                        // streams hold.
                        if !buffer.is_empty() {
                            buffer.is_waiting = true;
                            drop(buffer);
                            self.waiting = Some(chunk);
                            return Poll::Pending;
                        }
                        buffer.push(chunk, None);
                    }
                }
                continue;
            }
            let end = match ready!(self.receive.poll_data(cx)) {
                Some(Ok(chunk)) if chunk.is_empty() => continue,
                Some(Ok(chunk)) => {
                    self.received = self.received.saturating_add(chunk.len());
                    self.waiting = Some(chunk);
                    continue;
                }
                Some(Err(_)) => End::Failed,
                None => match ready!(self.receive.poll_trailers(cx)) {
                    Ok(trailers) => End::Complete(trailers),
                    Err(_) => End::Failed,
                },
            };
            self.shared.lock().finish(end);
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.lock().finish(End::Failed);
    }
}

/// The body that a service reads.
pub(super) struct RequestBody {
    shared: Arc<SharedBuffer>,
    flow: FlowControl,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let chunk = {
            let mut buffer = this.shared.lock();
            match (buffer.pop(), &mut buffer.end) {
                (Some(chunk), _) => chunk,
                (None, Some(End::Complete(trailers))) => {
                    return Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
                }
                // Not CANCELLED, which tonic treats as an orderly end of the stream.
                (None, Some(End::Failed)) => {
                    return Poll::Ready(Some(Err(Status::unavailable(
                        "the client cancelled the call or disconnected",
                    ))));
                }
                (None, Some(End::Refused)) => return Poll::Ready(Some(Err(Failure::from(Full).into()))),
                (None, None) => {
                    buffer.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        };
        // A stream that has ended needs no window.
        let _ = this.flow.release_capacity(chunk.len());
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        let buffer = self.shared.lock();
        buffer.is_empty() && matches!(buffer.end, Some(End::Complete(None)))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let mut left = 0;
        let mut buffer = self.shared.lock();
        while let Some(chunk) = buffer.pop() {
            left += chunk.len();
        }
        buffer.is_abandoned = true;
        let receiver = buffer.receiver.take();
        drop(buffer);
        // The bytes are returned to the connection's window for its other streams.
        let _ = self.flow.release_capacity(left);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }
}
