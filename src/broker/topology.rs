//! Exchanges, queues and bindings, declared as the tenant's own user. Valid names and specifications enter; each operation
//! has a channel of its own, since a refusal closes it, and so touches no stream.

use std::{sync::Arc, time::Duration};

use lapin::{
    Channel,
    options::{
        ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, ExchangeUnbindOptions, QueueBindOptions,
        QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};

use super::{
    Error, RetryPolicy,
    connection::live::Unfinished,
    handle::Links,
    message::headers,
    retry::delay_queues::{DELIVERY_LIMIT, ensure_return},
};
use crate::{
    error::Failure,
    names::{ExchangeName, QueueName, RoutingKey},
    pb::Value,
};

/// Where what cannot be handled goes, in every tenant's vhost; made by the room `provision`.
pub(super) const DEAD_LETTERS: &str = "wg.dead-letters";

const DEADLINE: Duration = Duration::from_secs(10);

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By equal routing key.
    Direct,
    /// By words of the routing key.
    Topic,
    /// To all.
    Fanout,
    /// By header values.
    Headers,
}

/// An exchange to make.
#[derive(Debug, Clone)]
pub struct ExchangeSpec {
    /// Its name.
    pub name: ExchangeName,
    /// How it routes.
    pub kind: ExchangeKind,
    /// Deleted with its last binding.
    pub auto_delete: bool,
    /// Takes messages from exchanges only.
    pub internal: bool,
    /// Gets what this one cannot route.
    pub alternate: Option<ExchangeName>,
}

/// How a queue stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueKind {
    /// Replicated.
    Quorum,
    /// On one node.
    Classic,
    /// An append-only log.
    Stream,
}

/// A queue to make; what is none is the broker's default.
#[derive(Debug, Clone)]
pub struct QueueSpec {
    /// Its name.
    pub name: QueueName,
    /// How it stores.
    pub kind: QueueKind,
    /// Messages.
    pub max_length: Option<i64>,
    /// Bytes.
    pub max_length_bytes: Option<i64>,
    /// Milliseconds.
    pub message_ttl: Option<i64>,
    /// Milliseconds.
    pub expires: Option<i64>,
    /// How often and when a message is tried again; none for streams.
    pub retry: Option<RetryPolicy>,
    /// Classic queues only.
    pub max_priority: Option<i64>,
    /// Others stand by.
    pub single_active_consumer: bool,
    /// Seconds; streams only.
    pub max_age: Option<i64>,
    /// Streams only.
    pub stream_max_segment_bytes: Option<i64>,
}

/// A queue as it is now.
#[derive(Debug, Clone, Copy)]
pub struct QueueState {
    /// Ready messages.
    pub messages: u32,
    /// Consumers.
    pub consumers: u32,
}

/// A binding to make or remove.
#[derive(Debug, Clone)]
pub struct BindingSpec {
    /// Where messages come from.
    pub source: ExchangeName,
    /// Where they go.
    pub destination: Destination,
    /// Key or pattern.
    pub routing_key: RoutingKey,
    /// For headers exchanges, with `x-match`.
    arguments: FieldTable,
}

/// Where a binding leads.
#[derive(Debug, Clone)]
pub enum Destination {
    /// A queue.
    Queue(QueueName),
    /// An exchange.
    Exchange(ExchangeName),
}

impl Destination {
    /// Its name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Queue(queue) => queue.as_str(),
            Self::Exchange(exchange) => exchange.as_str(),
        }
    }
}

impl BindingSpec {
    /// A binding; `headers` with whether any of them is enough, for headers exchanges.
    ///
    /// # Errors
    /// When the headers are over a limit.
    pub fn new<'a>(
        source: ExchangeName,
        destination: Destination,
        routing_key: RoutingKey,
        headers: impl IntoIterator<Item = (&'a String, &'a Value)>,
        any: bool,
    ) -> Result<Self, Failure> {
        let mut arguments = headers::to_table(headers).map_err(|failure| failure.on_field("binding.headers"))?;
        if !arguments.inner().is_empty() {
            arguments.insert("x-match".into(), text(if any { "any" } else { "all" }));
        }
        Ok(Self { source, destination, routing_key, arguments })
    }
}

