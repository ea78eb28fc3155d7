//! The gRPC services: each call admits its caller, validates its fields, delegates, and encodes the response.
//!
//! Requests arrive authenticated. The services make no rules of their own: admission belongs to `tenant`, names to
//! `names`, streams to `stream`.

mod admin;
mod auth;
mod dead_letters;
mod messaging;
mod page;
mod peek;
mod topology;

pub use admin::{AdminService, GatewayState};
pub use auth::AuthService;
pub use messaging::MessagingService;
pub use topology::TopologyService;

use std::error::Error as _;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tonic::{Code, Response, Status, Streaming};

use crate::{
    error::{self, Failure, Kind},
    memory::{MemoryPermit, ResponseCharge},
};

const MALFORMED: &str = "MALFORMED_REQUEST";

/// The frames of a stream. An error is the last item: a frame that cannot be decoded or does not arrive in time, or a
/// client that cancelled the call or disconnected. If the client has sent everything, the stream simply ends.
fn incoming<T: Send + 'static>(
    frames: Streaming<T>,
) -> impl Stream<Item = Result<T, Failure>> + Send + Unpin + 'static {
    frames.map(|frame| frame.map_err(|status| frame_failure(&status)))
}

fn frame_failure(status: &Status) -> Failure {
    // The layer that limits bodies creates its own error, which other layers wrap.
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return failure.clone();
        }
        source = error.source();
    }
    match malformed(status) {
        Some(failure) if failure.reason == MALFORMED => Failure { reason: "MALFORMED_FRAME", ..failure },
        Some(failure) => failure,
        None if status.code() == Code::Unimplemented => {
            let text = "the frame is compressed by a method that the gateway does not support; use gzip";
            Failure::new(Kind::Invalid, "MALFORMED_FRAME", text)
        }
        None => Failure::new(Kind::Unavailable, "STREAM_BROKEN", "the client cancelled the call or disconnected"),
    }
}

/// The failure for a request that tonic could not decode. tonic reports some of these as internal errors of the
/// server.
pub(crate) fn malformed(status: &Status) -> Option<Failure> {
    match status.code() {
        Code::Internal => {
            let path = status.message().strip_prefix("failed to decode Protobuf message: ")?;
            // Innermost first, with the names of the message types: `Queue.name: DeclareQueueRequest.queue: what`.
            let fields = path.split(": ").map_while(|part| part.split_once('.').filter(|_| !part.contains(' ')));
            let fields: Vec<_> = fields.map(|(_, field)| field).collect();
            let failure = Failure::new(Kind::Invalid, MALFORMED, "is not valid protobuf (and text must be UTF-8)");
            Some(match fields.is_empty() {
                true => Failure { message: "the message is not valid protobuf".into(), ..failure },
                false => failure.on_field(fields.into_iter().rev().collect::<Vec<_>>().join(".")),
            })
        }
        // The codec reports too many elements without details; all other statuses of this code have them.
        Code::InvalidArgument if error::reason_of(status).is_none() => Some(match status.message().split_once(": ") {
            Some((field, what)) => Failure::invalid(field.to_owned(), what.to_owned()),
            None => Failure::new(Kind::Invalid, MALFORMED, status.message().to_owned()),
        }),
        Code::OutOfRange if status.message().contains("message length too large") => {
            Some(Failure::new(Kind::Invalid, MALFORMED, "the message is larger than the gateway accepts"))
        }
        Code::ResourceExhausted if status.message().starts_with("Error decompressing: size limit") => {
            Some(Failure::new(Kind::Invalid, MALFORMED, "the message is larger than the gateway accepts"))
        }
        _ => None,
    }
}

/// The frames of a response in tonic's form. A failure is the last item.
fn outgoing<T: Send + 'static>(
    mut responses: mpsc::Receiver<Result<T, Failure>>,
) -> impl Stream<Item = Result<T, Status>> + Send + 'static {
    futures_util::stream::poll_fn(move |cx| responses.poll_recv(cx)).map(|response| response.map_err(Status::from))
}

/// A response whose memory is charged until its caller has read it, which may take as long as the caller likes.
fn charged<M: prost::Message>(message: M, mut charge: MemoryPermit) -> Response<M> {
    charge.shrink_to(message.encoded_len());
    let mut response = Response::new(message);
    response.extensions_mut().insert(ResponseCharge::new(charge));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_cannot_be_decoded_is_reported_with_its_field() {
        let text = "failed to decode Protobuf message: Queue.name: DeclareQueueRequest.queue: invalid string value: data \
                    is not UTF-8 encoded";
        let failure = malformed(&Status::internal(text)).expect("a client error");
        assert_eq!((failure.kind, failure.field.as_deref()), (Kind::Invalid, Some("queue.name")));
        let failure = malformed(&Status::internal("failed to decode Protobuf message: buffer underflow"));
        assert_eq!(failure.expect("a client error").field, None);
        assert_eq!(malformed(&Status::internal("an internal error")), None);
        let failure = malformed(&Status::invalid_argument("publications: has more than 1000")).expect("a client error");
        assert_eq!((failure.reason, failure.field.as_deref()), ("INVALID_ARGUMENT", Some("publications")));
        let from_service = Status::from(Failure::invalid("queue.name", "is too long"));
        assert_eq!(malformed(&from_service), None, "an error of a service is not changed");
    }
}
