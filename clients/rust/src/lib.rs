//! A client for the Warrengate messaging gateway: publish, subscribe, and manage queues over gRPC.
//!
//! A [`Client`] has one connection and one token, which it renews. A [`Publisher`] gives every message exactly one
//! outcome; a [`Consumer`] calls a handler for each message, and a [`Subscription`] is a stream of them. Both survive
//! broken streams and gateway restarts, and a settlement never applies to a delivery other than its own. All queues are
//! bounded.
//!
//! ```no_run
//! use warrengate_client::{Client, Error, SubscribeOptions, publication};
//!
//! # async fn example() -> Result<(), Error> {
//! // WARRENGATE_ENDPOINT, WARRENGATE_CA, WARRENGATE_CLIENT_ID, WARRENGATE_CLIENT_SECRET
//! let client = Client::from_env().await?;
//!
//! let publisher = client.publisher();
//! // Returns when the broker has stored the message.
//! publisher.publish(publication("", "orders", "one order")).await?;
//!
//! // An error is retried with the queue's back-off; the lease is extended while the handler runs.
//! let consumer = client.consume(SubscribeOptions::queue("orders").concurrency(16), async |delivery| {
//!     println!("{}", String::from_utf8_lossy(delivery.body()));
//!     Ok(())
//! });
//! consumer.await?.wait().await?;
//! # Ok(())
//! # }
//! ```

mod backoff;
mod channel;
mod error;
mod events;
mod options;
mod otel;
mod publisher;
mod request;
mod stream;
mod subscription;
#[cfg(feature = "testing")]
pub mod testing;
mod token;

#[cfg(test)]
mod peer;

pub use error::{Error, Outcome, Refusal, Unconfirmed};
pub use events::{Lifecycle, LifecycleEvent};
pub use options::{BoxError, ClientOptions, Credentials, TokenFuture, TokenSource};
pub use publisher::{Confirmation, Publisher, PublisherOptions, Receipt};
pub use subscription::{Consumer, Delivery, Event, HandlerError, Nack, Settler, SubscribeOptions, Subscription};
pub use token::{AttachToken, Token};

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use secrecy::SecretString;
use tokio::{sync::OnceCell, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Response, Status, service::interceptor::InterceptedService, transport::Channel};
use uuid::Uuid;

pub use warrengate_proto as pb;

use backoff::Backoff;
use channel::Connection;
use options::Listener;
use pb::{
    admin_client::AdminClient, auth_client::AuthClient, messaging_client::MessagingClient,
    topology_client::TopologyClient,
};
use publisher::InFlight;
use request::Replies;
use stream::is_unauthenticated;
use subscription::ConsumerState;
use token::Tokens;

/// The connection with the client's token on every call.
pub type Authenticated = InterceptedService<Channel, AttachToken>;

/// The maximum size of a response. A frame of deliveries may contain a whole window of messages.
const MAX_RESPONSE: usize = 320 << 20;
const BATCH_TRIES: u32 = 5;
/// How long streams may take to end when the client is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to the gateway. Cheap to clone; all clones share one connection and one token.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    connection: Arc<Connection>,
    tokens: Tokens,
    listener: Option<Listener>,
    /// Cancelled when the client starts to close.
    closing: CancellationToken,
    /// Cancelled when the client stops waiting for outcomes.
    ended: CancellationToken,
    /// The tasks of publishers, subscriptions and consumers.
    tasks: TaskTracker,
    publishers: Mutex<Vec<InFlight>>,
    consumers: Mutex<Vec<Weak<ConsumerState>>>,
    replies: OnceCell<Replies>,
}

impl Inner {
    fn register(&self, publisher: &InFlight) {
        if self.closing.is_cancelled() {
            publisher.close();
        }
        let mut publishers = self.publishers.lock().unwrap_or_else(PoisonError::into_inner);
        publishers.retain(InFlight::is_used);
        publishers.push(publisher.clone());
    }

    fn register_consumer(&self, consumer: &Arc<ConsumerState>) {
        let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        consumers.retain(|consumer| consumer.strong_count() > 0);
        consumers.push(Arc::downgrade(consumer));
    }
}

impl Client {
    /// Connects with [`ClientOptions::from_env`].
    ///
    /// # Errors
    /// When a variable is missing, the gateway cannot be reached, or it refuses the credentials.
    pub async fn from_env() -> Result<Self, Error> {
        Self::connect(ClientOptions::from_env()?).await
    }

