//! The exchanges and queues of a demonstration, under a prefix of its own, which are removed at the end.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use serde_json::json;
use uuid::Uuid;

use super::super::{Error, Output, values};
use crate::{
    client::{Client, Delivery, SubscribeOptions, Subscription},
    pb::{self, Outcome, value::Kind},
};

/// Queues of a killed run are deleted by the broker after this time.
const EXPIRY: Duration = Duration::from_secs(3600);
/// The longest wait for an expected message.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A running demonstration.
pub(super) struct Context<'a> {
    client: Client,
    output: &'a Output,
    name: &'static str,
    prefix: String,
    created: Mutex<Created>,
}

#[derive(Default)]
struct Created {
    queues: Vec<String>,
    exchanges: Vec<String>,
}

impl<'a> Context<'a> {
    pub(super) fn new(client: Client, output: &'a Output, name: &'static str) -> Self {
        let prefix = format!("demo-{}", &Uuid::new_v4().simple().to_string()[..6]);
        Self { client, output, name, prefix, created: Mutex::default() }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The full name of an object.
    pub(super) fn full(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// Prints a line of progress; on standard error when the result is JSON.
    pub(super) fn say(&self, text: &str) -> Result<(), Error> {
        if self.output.is_json() {
            self.output.note(text);
            return Ok(());
        }
        self.output.line(&self.output.safe(text))
    }

    pub(super) fn end(&self, lessons: &[String]) -> Result<(), Error> {
        let lines: String = lessons.iter().map(|line| format!("\n  * {line}")).collect();
        self.output.result(
            || json!({"demo": self.name, "lessons": lessons}),
            || format!("\nWhat to notice:{lines}\n\nRead more: docs/guides/{}.md\n", self.name),
        )
    }

    pub(super) async fn queue(&self, name: &str) -> Result<(), Error> {
        self.queue_of(pb::Queue { name: name.to_owned(), ..pb::Queue::default() }).await
    }

    /// Creates a queue under its full name.
    pub(super) async fn queue_of(&self, mut queue: pb::Queue) -> Result<(), Error> {
        queue.name = self.full(&queue.name);
        if queue.r#type() != pb::QueueType::Stream {
            queue.expires = Some(values::api_duration(EXPIRY));
        }
        self.remember(|created| created.queues.push(queue.name.clone()));
        let request = pb::DeclareQueueRequest { queue: Some(queue), validate_only: false };
        self.client.topology().declare_queue(request).await?;
        Ok(())
    }

    pub(super) async fn exchange(&self, name: &str, kind: pb::ExchangeType) -> Result<(), Error> {
        let exchange = pb::Exchange { name: self.full(name), r#type: kind.into(), ..pb::Exchange::default() };
        self.remember(|created| created.exchanges.push(exchange.name.clone()));
        let request = pb::DeclareExchangeRequest { exchange: Some(exchange), validate_only: false };
        self.client.topology().declare_exchange(request).await?;
        Ok(())
    }

    /// Binds by routing key.
    pub(super) async fn bind(&self, source: &str, queue: &str, routing_key: &str) -> Result<(), Error> {
        self.bind_by(source, queue, pb::Binding { routing_key: routing_key.to_owned(), ..pb::Binding::default() }).await
    }

    /// Binds with the conditions of this binding.
    pub(super) async fn bind_by(&self, source: &str, queue: &str, binding: pb::Binding) -> Result<(), Error> {
        let binding = pb::Binding { source: self.full(source), destination: self.full(queue), ..binding };
        self.client.topology().bind(pb::BindRequest { binding: Some(binding) }).await?;
        Ok(())
    }

    /// A publication through an exchange of the demonstration.
    pub(super) fn to_exchange(&self, exchange: &str, routing_key: &str, body: impl Into<String>) -> pb::Publication {
        crate::client::publication(self.full(exchange), routing_key, body.into())
    }

    /// A publication to a queue of the demonstration.
    pub(super) fn to_queue(&self, queue: &str, body: impl Into<String>) -> pb::Publication {
        crate::client::publication("", self.full(queue), body.into())
    }

    /// Publishes; every message must be confirmed.
    pub(super) async fn publish(&self, publications: Vec<pb::Publication>) -> Result<(), Error> {
        for result in self.client.publish_batch(publications).await? {
            check(result.outcome() == Outcome::Confirmed, || {
                format!("a message was not confirmed: {}", result.reason)
            })?;
        }
        Ok(())
    }

    pub(super) async fn subscribe(&self, queue: &str) -> Result<Subscription, Error> {
        self.subscribe_with(queue, |options| options).await
    }

    pub(super) async fn subscribe_with(
        &self,
        queue: &str,
        change: impl FnOnce(SubscribeOptions) -> SubscribeOptions,
    ) -> Result<Subscription, Error> {
        Ok(self.client.subscribe(change(SubscribeOptions::queue(self.full(queue)))).await?)
    }

    /// Receives and acknowledges this many messages of a queue; their bodies.
    pub(super) async fn take(&self, queue: &str, count: usize) -> Result<Vec<String>, Error> {
        let mut subscription = self.subscribe(queue).await?;
        let taken = take(&mut subscription, count).await;
        subscription.close().await?;
        taken
    }

    /// Removes everything. A failure is only reported, because unused queues expire.
    pub(super) async fn clear(&self) {
        let created = self.remember(std::mem::take);
        for name in created.queues {
            let request = pb::DeleteQueueRequest { name, ..pb::DeleteQueueRequest::default() };
            self.report_failure(self.client.topology().delete_queue(request).await.map(drop));
        }
        for name in created.exchanges {
            let request = pb::DeleteExchangeRequest { name, if_unused: false };
            self.report_failure(self.client.topology().delete_exchange(request).await.map(drop));
        }
    }

    fn report_failure(&self, removed: Result<(), tonic::Status>) {
        if let Err(status) = removed
            && status.code() != tonic::Code::NotFound
        {
            self.output.note(&format!("cannot remove an object of the demonstration: {}", status.message()));
        }
    }

    fn remember<T>(&self, change: impl FnOnce(&mut Created) -> T) -> T {
        change(&mut self.created.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// Receives and acknowledges this many messages; their bodies.
pub(super) async fn take(subscription: &mut Subscription, count: usize) -> Result<Vec<String>, Error> {
    let mut bodies = Vec::with_capacity(count);
    while bodies.len() < count {
        let delivery = next(subscription).await?;
        bodies.push(text(&delivery));
        subscription.ack(&delivery)?;
    }
    Ok(bodies)
}

/// The next delivery, which is expected.
pub(super) async fn next(subscription: &mut Subscription) -> Result<Delivery, Error> {
    match tokio::time::timeout(TIMEOUT, subscription.next()).await {
        Ok(delivery) => delivery?.ok_or_else(|| Error::Failed("the subscription ended".to_owned())),
        Err(_) => Err(Error::Failed(format!("no message arrived within {} s", TIMEOUT.as_secs()))),
    }
}

pub(super) fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.body()).into_owned()
}

/// Fails the demonstration when a claim does not hold.
pub(super) fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::Failed(what())) }
}

/// Headers of these names and values.
pub(super) fn headers<const N: usize>(pairs: [(&str, Kind); N]) -> HashMap<String, pb::Value> {
    pairs.into_iter().map(|(name, kind)| (name.to_owned(), pb::Value { kind: Some(kind) })).collect()
}
