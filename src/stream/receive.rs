//! Subscriptions of clients that cannot stream requests, such as browsers: the `start` frame is in the call, and
//! further frames by separate calls that name the stream by an id. [`super::subscribe`] reads both as one sequence.
//!
//! Invariants: an id cannot be guessed, is valid only for the client that opened the stream, and ends with the stream.
//! There are at most as many ids as open streams, which the plan limits.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::FRAMES_AHEAD;
use crate::{
    error::{Failure, Kind},
    names::ClientId,
    pb::SubscribeRequest,
};

/// How long a settlement waits for a stream that does not read it, because its client does not read reports or the
/// broker is unreachable.
const TIMEOUT: Duration = Duration::from_secs(10);

type Frame = Result<SubscribeRequest, Failure>;
type Streams = HashMap<Uuid, Open>;

struct Open {
    client: ClientId,
    frames: mpsc::Sender<Frame>,
}

/// The streams of one gateway that are settled by calls. Cloning is cheap.
#[derive(Clone, Default)]
pub struct Receives(Arc<Mutex<Streams>>);

/// The entry of one stream; dropping it removes the entry and ends the stream's frames.
pub struct ReceiveSlot {
    id: Uuid,
    receives: Receives,
}

impl Receives {
    /// Opens an entry for a stream of this client; returns it with the receiver of its frames, the first of which is
    /// `start`.
    pub fn open(&self, client: &ClientId, start: SubscribeRequest) -> (ReceiveSlot, mpsc::Receiver<Frame>) {
        let (frames, incoming) = mpsc::channel(FRAMES_AHEAD);
        // The channel is new and empty.
        let _ = frames.try_send(Ok(start));
        // 122 random bits from the operating system.
        let id = Uuid::new_v4();
        self.streams().insert(id, Open { client: client.clone(), frames });
        (ReceiveSlot { id, receives: self.clone() }, incoming)
    }

    /// Forwards a frame to the stream with this id, after the frames of earlier calls that were answered.
    ///
    /// # Errors
    /// `RECEIVE_NOT_FOUND` if this gateway has no such stream of this client; `RECEIVE_BUSY` if the stream does not
    /// read frames.
    pub async fn deliver(&self, client: &ClientId, id: &str, frame: SubscribeRequest) -> Result<(), Failure> {
        let frames = self.find(client, id)?.1;
        deliver_within(TIMEOUT, &frames, frame).await
    }

    /// Ends the stream with this id in order, after the frames that were forwarded to it.
    ///
    /// # Errors
    /// As [`Self::deliver`].
    pub fn close(&self, client: &ClientId, id: &str) -> Result<(), Failure> {
        let (id, _frames) = self.find(client, id)?;
        self.streams().remove(&id);
        Ok(())
    }

    fn find(&self, client: &ClientId, id: &str) -> Result<(Uuid, mpsc::Sender<Frame>), Failure> {
        let id = Uuid::try_parse(id).map_err(|_| unknown())?;
        // Another client's stream is reported as missing.
        let streams = self.streams();
        let open = streams.get(&id).filter(|open| open.client == *client).ok_or_else(unknown)?;
        Ok((id, open.frames.clone()))
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReceiveSlot {
    /// The id by which the client names the stream.
    pub fn id(&self) -> String {
        self.id.simple().to_string()
    }
}

impl Drop for ReceiveSlot {
    fn drop(&mut self) {
        self.receives.streams().remove(&self.id);
    }
}

async fn deliver_within(
    timeout: Duration,
    frames: &mpsc::Sender<Frame>,
    frame: SubscribeRequest,
) -> Result<(), Failure> {
    match tokio::time::timeout(timeout, frames.send(Ok(frame))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(unknown()),
        Err(_) => Err(Failure::new(
            Kind::Unavailable,
            "RECEIVE_BUSY",
            "the stream accepts no settlements at the moment; read what it sends, then settle again",
        )),
    }
}

fn unknown() -> Failure {
    Failure::new(
        Kind::NotFound,
        "RECEIVE_NOT_FOUND",
        "this gateway has no such stream of this client: it has ended, or is open on another gateway. Unsettled \
         deliveries will be delivered again; call Receive again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_is_settled_by_its_own_client_until_it_ends() {
        let receives = Receives::default();
        let (ann, ben): (ClientId, ClientId) =
            (ClientId::parse("acme.ann").expect("an id"), ClientId::parse("acme.ben").expect("an id"));
        let (place, mut frames) = receives.open(&ann, SubscribeRequest::default());
        let id = place.id();
        assert!(frames.recv().await.is_some(), "start");
        receives.deliver(&ann, &id, SubscribeRequest::default()).await.expect("its own");
        assert!(frames.recv().await.is_some(), "the settlement");
        for (client, id) in [(&ben, id.as_str()), (&ann, "nonsense"), (&ann, &Uuid::new_v4().simple().to_string())] {
            let failure = receives.deliver(client, id, SubscribeRequest::default()).await.expect_err("refused");
            assert_eq!((failure.kind, failure.reason), (Kind::NotFound, "RECEIVE_NOT_FOUND"));
        }
        receives.close(&ben, &id).expect_err("not its own");
        receives.close(&ann, &id).expect("its own");
        assert!(frames.recv().await.is_none(), "an orderly end");
        receives.deliver(&ann, &id, SubscribeRequest::default()).await.expect_err("it has ended");
        drop(place);
    }

    #[tokio::test]
    async fn an_entry_is_removed_with_its_stream() {
        let receives = Receives::default();
        let ann: ClientId = ClientId::parse("acme.ann").expect("an id");
        let (place, frames) = receives.open(&ann, SubscribeRequest::default());
        let id = place.id();
        drop(frames);
        let failure = receives.deliver(&ann, &id, SubscribeRequest::default()).await.expect_err("the stream has ended");
        assert_eq!(failure.reason, "RECEIVE_NOT_FOUND");
        drop(place);
        assert!(receives.streams().is_empty());
    }

    #[tokio::test]
    async fn a_settlement_for_a_stream_that_does_not_read_fails_after_the_timeout() {
        let (frames, _unread) = mpsc::channel(1);
        let frame = SubscribeRequest::default;
        deliver_within(TIMEOUT, &frames, frame()).await.expect("there is capacity");
        let failure =
            deliver_within(Duration::from_millis(1), &frames, frame()).await.expect_err("the channel is full");
        assert_eq!((failure.kind, failure.reason), (Kind::Unavailable, "RECEIVE_BUSY"));
    }
}