    /// Connects, and fetches the first token if there is a client secret. While the gateway cannot be reached, it is
    /// tried again until the connect timeout.
    ///
    /// # Errors
    /// When the options are invalid, the gateway cannot be reached, or it refuses the credentials.
    pub async fn connect(options: ClientOptions) -> Result<Self, Error> {
        options.check()?;
        let deadline = Instant::now() + options.connect_timeout;
        let connection = Arc::new(Connection::open(&options, deadline).await?);
        let mut backoff = Backoff::default();
        let tokens = loop {
            match Tokens::open(&options, Arc::clone(&connection)).await {
                Ok(tokens) => break tokens,
                Err(error) => {
                    let pause = stream::pause_after(Some(&error), &mut backoff);
                    if options.connect_once || !error.is_retryable() || Instant::now() + pause > deadline {
                        return Err(error);
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        };
        let shared = Inner {
            connection,
            tokens,
            listener: options.listener,
            closing: CancellationToken::new(),
            ended: CancellationToken::new(),
            tasks: TaskTracker::new(),
            publishers: Mutex::default(),
            consumers: Mutex::default(),
            replies: OnceCell::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A valid token; `None` for [`Credentials::Anonymous`].
    ///
    /// # Errors
    /// When a new token is needed and cannot be fetched.
    pub async fn token(&self) -> Result<Option<Arc<Token>>, Error> {
        self.shared.tokens.fresh().await
    }

    /// Uses this token from now on. It is meant for [`Credentials::Token`]; with a secret, the next renewal replaces
    /// it.
    ///
    /// # Errors
    /// When the text contains characters that a token cannot contain.
    pub fn set_token(&self, token: SecretString) -> Result<(), Error> {
        self.shared.tokens.set(token)
    }

    /// `Auth`: the client's own identity and grants.
    pub fn auth(&self) -> AuthClient<Authenticated> {
        AuthClient::new(self.authenticated())
    }

    /// `Topology`: exchanges, queues, bindings.
    pub fn topology(&self) -> TopologyClient<Authenticated> {
        TopologyClient::new(self.authenticated()).max_decoding_message_size(MAX_RESPONSE)
    }

    /// `Admin`: tenants, clients, plans.
    pub fn admin(&self) -> AdminClient<Authenticated> {
        AdminClient::new(self.authenticated()).max_decoding_message_size(MAX_RESPONSE)
    }

    /// The generated `Messaging` client with the token attached, for full control over frames.
    pub fn raw_messaging(&self) -> MessagingClient<Authenticated> {
        self.messaging_on(self.shared.connection.current().0.clone())
    }

    /// Makes a call with a valid token. When the gateway refuses the token, the call is made once more with another
    /// one.
    ///
    /// ```no_run
    /// # async fn example(client: warrengate_client::Client) -> Result<(), warrengate_client::Error> {
    /// use warrengate_client::pb::PurgeQueueRequest;
    /// let purge = |client: warrengate_client::Client| async move {
    ///     client.topology().purge_queue(PurgeQueueRequest { name: "orders".into() }).await
    /// };
    /// println!("{} messages", client.call(purge).await?.messages_purged);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The error of the call.
    pub async fn call<T, F, C>(&self, call: C) -> Result<T, Error>
    where
        C: Fn(Self) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let token = self.shared.tokens.fresh().await?;
        match call(self.clone()).await.map_err(Error::from) {
            Err(error) if is_unauthenticated(&error) => {
                let Ok(_another) = self.shared.tokens.other_than(token.as_ref()).await else { return Err(error) };
                Ok(call(self.clone()).await?.into_inner())
            }
            result => Ok(result?.into_inner()),
        }
    }

    /// The client's own identity and grants.
    ///
    /// # Errors
    /// The error of the call.
    pub async fn whoami(&self) -> Result<pb::WhoAmIResponse, Error> {
        self.call(|client| async move { client.auth().who_am_i(pb::WhoAmIRequest {}).await }).await
    }

    /// Declares a queue. Declaring it again with the same arguments has no effect.
    ///
    /// # Errors
    /// The error of the call, for example `EXISTS_WITH_OTHER_ARGUMENTS`.
    pub async fn declare_queue(&self, queue: pb::Queue) -> Result<(), Error> {
        let request = pb::DeclareQueueRequest { queue: Some(queue), validate_only: false };
        self.call(|client| {
            let request = request.clone();
            async move { client.topology().declare_queue(request).await }
        })
        .await
        .map(drop)
    }

    /// Publishes up to 1,000 messages and waits for all outcomes, which have the same order. A message without an id
    /// gets a UUIDv7. When the gateway is unavailable, the batch is sent again with the same ids.
    ///
    /// # Errors
    /// When the gateway refuses the batch as a whole, or remains unavailable; then no outcome is known.
    pub async fn publish_batch(&self, mut publications: Vec<pb::Publication>) -> Result<Vec<pb::PublishResult>, Error> {
        publications.iter_mut().for_each(ensure_id);
        let mut backoff = Backoff::default();
        let mut tries = 1;
        loop {
            let request = pb::PublishBatchRequest { publications: publications.clone() };
            match self.raw_messaging().publish_batch(request).await.map_err(Error::from) {
                Ok(response) => return Ok(response.into_inner().results),
                Err(error) if error.is_disconnect() && tries < BATCH_TRIES => tries += 1,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// A publisher with the default limits. Its stream is opened for the first message.
    pub fn publisher(&self) -> Publisher {
        self.publisher_with(PublisherOptions::default())
    }

    /// A publisher with these limits.
    pub fn publisher_with(&self, options: PublisherOptions) -> Publisher {
        Publisher::start(self.clone(), options)
    }

    /// Opens a subscription and waits until it is established, for at most 30 s while the gateway is unavailable.
    ///
    /// # Errors
    /// When the gateway cannot be reached or refuses it.
    pub async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription, Error> {
        if self.shared.closing.is_cancelled() {
            return Err(Error::Closed);
        }
        Subscription::open(self.clone(), options).await
    }

    /// Calls a handler for each message of a queue, [`SubscribeOptions::concurrency`] at a time. `Ok` acknowledges the
    /// message; an error or a panic retries it with the queue's back-off, unless the handler has settled it explicitly.
    /// Returns when the gateway has accepted the subscription.
    ///
    /// # Errors
    /// When the gateway cannot be reached or refuses it.
    pub async fn consume<H, F>(&self, options: SubscribeOptions, handler: H) -> Result<Consumer, Error>
    where
        H: Fn(Delivery) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        if self.shared.closing.is_cancelled() {
            return Err(Error::Closed);
        }
        Consumer::start(self.clone(), options, handler).await
    }

    /// Stops consuming, waits for handlers and for the outcomes of messages, for at most this time, and closes the
    /// connection. Messages that were received but not handled are delivered again without counting an attempt. Later
    /// calls fail with the reason `CLOSED`.
    pub async fn close(&self, limit: Duration) {
        let shared = &self.shared;
        let deadline = Instant::now() + limit;
        let consumers = shared.consumers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let consumers: Vec<_> = consumers.iter().filter_map(Weak::upgrade).collect();
        join_all(consumers.iter().map(|consumer| consumer.close(limit))).await;
        shared.closing.cancel();
        let publishers = shared.publishers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // After the deadline, messages without an answer are `UNKNOWN`.
        let _ = tokio::time::timeout_at(deadline, join_all(publishers.iter().map(InFlight::idle))).await;
        publishers.iter().for_each(InFlight::close);
        shared.ended.cancel();
        shared.tasks.close();
        // A subscription writes its settlements and waits for the end of its stream.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, shared.tasks.wait()).await;
        shared.connection.replace(&shared.connection.current());
        self.emit(Lifecycle::Closed, "client", String::new());
    }

    fn authenticated(&self) -> Authenticated {
        self.authenticated_on(self.shared.connection.current().0.clone())
    }

    fn authenticated_on(&self, channel: Channel) -> Authenticated {
        InterceptedService::new(channel, self.shared.tokens.attach(&self.shared.ended))
    }

    fn messaging_on(&self, channel: Channel) -> MessagingClient<Authenticated> {
        MessagingClient::new(self.authenticated_on(channel)).max_decoding_message_size(MAX_RESPONSE)
    }

    fn closing(&self) -> CancellationToken {
        self.shared.closing.clone()
    }

    fn ended(&self) -> CancellationToken {
        self.shared.ended.clone()
    }

    fn emit(&self, kind: Lifecycle, source: &str, detail: String) {
        tracing::debug!(event = kind.as_str(), source, detail);
        if let Some(Listener(listener)) = &self.shared.listener {
            listener(LifecycleEvent { kind, source: source.to_owned(), detail });
        }
    }
}

/// A publication of this body. An empty exchange is the default one, which routes to the queue named by the routing
/// key.
pub fn publication(
    exchange: impl Into<String>,
    routing_key: impl Into<String>,
    body: impl Into<Bytes>,
) -> pb::Publication {
    pb::Publication {
        exchange: exchange.into(),
        routing_key: routing_key.into(),
        message: Some(pb::Message { body: body.into(), ..Default::default() }),
        ..Default::default()
    }
}

/// Assigns an id, so that consumers can recognise a message that was sent again.
fn ensure_id(publication: &mut pb::Publication) {
    if let Some(message) = &mut publication.message
        && message.message_id.is_empty()
    {
        message.message_id = Uuid::now_v7().to_string();
    }
}
