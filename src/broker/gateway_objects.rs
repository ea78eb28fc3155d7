//! The gateway's own objects in a tenant's vhost: their names, arguments and declarations. Tenants neither see them nor
//! can name them (`wg.`). Messages that `wg.return` cannot route become dead letters, so no message remains in the
//! delay queues.
//!
//! | object | kind | purpose |
//! | --- | --- | --- |
//! | `wg.dead-letters` | fanout exchange and queue | stores messages that could not be processed |
//! | `wg.delay` | headers exchange | routes a retry by its delay |
//! | `wg.delay.<ms>`, `wg.delay.<ms>.high` | queue | stores retries with this delay until their time to live ends |
//! | `wg.return` | direct exchange | routes a retry whose delay has ended to its queue, by the queue's name |

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    connection::{channel_op::on_channel, tenant_connections::TenantConnections},
    error::Error,
    message::{delay_bucket::DelayBucket, retained::DELAY_HEADER},
};
use crate::names::QueueName;

/// The fanout exchange for dead letters, and the queue bound to it.
pub const DEAD_LETTERS: &str = "wg.dead-letters";
/// Routes by [`DELAY_HEADER`] to the queue of that delay.
pub(super) const DELAY_EXCHANGE: &str = "wg.delay";
/// The names of delay queues: this and the delay in milliseconds.
pub(super) const DELAY_QUEUE_PREFIX: &str = "wg.delay.";
/// Routes by the queue's name.
pub(super) const RETURN_EXCHANGE: &str = "wg.return";

/// The number of deliveries after which RabbitMQ drops or dead-letters a message (4.x: 20 by default). RabbitMQ 3.10
/// counts each requeue, so the limit is high enough that only an endless loop reaches it. The gateway counts attempts
/// itself.
pub(super) const DELIVERY_LIMIT: i64 = 1_000_000;
/// The maximum number of the gateway's own queues in a tenant's vhost. It is added to the plan's limit, which applies
/// to the tenant's own queues.
pub const OWN_QUEUES: u32 = 256;

/// The value of a queue argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// A text.
    Text(&'static str),
    /// A number.
    Integer(i64),
    /// A truth value.
    Flag(bool),
}

/// The arguments of the dead-letter queue, for its declaration by AMQP and by the management API alike.
pub const DEAD_LETTER_QUEUE_ARGUMENTS: [(&str, Argument); 5] = [
    ("x-queue-type", Argument::Text("quorum")),
    ("x-overflow", Argument::Text("reject-publish")),
    // When this queue is full, messages remain in their own queues.
    ("x-max-length-bytes", Argument::Integer(1 << 30)),
    // Listing delivers all dead letters, and the broker would drop them after the last allowed delivery.
    ("x-delivery-limit", Argument::Integer(1_000_000_000_000)),
    // Calls that read or redrive dead letters exclude each other, on all gateways.
    ("x-single-active-consumer", Argument::Flag(true)),
];

impl From<Argument> for AMQPValue {
    fn from(argument: Argument) -> Self {
        match argument {
            Argument::Text(value) => text(value),
            Argument::Integer(value) => Self::LongLongInt(value),
            Argument::Flag(value) => Self::Boolean(value),
        }
    }
}

impl From<Argument> for serde_json::Value {
    fn from(argument: Argument) -> Self {
        match argument {
            Argument::Text(value) => value.into(),
            Argument::Integer(value) => value.into(),
            Argument::Flag(value) => value.into(),
        }
    }
}

/// Declares the queue for a delay, and the route from it to the queue of its messages.
///
/// # Errors
/// When the queue is missing, a limit is reached, or the broker cannot be reached.
pub(super) async fn declare_delay_queue(
    connections: &TenantConnections,
    bucket: DelayBucket,
    queue: &QueueName,
) -> Result<(), Error> {
    let name = format!("{DELAY_QUEUE_PREFIX}{bucket}");
    on_channel(connections, async |channel| {
        declare_return(&channel, queue).await?;
        declare_exchange(&channel, DELAY_EXCHANGE, ExchangeKind::Headers, FieldTable::default()).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), text("quorum"));
        arguments
            .insert("x-message-ttl".into(), AMQPValue::LongLongInt(i64::try_from(bucket.millis()).unwrap_or(i64::MAX)));
        arguments.insert("x-overflow".into(), text("reject-publish"));
        arguments.insert("x-dead-letter-exchange".into(), text(RETURN_EXCHANGE));
        arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
        channel.queue_declare(name.as_str().into(), durable_queue(), arguments).await?;
        let mut matching = FieldTable::default();
        matching.insert("x-match".into(), text("all"));
        matching.insert(DELAY_HEADER.into(), text(&bucket.to_string()));
        let options = QueueBindOptions::default();
        Ok(channel.queue_bind(name.as_str().into(), DELAY_EXCHANGE.into(), "".into(), options, matching).await?)
    })
    .await
}

/// Declares the route from the delay queues to a queue.
///
/// # Errors
/// When the queue is missing, or the broker cannot be reached.
pub(super) async fn declare_return(channel: &Channel, queue: &QueueName) -> Result<(), Error> {
    let mut arguments = FieldTable::default();
    arguments.insert("alternate-exchange".into(), text(DEAD_LETTERS));
    declare_exchange(channel, RETURN_EXCHANGE, ExchangeKind::Direct, arguments).await?;
    let (name, key) = (queue.as_str().into(), queue.as_str().into());
    let options = QueueBindOptions::default();
    Ok(channel.queue_bind(name, RETURN_EXCHANGE.into(), key, options, FieldTable::default()).await?)
}

/// Declares the dead-letter exchange and queue again, which provisioning has declared with the management API.
///
/// # Errors
/// When the broker cannot be reached.
pub(super) async fn declare_dead_letters(connections: &TenantConnections) -> Result<(), Error> {
    on_channel(connections, async |channel| {
        declare_exchange(&channel, DEAD_LETTERS, ExchangeKind::Fanout, FieldTable::default()).await?;
        let mut arguments = FieldTable::default();
        for (name, value) in DEAD_LETTER_QUEUE_ARGUMENTS {
            arguments.insert(name.into(), value.into());
        }
        channel.queue_declare(DEAD_LETTERS.into(), durable_queue(), arguments).await?;
        let options = QueueBindOptions::default();
        Ok(channel
            .queue_bind(DEAD_LETTERS.into(), DEAD_LETTERS.into(), "".into(), options, FieldTable::default())
            .await?)
    })
    .await
}

/// A text as an AMQP value.
pub(super) fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn durable_queue() -> QueueDeclareOptions {
    QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }
}

async fn declare_exchange(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
    arguments: FieldTable,
) -> Result<(), Error> {
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    Ok(channel.exchange_declare(name.into(), kind, durable, arguments).await?)
}
