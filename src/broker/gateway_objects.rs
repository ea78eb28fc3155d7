//! The gateway's own objects in a tenant's vhost: their names, arguments and declarations. Tenants neither see them nor
//! can name them (`wg.`). Messages that `wg.return` cannot route become dead letters, so no message remains in the
//! delay queues.
//!
//! A broker that starts restores bindings one by one, while delay queues already return messages. A message whose route
//! is missing therefore waits and is returned once more, before its queue counts as deleted.
//!
//! | object | kind | purpose |
//! | --- | --- | --- |
//! | `wg.dead-letters` | fanout exchange and queue | stores messages that could not be processed |
//! | `wg.delay` | headers exchange | routes a retry by its delay |
//! | `wg.delay.<ms>`, `wg.delay.<ms>.high` | queue | stores retries with this delay until their time to live ends |
//! | `wg.return.first` | direct exchange | routes a retry whose delay has ended to its queue, by the queue's name |
//! | `wg.return.later`, `wg.delay.return` | fanout exchange and queue | stores retries that could not be routed, for 10 s |
//! | `wg.return` | direct exchange | routes these to their queues |

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
/// Routes by the queue's name, for the first time and for the last.
const FIRST_RETURN_EXCHANGE: &str = "wg.return.first";
const RETURN_EXCHANGE: &str = "wg.return";
/// Where messages wait that the first of these could not route. The queue's name is that of a delay queue, because it is
/// one for everything that counts or reads messages.
const LATER_RETURN_EXCHANGE: &str = "wg.return.later";
const LATER_RETURN_QUEUE: &str = "wg.delay.return";
/// Within this time, a broker that starts has restored all bindings.
const LATER_RETURN_MILLIS: u64 = 10_000;

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
        declare_later_return(&channel).await?;
        declare_exchange(&channel, DELAY_EXCHANGE, ExchangeKind::Headers, FieldTable::default()).await?;
        declare_waiting_queue(&channel, &name, bucket.millis(), FIRST_RETURN_EXCHANGE).await?;
        let mut matching = FieldTable::default();
        matching.insert("x-match".into(), text("all"));
        matching.insert(DELAY_HEADER.into(), text(&bucket.to_string()));
        let options = QueueBindOptions::default();
        Ok(channel.queue_bind(name.as_str().into(), DELAY_EXCHANGE.into(), "".into(), options, matching).await?)
    })
    .await
}

/// Declares the routes from the delay queues to a queue.
///
/// # Errors
/// When the queue is missing, or the broker cannot be reached.
pub(super) async fn declare_return(channel: &Channel, queue: &QueueName) -> Result<(), Error> {
    for (exchange, alternate) in [(RETURN_EXCHANGE, DEAD_LETTERS), (FIRST_RETURN_EXCHANGE, LATER_RETURN_EXCHANGE)] {
        let mut arguments = FieldTable::default();
        arguments.insert("alternate-exchange".into(), text(alternate));
        declare_exchange(channel, exchange, ExchangeKind::Direct, arguments).await?;
        let (name, key) = (queue.as_str().into(), queue.as_str().into());
        let options = QueueBindOptions::default();
        channel.queue_bind(name, exchange.into(), key, options, FieldTable::default()).await?;
    }
    Ok(())
}

/// Declares what stores messages without a route until they are returned for the last time.
async fn declare_later_return(channel: &Channel) -> Result<(), Error> {
    declare_exchange(channel, LATER_RETURN_EXCHANGE, ExchangeKind::Fanout, FieldTable::default()).await?;
    declare_waiting_queue(channel, LATER_RETURN_QUEUE, LATER_RETURN_MILLIS, RETURN_EXCHANGE).await?;
    let (name, exchange) = (LATER_RETURN_QUEUE.into(), LATER_RETURN_EXCHANGE.into());
    Ok(channel.queue_bind(name, exchange, "".into(), QueueBindOptions::default(), FieldTable::default()).await?)
}

/// Declares a queue that passes its messages on to an exchange after a time.
async fn declare_waiting_queue(channel: &Channel, name: &str, millis: u64, next: &'static str) -> Result<(), Error> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(i64::try_from(millis).unwrap_or(i64::MAX)));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    arguments.insert("x-dead-letter-exchange".into(), text(next));
    arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    channel.queue_declare(name.into(), durable_queue(), arguments).await?;
    Ok(())
}

/// Checks that a queue exists, by declaring the routes to it.
///
/// # Errors
/// [`Error::NoQueue`] when it does not; others when that is unknown.
pub(super) async fn check_queue(connections: &TenantConnections, queue: &QueueName) -> Result<(), Error> {
    on_channel(connections, async |channel| declare_return(&channel, queue).await).await
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
