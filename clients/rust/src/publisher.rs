//! Publishing over a stream.
//!
//! Every message gets exactly one outcome, through its [`Receipt`]. When the stream breaks, unanswered messages are
//! sent again with the same message id until their deadline; then their outcome is `UNKNOWN`. Messages and bytes in
//! flight are bounded: `send` waits for capacity.

mod driver;
mod pending;

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use prost::Message as _;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};

use super::{Client, Error, ensure_id};
use crate::pb::{self, PublishResult};
use driver::Driver;
use pending::{Capacity, Entry, FRAME_MESSAGES};

/// Limits of a publisher.
#[derive(Debug, Clone)]
pub struct PublisherOptions {
    max_in_flight_messages: usize,
    max_in_flight_bytes: usize,
    max_frame_messages: usize,
    deadline: Duration,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            max_in_flight_messages: 1_000,
            max_in_flight_bytes: 64 << 20,
            max_frame_messages: FRAME_MESSAGES,
            deadline: Duration::from_secs(60),
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

    /// The maximum size of unanswered messages in bytes; a larger message is sent alone. Default: 64 MiB.
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

    /// The time after `send` at which the outcome of an unanswered message is `UNKNOWN`. Default: 60 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

/// Publishes over a stream that it opens for the first message and reopens when necessary. After it is dropped,
/// messages that were sent are completed in the background; [`Publisher::close`] waits for that.
#[derive(Debug)]
pub struct Publisher {
    /// Boxed, because an entry is large and is moved through a queue and the pending messages.
    entries: mpsc::UnboundedSender<Box<Entry>>,
    options: PublisherOptions,
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    failure: Arc<OnceLock<Error>>,
    driver: JoinHandle<()>,
}

impl Publisher {
    pub(super) fn start(client: Client, options: PublisherOptions) -> Self {
        // Unbounded, because an entry is created only when there is capacity for it.
        let (entries, queue) = mpsc::unbounded_channel();
        let failure = Arc::new(OnceLock::new());
        let messages = Arc::new(Semaphore::new(options.max_in_flight_messages));
        let bytes = Arc::new(Semaphore::new(options.max_in_flight_bytes));
        let driver = tokio::spawn(Driver::new(client, queue, Arc::clone(&failure), options.max_frame_messages).run());
        Self { entries, options, messages, bytes, failure, driver }
    }

    /// Sends a message as soon as there is capacity, and returns its receipt. A message without an id gets a UUIDv7.
    /// The sequence is returned in the result; it may have any value and need not be unique.
    ///
    /// # Errors
    /// When the gateway refused the stream permanently; this message was not sent.
    pub async fn send(&self, mut publication: pb::Publication) -> Result<Receipt, Error> {
        ensure_id(&mut publication);
        let bytes = publication.encoded_len();
        let capacity = self.capacity(bytes).await.map_err(|_| Error::Closed)?;
        let message_id = publication.message.as_ref().map(|message| message.message_id.clone()).unwrap_or_default();
        let caller_sequence = publication.sequence;
        let (answer, receipt) = oneshot::channel();
        let deadline = Instant::now() + self.options.deadline;
        let entry =
            Entry { publication, bytes, caller_sequence, deadline, written: false, answer, _capacity: capacity };
        match self.entries.send(Box::new(entry)) {
            Ok(()) => Ok(Receipt { answer: receipt, sequence: caller_sequence, message_id }),
            Err(_) => Err(self.failure.get().cloned().unwrap_or(Error::Closed)),
        }
    }

    /// Waits until every message sent so far has its outcome. Messages sent meanwhile wait, too.
    pub async fn flush(&self) {
        let all = u32::try_from(self.options.max_in_flight_messages).unwrap_or(u32::MAX);
        // The semaphore is never closed, and it is fair: all permits are granted only when none is in use.
        drop(self.messages.acquire_many(all).await);
    }

    /// Waits until every message sent has its outcome, and ends the stream.
    ///
    /// # Errors
    /// When the gateway had refused the stream permanently.
    pub async fn close(self) -> Result<(), Error> {
        drop(self.entries);
        // A task that panicked has dropped its receipts, whose outcome is then `UNKNOWN`.
        let _ = self.driver.await;
        self.failure.get().cloned().map_or(Ok(()), Err)
    }

    async fn capacity(&self, bytes: usize) -> Result<Capacity, tokio::sync::AcquireError> {
        let message = Arc::clone(&self.messages).acquire_owned().await?;
        let bytes = bytes.clamp(1, self.options.max_in_flight_bytes);
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX)).await?;
        Ok(Capacity(message, bytes))
    }
}

/// A future of a message's outcome. Dropping it has no effect on the message.
#[derive(Debug)]
#[must_use = "a message that is not confirmed may be lost; await its outcome"]
pub struct Receipt {
    answer: oneshot::Receiver<PublishResult>,
    sequence: u64,
    message_id: String,
}

impl Receipt {
    /// The message's id: the caller's, or the one that the client generated.
    pub fn message_id(&self) -> &str {
        &self.message_id
    }
}

impl Future for Receipt {
    type Output = PublishResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<PublishResult> {
        Pin::new(&mut self.answer).poll(context).map(|answer| {
            answer.unwrap_or_else(|_| {
                // The runtime is shutting down.
                let message_id = std::mem::take(&mut self.message_id);
                pending::unknown(
                    self.sequence,
                    message_id,
                    "CLIENT_STOPPED: the client stopped before the outcome arrived",
                )
            })
        })
    }
}

#[cfg(test)]
mod tests;
