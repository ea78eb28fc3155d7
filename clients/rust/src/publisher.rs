//! Publishing over a stream.
//!
//! Every message gets exactly one outcome, through its [`Receipt`]. When the stream breaks, unanswered messages are
//! sent again with the same message id until their deadline; then their outcome is `UNKNOWN`. Throttled messages are
//! sent again after the time that the gateway sent. Messages and bytes in flight are bounded: `send` waits for
//! capacity.

mod driver;
mod pending;

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use prost::Message as _;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};

use super::{Client, Error, ensure_id, error::Unconfirmed, otel::Publishing};
use crate::pb::{self, Outcome, PublishResult};
use driver::{Driver, Failure, lock};
use pending::{Answer, Capacity, Entry, FRAME_MESSAGES, PendingMessages};

/// Limits of a publisher.
#[derive(Debug, Clone)]
pub struct PublisherOptions {
    max_in_flight_messages: usize,
    max_in_flight_bytes: usize,
    max_frame_messages: usize,
    deadline: Duration,
    retry_throttled: bool,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            max_in_flight_messages: 1_000,
            max_in_flight_bytes: 32 << 20,
            max_frame_messages: FRAME_MESSAGES,
            deadline: Duration::from_secs(60),
            retry_throttled: true,
        }
    }
}

impl PublisherOptions {
    /// The maximum number of unanswered messages, at least 1. Default: 1,000.
    #[must_use]
    pub fn max_in_flight_messages(mut self, messages: usize) -> Self {
        self.max_in_flight_messages = messages.clamp(1, 1 << 20);
        self
    }

    /// The maximum size of unanswered messages in bytes; a larger message is sent alone. Default: 32 MiB.
    #[must_use]
    pub fn max_in_flight_bytes(mut self, bytes: usize) -> Self {
        self.max_in_flight_bytes = bytes.clamp(1, 1 << 30);
        self
    }

    /// The maximum number of messages in one frame, at least 1. Default: 64, which is the most efficient. A frame is
    /// sent without waiting for more messages.
    #[must_use]
    pub fn max_frame_messages(mut self, messages: usize) -> Self {
        self.max_frame_messages = messages.clamp(1, 1_000);
        self
    }

    /// How long after `send` a message is sent again while its outcome is unknown or it is throttled. Default: 60 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Whether throttled messages are sent again after the time that the gateway sent; otherwise `THROTTLED` is their
    /// outcome. Default: true.
    #[must_use]
    pub fn retry_throttled(mut self, retry: bool) -> Self {
        self.retry_throttled = retry;
        self
    }
}

/// The semaphores of a publisher, from which the client learns when it is idle.
#[derive(Debug, Clone)]
pub(super) struct InFlight {
    limit: u32,
    messages: Arc<Semaphore>,
}

impl InFlight {
    /// Waits until every message sent so far has its outcome.
    pub(super) async fn idle(&self) {
        // The semaphore is fair: all permits are granted only when none is in use. It is closed with the client.
        drop(self.messages.acquire_many(self.limit).await);
    }

    /// Accepts no more messages.
    pub(super) fn close(&self) {
        self.messages.close();
    }

    /// Whether its publisher exists or has messages without an outcome.
    pub(super) fn is_used(&self) -> bool {
        // One reference is the client's.
        Arc::strong_count(&self.messages) > 1
    }

    fn count(&self) -> usize {
        (self.limit as usize).saturating_sub(self.messages.available_permits())
    }
}

/// Publishes over a stream that it opens for the first message and reopens when necessary. After it is dropped,
/// messages that were sent are completed in the background; [`Publisher::close`] waits for that.
#[derive(Debug)]
pub struct Publisher {
    /// Boxed, because an entry is large and is moved through a queue and the pending messages.
    entries: mpsc::UnboundedSender<Box<Entry>>,
    options: PublisherOptions,
    in_flight: InFlight,
    bytes: Arc<Semaphore>,
    failure: Failure,
    driver: JoinHandle<()>,
}

impl Publisher {
    pub(super) fn start(client: Client, options: PublisherOptions) -> Self {
        // Unbounded, because an entry is created only when there is capacity for it.
        let (entries, queue) = mpsc::unbounded_channel();
        let failure = Arc::new(Mutex::new(None));
        let limit = u32::try_from(options.max_in_flight_messages).unwrap_or(u32::MAX);
        let in_flight = InFlight { limit, messages: Arc::new(Semaphore::new(options.max_in_flight_messages)) };
        client.shared.register(&in_flight);
        let bytes = Arc::new(Semaphore::new(options.max_in_flight_bytes));
        let pending = PendingMessages::new(options.max_frame_messages, options.retry_throttled);
        let tasks = client.shared.tasks.clone();
        let driver = tasks.spawn(Driver::new(client, queue, Arc::clone(&failure), pending).run());
        Self { entries, options, in_flight, bytes, failure, driver }
    }

