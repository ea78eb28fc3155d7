//! A tenant's dead letters, which no RPC shows yet: read past the gateway, with the tenant's own certificate.

use lapin::{
    Channel, Connection,
    options::{BasicGetOptions, BasicNackOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    Tenant,
    broker::{Login, amqp, certificate_of, tls},
    wait::until,
};

const QUEUE: &str = "wg.dead-letters";

/// A message that was given up.
#[derive(Debug)]
pub struct DeadLetter {
    pub body: String,
    /// The queue that gave it up, and why, as the broker's first `x-death` entry has it.
    pub queue: String,
    pub reason: String,
}

impl Tenant {
    async fn past_the_gateway(&self) -> (Connection, Channel) {
        let vhost = format!("wg.{}", self.id);
        let connection = amqp(tls(Some(&certificate_of(&self.id))), &vhost, Login::External).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        (connection, channel)
    }

    /// Whether this broker counts a message that is handed back (basic.nack) as an attempt that failed. RabbitMQ before 4.3
    /// does.
    pub async fn broker_counts_hand_backs(&self) -> bool {
        self.queue("counts-hand-backs").await;
        self.publish_to("counts-hand-backs", "x").await;
        let (_connection, channel) = self.past_the_gateway().await;
        let get = async || channel.basic_get("counts-hand-backs".into(), BasicGetOptions::default()).await.unwrap();
        let first = until("a message", get).await;
        let requeue = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
        channel.basic_nack(first.delivery_tag, requeue).await.unwrap();
        let again = until("the message again", get).await;
        let headers = again.properties.headers().clone().unwrap_or_default();
        match headers.inner().get("x-delivery-count") {
            Some(AMQPValue::LongLongInt(count)) => *count > 0,
            None => false,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for a dead letter and takes it.
    pub async fn dead_letter(&self) -> DeadLetter {
        let (_connection, channel) = self.past_the_gateway().await;
        let message = until("a dead letter", async || {
            channel.basic_get(QUEUE.into(), BasicGetOptions { no_ack: true }).await.unwrap()
        })
        .await;
        let headers = message.properties.headers().clone().expect("a dead letter has headers");
        let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get("x-death") else { panic!("{headers:?}") };
        let Some(AMQPValue::FieldTable(death)) = deaths.as_slice().first() else { panic!("{headers:?}") };
        let text = |name: &str| match death.inner().get(name) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            other => panic!("{name}: {other:?}"),
        };
        let body = String::from_utf8(message.delivery.data.to_vec()).unwrap();
        DeadLetter { body, queue: text("queue"), reason: text("reason") }
    }

    /// How many dead letters there are.
    pub async fn dead_letters_left(&self) -> u32 {
        let (_connection, channel) = self.past_the_gateway().await;
        let options = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(QUEUE.into(), options, FieldTable::default()).await.unwrap().message_count()
    }
}
