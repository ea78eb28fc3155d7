//! A tenant for one test.

use secrecy::SecretString;
use warrengate::{
    client::{Client, Credentials, SubscribeOptions, Subscription},
    pb::{self, QueueType},
};

use super::{
    SharedStack,
    proxy::Proxy,
    to_queue,
    wait::{until, within},
};

/// A new tenant, with a client that may do everything in it.
#[derive(Clone)]
pub struct Tenant {
    pub id: String,
    pub client_id: String,
    pub secret: SecretString,
    pub client: Client,
}

impl Tenant {
    pub async fn fresh() -> Self {
        let shared = SharedStack::get();
        Self::made_by(&shared.admin().await, async |id, secret| shared.client(id, secret).await).await
    }

    /// A new tenant of any stack, created by its administrator; `connect` creates its client.
    pub async fn made_by(admin: &Client, connect: impl AsyncFnOnce(&str, &SecretString) -> Client) -> Self {
        let id = format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let tenant = pb::Tenant { id: id.clone(), ..pb::Tenant::default() };
        let request = pb::CreateTenantRequest { tenant: Some(tenant), ..pb::CreateTenantRequest::default() };
        admin.admin().create_tenant(request).await.unwrap();
        let (client_id, secret) = Self::add_client(admin, &id, "app", all_grants()).await;
        let client = connect(&client_id, &secret).await;
        Self { id, client_id, secret, client }
    }

    /// Adds a client to a tenant; returns its id and secret.
    pub async fn add_client(admin: &Client, tenant: &str, name: &str, grants: pb::Grants) -> (String, SecretString) {
        let client_id = format!("{tenant}.{name}");
        let client = pb::Client { client_id: client_id.clone(), grants: Some(grants), ..pb::Client::default() };
        let request = pb::CreateClientRequest { client: Some(client), ..pb::CreateClientRequest::default() };
        let made = admin.admin().create_client(request).await.unwrap().into_inner();
        (client_id, made.client_secret.into())
    }

    /// A client of the shared stack through a proxy that can be cut, so that its messages are lost without an orderly
    /// close.
    pub async fn client_through(&self, proxy: &Proxy) -> Client {
        self.client_at(&format!("https://{}", proxy.endpoint())).await
    }

    /// A client of any gateway of the shared stack, once that gateway has loaded it.
    pub async fn client_at(&self, endpoint: &str) -> Client {
        let credentials = Credentials::Secret { client_id: self.client_id.clone(), secret: self.secret.clone() };
        let client = SharedStack::get().client_at(endpoint, credentials).await;
        known(&client).await;
        client
    }

    pub async fn queue(&self, name: &str) {
        self.queue_of(pb::Queue { name: name.into(), ..pb::Queue::default() }).await;
    }

    pub async fn queue_typed(&self, name: &str, kind: QueueType) {
        self.queue_of(pb::Queue { name: name.into(), r#type: kind.into(), ..pb::Queue::default() }).await;
    }

    pub async fn queue_of(&self, queue: pb::Queue) {
        let request = pb::DeclareQueueRequest { queue: Some(queue), validate_only: false };
        self.client.topology().declare_queue(request).await.unwrap();
    }

    pub async fn exchange(&self, name: &str, kind: pb::ExchangeType) {
        self.exchange_of(pb::Exchange { name: name.into(), r#type: kind.into(), ..pb::Exchange::default() }).await;
    }

    pub async fn exchange_of(&self, exchange: pb::Exchange) {
        let request = pb::DeclareExchangeRequest { exchange: Some(exchange), validate_only: false };
        self.client.topology().declare_exchange(request).await.unwrap();
    }

    pub async fn bind(&self, source: &str, queue: &str, routing_key: &str) {
        let binding = pb::Binding {
            source: source.into(),
            destination: queue.into(),
            routing_key: routing_key.into(),
            ..pb::Binding::default()
        };
        self.client.topology().bind(pb::BindRequest { binding: Some(binding) }).await.unwrap();
    }

    /// Publishes a message and expects a confirm.
    pub async fn publish(&self, publication: pb::Publication) -> pb::PublishResult {
        let mut results = within("a publish", self.client.publish_batch(vec![publication])).await.unwrap();
        let result = results.remove(0);
        assert_eq!(result.outcome(), pb::Outcome::Confirmed, "{result:?}");
        result
    }

    pub async fn publish_to(&self, queue: &str, body: impl Into<bytes::Bytes>) {
        self.publish(to_queue(queue, body)).await;
    }

    /// Publishes a batch; returns the outcomes in order.
    pub async fn outcomes(&self, publications: Vec<pb::Publication>) -> Vec<pb::Outcome> {
        let results = within("a publish", self.client.publish_batch(publications)).await.unwrap();
        results.iter().map(pb::PublishResult::outcome).collect()
    }

    /// The number of ready messages in a queue.
    pub async fn depth(&self, queue: &str) -> u64 {
        let request = pb::GetQueueRequest { name: queue.into() };
        let answer = within("a queue's state", self.client.topology().get_queue(request)).await.unwrap();
        answer.into_inner().status.unwrap().messages_ready
    }

    /// Waits until `depth` messages are ready in a queue, because returned messages appear with a delay.
    pub async fn has_depth(&self, queue: &str, depth: u64) {
        let what = format!("{depth} messages in queue {queue}");
        until(&what, async || (self.depth(queue).await == depth).then_some(())).await;
    }

    /// Consumes exactly these bodies from a queue.
    pub async fn holds(&self, queue: &str, bodies: &[&str]) {
        self.has_depth(queue, bodies.len() as u64).await;
        assert_eq!(self.take(queue, bodies.len()).await, bodies, "in queue {queue}");
    }

    /// Purges a queue; returns the number of messages.
    pub async fn purge(&self, queue: &str) -> u64 {
        let request = pb::PurgeQueueRequest { name: queue.into() };
        let answer = within("a purge", self.client.topology().purge_queue(request)).await.unwrap();
        answer.into_inner().messages_purged
    }

    pub async fn subscribe(&self, queue: &str) -> Subscription {
        within("a subscription", self.client.subscribe(SubscribeOptions::queue(queue))).await.unwrap()
    }

    /// Consumes and acknowledges `count` messages; returns their bodies.
    pub async fn take(&self, queue: &str, count: usize) -> Vec<bytes::Bytes> {
        let mut subscription = self.subscribe(queue).await;
        let mut bodies = Vec::new();
        while bodies.len() < count {
            let delivery = within("a delivery", subscription.next()).await.unwrap().expect("the stream continues");
            bodies.push(delivery.message().body.clone());
            subscription.ack(&delivery).unwrap();
        }
        subscription.close().await.unwrap();
        bodies
    }
}

/// All permissions in the tenant except administration.
pub fn all_grants() -> pb::Grants {
    pb::Grants {
        publish: vec![pb::PublishGrant { exchange: "#".into(), routing_key: "#".into() }],
        subscribe: vec!["#".into()],
        configure: vec!["#".into()],
        administer: false,
        observe: true,
    }
}

/// Waits until the client's gateway has loaded it, because another gateway may have just created it.
pub async fn known(client: &Client) {
    until("the gateway knows the client", async || client.auth().who_am_i(pb::WhoAmIRequest {}).await.ok()).await;
}