    /// Publishes a message and waits for its outcome: returns when the broker has confirmed it.
    ///
    /// # Errors
    /// [`Error::Unconfirmed`] with the outcome when the message was not confirmed; [`Error::Closed`] after the client
    /// was closed.
    pub async fn publish(&self, publication: pb::Publication) -> Result<Confirmation, Error> {
        self.send(publication).await?.confirmed().await
    }

    /// How many messages have no outcome yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight.count()
    }

    /// Sends a message as soon as there is capacity, and returns its receipt. A message without an id gets a UUIDv7.
    /// The sequence is returned in the result; it may have any value and need not be unique.
    ///
    /// # Errors
    /// [`Error::Closed`] after the client was closed.
    pub async fn send(&self, mut publication: pb::Publication) -> Result<Receipt, Error> {
        ensure_id(&mut publication);
        let bytes = publication.encoded_len();
        let capacity = self.capacity(bytes).await.map_err(|_| Error::Closed)?;
        let message_id = publication.message.as_ref().map(|message| message.message_id.clone()).unwrap_or_default();
        let caller_sequence = publication.sequence;
        let (answer, receipt) = oneshot::channel();
        let deadline = Instant::now() + self.options.deadline;
        let span = Publishing::start(&mut publication);
        let entry = Entry {
            publication,
            bytes,
            caller_sequence,
            deadline,
            written: false,
            lost: false,
            refusal: None,
            span,
            answer,
            _capacity: capacity,
        };
        match self.entries.send(Box::new(entry)) {
            Ok(()) => Ok(Receipt { answer: receipt, sequence: caller_sequence, message_id }),
            Err(_) => Err(Error::Closed),
        }
    }

    /// Waits until every message sent so far has its outcome. Messages sent meanwhile wait, too.
    pub async fn flush(&self) {
        self.in_flight.idle().await;
    }

    /// Waits until every message sent has its outcome, and ends the stream.
    ///
    /// # Errors
    /// When the gateway refused the last stream, so that its messages were not confirmed.
    pub async fn close(self) -> Result<(), Error> {
        drop(self.entries);
        // A task that panicked has dropped its receipts, whose outcome is then `UNKNOWN`.
        let _ = self.driver.await;
        lock(&self.failure).take().map_or(Ok(()), Err)
    }

    async fn capacity(&self, bytes: usize) -> Result<Capacity, tokio::sync::AcquireError> {
        let message = Arc::clone(&self.in_flight.messages).acquire_owned().await?;
        let bytes = bytes.clamp(1, self.options.max_in_flight_bytes);
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX)).await?;
        Ok(Capacity(message, bytes))
    }
}

/// The broker has stored the message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Confirmation {
    /// The caller's id, or the one that the client generated.
    pub message_id: String,
    /// The id of the trace of the message; empty when it is not sampled.
    pub trace_id: String,
}

/// A future of a message's outcome, as the gateway sent it. Dropping it has no effect on the message.
#[derive(Debug)]
#[must_use = "a message that is not confirmed may be lost; await its outcome"]
pub struct Receipt {
    answer: oneshot::Receiver<Answer>,
    sequence: u64,
    message_id: String,
}

impl Receipt {
    /// The message's id: the caller's, or the one that the client generated.
    pub fn message_id(&self) -> &str {
        &self.message_id
    }

    /// Waits for the outcome, with every outcome but `CONFIRMED` as an error.
    ///
    /// # Errors
    /// [`Error::Unconfirmed`].
    pub async fn confirmed(self) -> Result<Confirmation, Error> {
        let stopped = self.stopped();
        let answer = self.answer.await.unwrap_or(stopped);
        let unconfirmed = match answer {
            Answer { not_sent: Some(not_sent), .. } => not_sent,
            Answer { result, .. } if result.outcome() == Outcome::Confirmed => {
                return Ok(Confirmation { message_id: result.message_id, trace_id: result.trace_id });
            }
            Answer { result, .. } => Unconfirmed::of(result),
        };
        Err(Error::Unconfirmed(Box::new(Unconfirmed { message_id: self.message_id, ..unconfirmed })))
    }

    /// The runtime is shutting down.
    fn stopped(&self) -> Answer {
        let reason = "CLIENT_STOPPED: the client stopped before the outcome arrived";
        let result = pending::unknown(self.sequence, self.message_id.clone(), reason);
        Answer { result, not_sent: None }
    }
}

impl Future for Receipt {
    type Output = PublishResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<PublishResult> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or_else(|_| self.stopped()).result)
    }
}

#[cfg(test)]
mod tests;
