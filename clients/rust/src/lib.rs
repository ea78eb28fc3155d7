//! A client for the Warrengate messaging gateway: publish, subscribe, and manage queues over gRPC.
//!
//! A [`Client`] has one connection and one token, which it renews. A [`Publisher`] gives every message exactly one
//! outcome; a [`Subscription`] survives broken streams and gateway restarts, and a settlement never applies to a
//! delivery other than its own. All queues are bounded.
//!
//! ```no_run
//! use warrengate_client::{Client, ClientOptions, Error, SubscribeOptions, pb::Outcome, publication};
//!
//! # async fn example() -> Result<(), Error> {
//! // WARRENGATE_ENDPOINT, WARRENGATE_CA, WARRENGATE_CLIENT_ID, WARRENGATE_CLIENT_SECRET
//! let client = Client::connect(ClientOptions::from_env()?).await?;
//!
//! let publisher = client.publisher();
//! let receipt = publisher.send(publication("", "orders", "one order")).await?;
//! assert_eq!(receipt.await.outcome(), Outcome::Confirmed);
//! publisher.close().await?;
//!
//! let mut subscription = client.subscribe(SubscribeOptions::queue("orders")).await?;
//! while let Some(delivery) = subscription.next().await? {
//!     subscription.ack(&delivery)?;
//! }
//! # Ok(())
//! # }
//! ```

mod backoff;
mod channel;
mod error;
mod options;
mod publisher;
mod stream;
mod subscription;
mod token;

#[cfg(test)]
mod peer;

pub use error::{Error, Refusal};
pub use options::{ClientOptions, Credentials};
pub use publisher::{Publisher, PublisherOptions, Receipt};
pub use subscription::{Delivery, Event, Nack, Settler, SubscribeOptions, Subscription};
pub use token::{AttachToken, Token};

use std::sync::Arc;

use bytes::Bytes;
use secrecy::SecretString;
use tonic::{service::interceptor::InterceptedService, transport::Channel};
use uuid::Uuid;

pub use warrengate_proto as pb;

use backoff::Backoff;
use pb::{
    admin_client::AdminClient, auth_client::AuthClient, messaging_client::MessagingClient,
    topology_client::TopologyClient,
};
use token::Tokens;

/// The connection with the client's token on every call.
pub type Authenticated = InterceptedService<Channel, AttachToken>;

/// The maximum size of a response. A frame of deliveries may contain a whole window of messages.
const MAX_RESPONSE: usize = 64 << 20;
const BATCH_TRIES: u32 = 5;

/// A connection to the gateway. Cheap to clone; all clones share one connection and one token.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    tokens: Arc<Tokens>,
}

impl Client {
    /// Connects, and fetches the first token if there is a client secret.
    ///
    /// # Errors
    /// When the options are invalid, the gateway cannot be reached, or it refuses the credentials.
    pub async fn connect(options: ClientOptions) -> Result<Self, Error> {
        let channel = channel::open(&options).await?;
        let tokens = Tokens::open(&options, channel.clone()).await?;
        Ok(Self { channel, tokens: Arc::new(tokens) })
    }

    /// A valid token; `None` for [`Credentials::Anonymous`].
    ///
    /// # Errors
    /// When a new token is needed and cannot be fetched.
    pub async fn token(&self) -> Result<Option<Arc<Token>>, Error> {
        self.tokens.fresh().await
    }

    /// Uses this token from now on. It is meant for [`Credentials::Token`]; with a secret, the next renewal replaces
    /// it.
    ///
    /// # Errors
    /// When the text contains characters that a token cannot contain.
    pub fn set_token(&self, token: SecretString) -> Result<(), Error> {
        self.tokens.set(token)
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
        MessagingClient::new(self.authenticated()).max_decoding_message_size(MAX_RESPONSE)
    }

    /// Publishes up to 1,000 messages and waits for all outcomes, which have the same order. A message without an id
    /// gets a UUIDv7. When the gateway is unavailable, the batch is sent again with the same ids.
    ///
    /// # Errors
    /// When the gateway refuses the batch as a whole, or stays unavailable; then no outcome is known.
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

    /// Opens a subscription and waits until it is established.
    ///
    /// # Errors
    /// When the gateway cannot be reached or refuses it.
    pub async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription, Error> {
        Subscription::open(self.clone(), options).await
    }

    fn authenticated(&self) -> Authenticated {
        InterceptedService::new(self.channel.clone(), self.tokens.attach())
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
