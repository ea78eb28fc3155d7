//! A consumer that calls a handler for each message.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Delivery, Nack, SubscribeOptions, Subscription};
use crate::{Client, Error, otel::Processing};

/// Why a handler failed: the reason of the retry. Created from any error or text.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// A consumer with a handler. Dropping it closes it in the background.
#[derive(Debug)]
#[must_use = "dropping a consumer closes it"]
pub struct Consumer(Arc<State>);

#[derive(Debug)]
pub(crate) struct State {
    running: AtomicUsize,
    stop: CancellationToken,
    finished: CancellationToken,
    end: Mutex<End>,
}

#[derive(Debug)]
struct End {
    /// How long handlers may run after the consumer was closed.
    limit: Duration,
    error: Option<Error>,
}

impl Consumer {
    pub(crate) async fn start<H, F>(client: Client, options: SubscribeOptions, handler: H) -> Result<Self, Error>
    where
        H: Fn(Delivery) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let (queue, handlers) = (Arc::<str>::from(options.queue_name()), options.handlers());
        let subscription = Subscription::open(client.clone(), options).await?;
        let state = Arc::new(State {
            running: AtomicUsize::new(0),
            stop: CancellationToken::new(),
            finished: CancellationToken::new(),
            end: Mutex::new(End { limit: Duration::from_secs(30), error: None }),
        });
        client.shared.register_consumer(&state);
        let task = run(Arc::clone(&state), subscription, queue, handlers, Arc::new(handler));
        client.shared.tasks.spawn(task);
        Ok(Self(state))
    }

    /// How many handlers are running.
    pub fn running(&self) -> usize {
        self.0.running.load(Ordering::Relaxed)
    }

    /// Whether it has ended: because it was closed, or by an error that a new stream would not resolve.
    pub fn is_finished(&self) -> bool {
        self.0.finished.is_cancelled()
    }

    /// The error that ended it.
    pub fn error(&self) -> Option<Error> {
        self.0.end().error.clone()
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// The error that ended it: the gateway refused it, or its queue was deleted.
    pub async fn wait(&self) -> Result<(), Error> {
        self.0.finished.cancelled().await;
        self.error().map_or(Ok(()), Err)
    }

    /// Starts no further handler, waits until the running ones have ended, for at most this time, and writes their
    /// settlements. Messages that were not handled are delivered again without counting an attempt.
    ///
    /// # Errors
    /// The error that ended it.
    pub async fn close(&self, limit: Duration) -> Result<(), Error> {
        self.0.close(limit).await;
        self.error().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
impl Consumer {
    /// Waits until it is being closed.
    pub(super) async fn stop_requested(&self) {
        self.0.stop.cancelled().await;
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.0.stop.cancel();
    }
}

impl State {
    fn end(&self) -> std::sync::MutexGuard<'_, End> {
        // Each change is a single assignment, so that a panic cannot leave it half-changed.
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn close(&self, limit: Duration) {
        self.end().limit = limit;
        self.stop.cancel();
        self.finished.cancelled().await;
    }
}

async fn run<H, F>(state: Arc<State>, mut subscription: Subscription, queue: Arc<str>, handlers: usize, handler: Arc<H>)
where
    H: Fn(Delivery) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let mut running = JoinSet::new();
    let error = loop {
        tokio::select! {
            () = state.stop.cancelled() => break None,
            _ = running.join_next(), if !running.is_empty() => {}
            next = subscription.next(), if running.len() < handlers => match next {
                Ok(Some(delivery)) => {
                    let handle = handle(Arc::clone(&state), Arc::clone(&queue), Arc::clone(&handler), delivery);
                    running.spawn(handle);
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            },
        }
    };
    if let Some(error) = &error {
        tracing::error!(%queue, %error, "a consumer has ended");
    }
    let deadline = Instant::now() + state.end().limit;
    while !running.is_empty() {
        tokio::select! {
            _ = running.join_next() => {}
            () = sleep_until(deadline) => break,
        }
    }
    running.shutdown().await;
    let closed = subscription.close().await;
    state.end().error = error.or_else(|| closed.err().filter(|error| !error.is_retryable()));
    state.finished.cancel();
}

async fn handle<H, F>(state: Arc<State>, queue: Arc<str>, handler: Arc<H>, delivery: Delivery)
where
    H: Fn(Delivery) -> F + Send + Sync,
    F: Future<Output = Result<(), HandlerError>> + Send,
{
    state.running.fetch_add(1, Ordering::Relaxed);
    let attempt = Attempt { state, delivery };
    let span = Processing::start(&queue, &attempt.delivery);
    match span.run(handler(attempt.delivery.clone())).await {
        Ok(()) => attempt.delivery.ack(),
        Err(error) => {
            let error = error.to_string();
            span.failed(&error);
            tracing::warn!(%queue, %error, "a handler failed; its message is retried unless it is settled");
            attempt.delivery.nack(Nack::retry().because(error));
        }
    }
}

/// A running handler. One that panics counts as failed; one that was aborted settles nothing.
struct Attempt {
    state: Arc<State>,
    delivery: Delivery,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.state.running.fetch_sub(1, Ordering::Relaxed);
        if std::thread::panicking() {
            self.delivery.nack(Nack::retry().because("the handler panicked"));
        }
    }
}