/// A tenant's topology.
pub struct Topology {
    links: Arc<Links>,
}

impl Topology {
    pub(super) fn new(links: Arc<Links>) -> Self {
        Self { links }
    }

    /// Makes an exchange, or finds it as asked for.
    ///
    /// # Errors
    /// When it exists otherwise, or the broker is away.
    pub async fn declare_exchange(&self, spec: &ExchangeSpec) -> Result<(), Error> {
        let kind = match spec.kind {
            ExchangeKind::Direct => lapin::ExchangeKind::Direct,
            ExchangeKind::Topic => lapin::ExchangeKind::Topic,
            ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
            ExchangeKind::Headers => lapin::ExchangeKind::Headers,
        };
        let options = ExchangeDeclareOptions {
            durable: true,
            auto_delete: spec.auto_delete,
            internal: spec.internal,
            ..ExchangeDeclareOptions::default()
        };
        let mut arguments = FieldTable::default();
        if let Some(alternate) = &spec.alternate {
            arguments.insert("alternate-exchange".into(), text(alternate.as_str()));
        }
        on_channel(&self.links, async |channel| {
            Ok(channel.exchange_declare(spec.name.as_str().into(), kind, options, arguments).await?)
        })
        .await
    }

    /// # Errors
    /// When it is missing, in use against the wish, or the broker is away.
    pub async fn delete_exchange(&self, name: &ExchangeName, if_unused: bool) -> Result<(), Error> {
        if !exchange_exists(&self.links, name.as_str()).await? {
            return Err(Error::NoExchange(name.to_string()));
        }
        on_channel(&self.links, async |channel| {
            let options = ExchangeDeleteOptions { if_unused, ..ExchangeDeleteOptions::default() };
            Ok(channel.exchange_delete(name.as_str().into(), options).await?)
        })
        .await
    }

    /// Makes a queue, or finds it as asked for.
    ///
    /// # Errors
    /// When it exists otherwise, a limit is reached, or the broker is away.
    pub async fn declare_queue(&self, spec: &QueueSpec) -> Result<QueueState, Error> {
        on_channel(&self.links, async |channel| {
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            let queue = channel.queue_declare(spec.name.as_str().into(), options, arguments(spec)).await?;
            if spec.retry.is_some() {
                ensure_return(&channel, &spec.name).await?;
            }
            Ok(QueueState { messages: queue.message_count(), consumers: queue.consumer_count() })
        })
        .await
    }

    /// The queue's state now.
    ///
    /// # Errors
    /// When it is missing, or the broker is away.
    pub async fn queue_state(&self, name: &QueueName) -> Result<QueueState, Error> {
        queue_state(&self.links, name.as_str()).await
    }

    /// Deletes a queue; how many ready messages went with it.
    ///
    /// # Errors
    /// When it is missing, in use or not empty against the wish, or the broker is away.
    pub async fn delete_queue(&self, name: &QueueName, if_unused: bool, if_empty: bool) -> Result<u32, Error> {
        let state = self.queue_state(name).await?;
        // Quorum queues do not know these conditions (RabbitMQ ignores or refuses them): they are looked at here, which
        // another client can outrun.
        if if_unused && state.consumers > 0 {
            return Err(Error::InUse(format!("queue {:?}", name.as_str())));
        }
        if if_empty && state.messages > 0 {
            return Err(Error::NotEmpty(name.to_string()));
        }
        on_channel(&self.links, async |channel| {
            Ok(channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await?)
        })
        .await
    }

    /// Removes the ready messages; how many.
    ///
    /// # Errors
    /// When it is missing, a stream, or the broker is away.
    pub async fn purge_queue(&self, name: &QueueName) -> Result<u32, Error> {
        on_channel(&self.links, async |channel| {
            Ok(channel.queue_purge(name.as_str().into(), QueuePurgeOptions::default()).await?)
        })
        .await
    }

