//! What each call does, in the product's words: who calls, what it may do, hand over. Requests enter already authenticated
//! (their extensions hold a [`crate::auth::Caller`], or they are refused); responses and statuses leave. No rule is made
//! here: admission is `tenant`'s, names are `names`', streams are `stream`'s.

mod admin;
mod auth;
mod dead_letters;
mod messaging;
mod page;
mod topology;

pub use admin::AdminService;
pub use auth::AuthService;
pub use messaging::MessagingService;
pub use topology::TopologyService;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use crate::error::{Failure, Kind};

/// Frames as the machines take them: what cannot be decoded is the client's fault and says so.
fn incoming<T: Send + 'static>(
    frames: Streaming<T>,
) -> impl Stream<Item = Result<T, Failure>> + Send + Unpin + 'static {
    frames.map(|frame| {
        frame.map_err(|status| match malformed(&status) {
            Some(failure) => Failure { reason: "MALFORMED_FRAME", ..failure },
            None if status.code() == Code::Unimplemented => Failure::new(
                Kind::Invalid,
                "MALFORMED_FRAME",
                "a frame is compressed in a way that the gateway does not know",
            ),
            None => Failure::new(Kind::Unavailable, "STREAM_BROKEN", "the client's side of the stream broke"),
        })
    })
}

/// What was wrong with a request that tonic could not decode: it calls that a fault of ours, and it is the client's.
pub(crate) fn malformed(status: &Status) -> Option<Failure> {
    const REASON: &str = "MALFORMED_REQUEST";
    match status.code() {
        Code::Internal => {
            let path = status.message().strip_prefix("failed to decode Protobuf message: ")?;
            // Innermost first, `Queue.name: DeclareQueueRequest.queue: what`: the message types' and fields' own names.
            let fields = path.split(": ").map_while(|part| part.split_once('.').filter(|_| !part.contains(' ')));
            let fields: Vec<_> = fields.map(|(_, field)| field).collect();
            let failure = Failure::new(Kind::Invalid, REASON, "is not valid protobuf (and text must be UTF-8)");
            Some(match fields.is_empty() {
                true => Failure { message: "the message is not valid protobuf".into(), ..failure },
                false => failure.on_field(fields.into_iter().rev().collect::<Vec<_>>().join(".")),
            })
        }
        Code::OutOfRange if status.message().contains("message length too large") => {
            Some(Failure::new(Kind::Invalid, REASON, "the message is larger than the gateway takes"))
        }
        _ => None,
    }
}

/// A machine's frames as tonic sends them; after a failure nothing comes.
fn outgoing<T: Send + 'static>(
    mut responses: mpsc::Receiver<Result<T, Failure>>,
) -> impl Stream<Item = Result<T, Status>> + Send + 'static {
    futures_util::stream::poll_fn(move |cx| responses.poll_recv(cx)).map(|response| response.map_err(Status::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_decoded_names_its_field() {
        let text = "failed to decode Protobuf message: Queue.name: DeclareQueueRequest.queue: invalid string value: data \
                    is not UTF-8 encoded";
        let failure = malformed(&Status::internal(text)).expect("the client's fault");
        assert_eq!((failure.kind, failure.field.as_deref()), (Kind::Invalid, Some("queue.name")));
        let failure = malformed(&Status::internal("failed to decode Protobuf message: buffer underflow"));
        assert_eq!(failure.expect("the client's fault").field, None);
        assert_eq!(malformed(&Status::internal("something of ours")), None);
    }
}
