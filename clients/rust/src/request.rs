//! Requests and replies over queues: a request names the client's own reply queue and a correlation id.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};
use uuid::Uuid;

use super::{Client, Consumer, Delivery, Error, HandlerError, Publisher, SubscribeOptions};
use crate::pb;

/// The reply queue is deleted when it has had no consumer for this long.
const EXPIRY: Duration = Duration::from_secs(300);
const REPLY_HANDLERS: usize = 32;
const REQUEST_HANDLERS: usize = 8;

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<pb::Message>>>>;

/// The reply queue of a client, and the requests that wait for a reply.
#[derive(Debug)]
pub(super) struct Replies {
    queue: String,
    publisher: Publisher,
    waiting: Waiting,
    _consumer: Consumer,
}

impl Replies {
    async fn open(client: &Client) -> Result<Self, Error> {
        let queue = format!("reply.{}", Uuid::now_v7().simple());
        client
            .declare_queue(pb::Queue {
                name: queue.clone(),
                r#type: pb::QueueType::Classic.into(),
                expires: EXPIRY.try_into().ok(),
                ..Default::default()
            })
            .await?;
        let waiting = Waiting::default();
        let replies = Arc::clone(&waiting);
        let options = SubscribeOptions::queue(&queue).concurrency(REPLY_HANDLERS);
        let consumer = client.consume(options, move |delivery| {
            let id = &delivery.message().correlation_id;
            if let Some(waiter) = lock(&replies).remove(id) {
                // The request may have been cancelled.
                let _ = waiter.send(delivery.into_message());
            }
            std::future::ready(Ok(()))
        });
        Ok(Self { queue, publisher: client.publisher(), waiting, _consumer: consumer.await? })
    }
}

/// A request, until it is dropped.
struct Pending<'a> {
    waiting: &'a Waiting,
    id: String,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        lock(self.waiting).remove(&self.id);
    }
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<pb::Message>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// Publishes a request to a queue and waits for its reply, for at most this time. It needs the configure and
    /// subscribe grants on `reply.#`.
    ///
    /// # Errors
    /// [`Error::NoReply`] after the time limit; otherwise why the request could not be sent.
    pub async fn request(&self, queue: &str, mut message: pb::Message, limit: Duration) -> Result<pb::Message, Error> {
        let exchange = async {
            let replies = self.shared.replies.get_or_try_init(|| Replies::open(self)).await?;
            let id = Uuid::now_v7().to_string();
            let (waiter, reply) = oneshot::channel();
            lock(&replies.waiting).insert(id.clone(), waiter);
            let pending = Pending { waiting: &replies.waiting, id };
            message.correlation_id.clone_from(&pending.id);
            message.reply_to.clone_from(&replies.queue);
            // A request that is not answered in time is not needed later.
            message.ttl = limit.max(Duration::from_millis(1)).try_into().ok();
            let publication =
                pb::Publication { routing_key: queue.to_owned(), message: Some(message), ..Default::default() };
            replies.publisher.publish(publication).await?;
            reply.await.map_err(|_| Error::Closed)
        };
        timeout(limit, exchange).await.unwrap_or(Err(Error::NoReply(limit)))
    }

    /// Replies to each request of a queue with the handler's result, eight at a time. A request whose handler fails is
    /// retried.
    ///
    /// # Errors
    /// When the gateway cannot be reached or refuses the subscription.
    pub async fn respond<H, F>(&self, queue: &str, handler: H) -> Result<Consumer, Error>
    where
        H: Fn(Delivery) -> F + Send + Sync + 'static,
        F: Future<Output = Result<pb::Message, HandlerError>> + Send + 'static,
    {
        let publisher = Arc::new(self.publisher());
        let options = SubscribeOptions::queue(queue).concurrency(REQUEST_HANDLERS);
        self.consume(options, move |delivery| {
            let request = delivery.message();
            let id = match request.correlation_id.as_str() {
                "" => request.message_id.clone(),
                id => id.to_owned(),
            };
            let (routing_key, publisher) = (request.reply_to.clone(), Arc::clone(&publisher));
            let reply = handler(delivery);
            async move {
                let mut message = reply.await?;
                if !routing_key.is_empty() {
                    message.correlation_id = id;
                    let publication = pb::Publication { routing_key, message: Some(message), ..Default::default() };
                    publisher.publish(publication).await?;
                }
                Ok(())
            }
        })
        .await
    }
}