    /// # Errors
    /// When an end is missing, or the broker is away.
    pub async fn bind(&self, spec: &BindingSpec) -> Result<(), Error> {
        let (source, key) = (spec.source.as_str().into(), spec.routing_key.as_str().into());
        let arguments = spec.arguments.clone();
        on_channel(&self.links, async |channel| match &spec.destination {
            Destination::Queue(queue) => {
                let options = QueueBindOptions::default();
                Ok(channel.queue_bind(queue.as_str().into(), source, key, options, arguments).await?)
            }
            Destination::Exchange(exchange) => {
                let options = ExchangeBindOptions::default();
                Ok(channel.exchange_bind(exchange.as_str().into(), source, key, options, arguments).await?)
            }
        })
        .await
    }

    /// # Errors
    /// When an end is missing, or the broker is away.
    pub async fn unbind(&self, spec: &BindingSpec) -> Result<(), Error> {
        let (source, key) = (spec.source.as_str().into(), spec.routing_key.as_str().into());
        let arguments = spec.arguments.clone();
        on_channel(&self.links, async |channel| match &spec.destination {
            Destination::Queue(queue) => {
                Ok(channel.queue_unbind(queue.as_str().into(), source, key, arguments).await?)
            }
            Destination::Exchange(exchange) => {
                let options = ExchangeUnbindOptions::default();
                Ok(channel.exchange_unbind(exchange.as_str().into(), source, key, options, arguments).await?)
            }
        })
        .await
    }
}

/// A queue's state, also of the gateway's own.
pub(super) async fn queue_state(links: &Links, name: &str) -> Result<QueueState, Error> {
    on_channel(links, async |channel| {
        let options = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(name.into(), options, FieldTable::default()).await?;
        Ok(QueueState { messages: queue.message_count(), consumers: queue.consumer_count() })
    })
    .await
}

/// Whether an exchange is there: a passive declaration, on a channel that a missing one closes.
pub(super) async fn exchange_exists(links: &Links, name: &str) -> Result<bool, Error> {
    let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let found = on_channel(links, async |channel| {
        let kind = lapin::ExchangeKind::Direct;
        Ok(channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await?)
    })
    .await;
    match found {
        Ok(()) => Ok(true),
        Err(Error::NoExchange(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) async fn on_channel<T>(
    links: &Links,
    operation: impl AsyncFnOnce(Channel) -> Result<T, Error>,
) -> Result<T, Error> {
    // The consuming connection: a broker under alarm blocks the publishing one.
    let (channel, guard) = links.consume.channel().await?;
    let unfinished = Unfinished::new(&channel);
    let result = tokio::time::timeout(DEADLINE, operation(channel)).await.map_err(|_| Error::Timeout)?;
    // Waiting for the broker's answer would only cost a round trip; dropping lapin's handles closes the channel.
    unfinished.done();
    result.map_err(|error| guard.explain(error))
}

fn arguments(spec: &QueueSpec) -> FieldTable {
    let mut table = FieldTable::default();
    let mut set = |name: &str, value: AMQPValue| {
        table.insert(name.into(), value);
    };
    let kind = match spec.kind {
        QueueKind::Quorum => "quorum",
        QueueKind::Classic => "classic",
        QueueKind::Stream => "stream",
    };
    set("x-queue-type", text(kind));
    let numbers = [
        ("x-max-length", spec.max_length),
        ("x-max-length-bytes", spec.max_length_bytes),
        ("x-message-ttl", spec.message_ttl),
        ("x-expires", spec.expires),
        ("x-max-priority", spec.max_priority),
        ("x-stream-max-segment-size-bytes", spec.stream_max_segment_bytes),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            set(name, AMQPValue::LongLongInt(value));
        }
    }
    if let Some(seconds) = spec.max_age {
        set("x-max-age", text(&format!("{seconds}s")));
    }
    if spec.single_active_consumer {
        set("x-single-active-consumer", AMQPValue::Boolean(true));
    }
    if spec.kind != QueueKind::Stream {
        // A full queue is the publisher's to know, and what is given up is kept.
        set("x-overflow", text("reject-publish"));
        set("x-dead-letter-exchange", text(DEAD_LETTERS));
    }
    if spec.kind == QueueKind::Quorum {
        // At most once would lose a dead letter when its queue is full or its node away.
        set("x-dead-letter-strategy", text("at-least-once"));
        set("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT));
    }
    for (name, value) in spec.retry.iter().flat_map(RetryPolicy::arguments) {
        set(name, AMQPValue::LongLongInt(value));
    }
    table
}

pub(super) fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}
