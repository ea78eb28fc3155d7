//! The tenant's exchanges, queues and bindings, declared as the tenant's own user. Each operation uses a channel of its
//! own, because a refusal closes the channel and must not affect a stream.

use std::sync::Arc;

use lapin::{
    options::{
        ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, ExchangeUnbindOptions, QueueBindOptions,
        QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};

use super::{
    connection::{channel_op::on_channel, tenant_connections::TenantConnections},
    error::Error,
    gateway_objects::{DEAD_LETTERS, DELIVERY_LIMIT, declare_return, text},
    message::{headers, size::table_size, typed_json::text_if_needed},
    publish::lanes::Lanes,
    recent_queues::RecentQueues,
    retry::policy::RetryPolicy,
};
use crate::{
    error::Failure,
    names::{ExchangeName, QueueName, RoutingKey},
    pb::Value,
};

/// The argument of a binding that keeps the types of its headers. Headers exchanges ignore arguments that begin with
/// `x-`.
pub const TYPED_HEADERS_ARGUMENT: &str = "x-wg-headers";
/// The broker keeps all bindings in memory, so their headers have a limit far below that of a message's.
const MAX_BINDING_BYTES: usize = 4 * 1024;

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By equal routing key.
    Direct,
    /// By a pattern over the words of the routing key.
    Topic,
    /// To all bindings.
    Fanout,
    /// By header values.
    Headers,
}

/// An exchange to declare.
#[derive(Debug, Clone)]
pub struct ExchangeSpec {
    /// Its name.
    pub name: ExchangeName,
    /// How it routes.
    pub kind: ExchangeKind,
    /// Whether it is deleted with its last binding.
    pub auto_delete: bool,
    /// Whether it accepts messages from other exchanges only.
    pub internal: bool,
    /// The exchange that receives messages that this one cannot route.
    pub alternate: Option<ExchangeName>,
}

/// How a queue stores messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueKind {
    /// Replicated.
    Quorum,
    /// On one node.
    Classic,
    /// An append-only log.
    Stream,
}

/// A queue to declare. `None` means the broker's default.
#[derive(Debug, Clone)]
pub struct QueueSpec {
    /// Its name.
    pub name: QueueName,
    /// How it stores messages.
    pub kind: QueueKind,
    /// The maximum number of messages.
    pub max_length: Option<i64>,
    /// The maximum size of all bodies in bytes.
    pub max_length_bytes: Option<i64>,
    /// The time to live of its messages in milliseconds.
    pub message_ttl: Option<i64>,
    /// The queue is deleted when unused for this many milliseconds.
    pub expires: Option<i64>,
    /// How often and when a message is tried again; `None` for streams.
    pub retry: Option<RetryPolicy>,
    /// The number of priorities; classic queues only.
    pub max_priority: Option<i64>,
    /// Whether only one consumer receives messages at a time; another one follows when it ends.
    pub single_active_consumer: bool,
    /// How long a message is kept, in seconds; streams only.
    pub max_age: Option<i64>,
    /// The size of a segment file; streams only.
    pub stream_max_segment_bytes: Option<i64>,
}

/// When a queue may be deleted.
#[derive(Debug, Clone, Copy)]
pub struct DeleteCondition {
    /// Only without consumers.
    pub if_unused: bool,
    /// Only without ready messages.
    pub if_empty: bool,
}

/// The current state of a queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueState {
    /// Ready messages.
    pub messages: u32,
    /// The number of consumers.
    pub consumers: u32,
}

/// A binding to add or remove.
#[derive(Debug, Clone)]
pub struct BindingSpec {
    /// The exchange that messages come from.
    pub source: ExchangeName,
    /// Where they are routed to.
    pub destination: Destination,
    /// The routing key or pattern.
    pub routing_key: RoutingKey,
    /// For headers exchanges, with `x-match`.
    arguments: FieldTable,
}

/// The destination of a binding.
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
    /// A binding. For headers exchanges, `headers` are the values to match, and whether one match is sufficient.
    ///
    /// # Errors
    /// When the headers are over a limit; that of a binding is 4 KiB.
    pub fn new<'a>(
        source: ExchangeName,
        destination: Destination,
        routing_key: RoutingKey,
        headers: impl IntoIterator<Item = (&'a String, &'a Value)>,
        any: bool,
    ) -> Result<Self, Failure> {
        let mut arguments = headers::to_table(headers).map_err(|failure| failure.on_field("binding.headers"))?;
        if table_size(&arguments) > MAX_BINDING_BYTES {
            let limit = format!("are larger than {} KiB", MAX_BINDING_BYTES / 1024);
            return Err(Failure::invalid("binding.headers", limit));
        }
        let typed = text_if_needed(&arguments);
        if !arguments.inner().is_empty() {
            arguments.insert("x-match".into(), text(if any { "any" } else { "all" }));
        }
        if let Some(typed) = typed {
            arguments.insert(TYPED_HEADERS_ARGUMENT.into(), text(&typed));
        }
        Ok(Self { source, destination, routing_key, arguments })
    }
}

/// A tenant's topology.
pub struct Topology {
    connections: Arc<TenantConnections>,
    lanes: Arc<Lanes>,
    recent: Arc<RecentQueues>,
}

impl Topology {
    pub(super) fn new(lanes: Arc<Lanes>, recent: Arc<RecentQueues>) -> Self {
        Self { connections: Arc::clone(&lanes.connections), lanes, recent }
    }

    /// Declares an exchange; does nothing when an equal one exists.
    ///
    /// # Errors
    /// When it exists with other properties, or the broker cannot be reached.
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
        on_channel(&self.connections, async |channel| {
            Ok(channel.exchange_declare(spec.name.as_str().into(), kind, options, arguments).await?)
        })
        .await
    }

    /// Deletes an exchange.
    ///
    /// # Errors
    /// When it is missing, in use although `if_unused` was set, or the broker cannot be reached.
    pub async fn delete_exchange(&self, name: &ExchangeName, if_unused: bool) -> Result<(), Error> {
        if !exchange_exists(&self.connections, name.as_str()).await? {
            return Err(Error::NoExchange(name.to_string()));
        }
        // A message for a missing exchange closes a channel that other publishers use, so publishers look it up again.
        self.lanes.forget_exchange(name.as_str());
        let deleted = on_channel(&self.connections, async |channel| {
            let options = ExchangeDeleteOptions { if_unused, ..ExchangeDeleteOptions::default() };
            Ok(channel.exchange_delete(name.as_str().into(), options).await?)
        })
        .await;
        self.lanes.forget_exchange(name.as_str());
        deleted
    }

    /// Declares a queue; does nothing when an equal one exists.
    ///
    /// # Errors
    /// When it exists with other arguments, a limit is reached, or the broker cannot be reached.
    pub async fn declare_queue(&self, spec: &QueueSpec) -> Result<QueueState, Error> {
        let _declaration = self.recent.declare(&self.connections.tenant, &spec.name).await;
        on_channel(&self.connections, async |channel| {
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            let queue = channel.queue_declare(spec.name.as_str().into(), options, arguments(spec)).await?;
            if spec.retry.is_some() {
                declare_return(&channel, &spec.name).await?;
            }
            Ok(QueueState { messages: queue.message_count(), consumers: queue.consumer_count() })
        })
        .await
    }

    /// The queue's current state.
    ///
    /// # Errors
    /// When it is missing, or the broker cannot be reached.
    pub async fn queue_state(&self, name: &QueueName) -> Result<QueueState, Error> {
        queue_state(&self.connections, name.as_str()).await
    }

    /// Deletes a queue; returns the number of ready messages that were deleted with it. If it was declared a moment ago
    /// and the broker needs that, waits [`WORKER_START`](super::recent_queues::WORKER_START) from its declaration on.
    ///
    /// # Errors
    /// When it is missing, a condition does not hold, or the broker cannot be reached.
    pub async fn delete_queue(
        &self,
        name: &QueueName,
        condition: DeleteCondition,
        needs_wait: impl Future<Output = bool>,
    ) -> Result<u32, Error> {
        let mut deletion = self.recent.delete(&self.connections.tenant, name).await;
        self.check(name, condition).await?;
        if deletion.worker_started(needs_wait).await {
            self.check(name, condition).await?;
        }
        on_channel(&self.connections, async |channel| {
            Ok(channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await?)
        })
        .await
    }

    /// Checks the condition of a deletion. Quorum queues do not support conditions (RabbitMQ ignores or refuses them),
    /// so they are checked here; another client may change the queue in between.
    async fn check(&self, name: &QueueName, condition: DeleteCondition) -> Result<(), Error> {
        let state = self.queue_state(name).await?;
        if condition.if_unused && state.consumers > 0 {
            return Err(Error::InUse(format!("queue {:?}", name.as_str())));
        }
        if condition.if_empty && state.messages > 0 {
            return Err(Error::NotEmpty(name.to_string()));
        }
        Ok(())
    }

    /// Removes the ready messages; returns how many.
    ///
    /// # Errors
    /// When the queue is missing or a stream, or the broker cannot be reached.
    pub async fn purge_queue(&self, name: &QueueName) -> Result<u32, Error> {
        on_channel(&self.connections, async |channel| {
            Ok(channel.queue_purge(name.as_str().into(), QueuePurgeOptions::default()).await?)
        })
        .await
    }

    /// Adds a binding; does nothing when it exists.
    ///
    /// # Errors
    /// When the source or the destination is missing, the pattern is not allowed, or the broker cannot be reached.
    pub async fn bind(&self, spec: &BindingSpec) -> Result<(), Error> {
        let (source, key) = (spec.source.as_str().into(), spec.routing_key.as_str().into());
        let arguments = spec.arguments.clone();
        on_channel(&self.connections, async |channel| match &spec.destination {
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

    /// Removes a binding; does nothing when it does not exist.
    ///
    /// # Errors
    /// When the source or the destination is missing, or the broker cannot be reached.
    pub async fn unbind(&self, spec: &BindingSpec) -> Result<(), Error> {
        let (source, key) = (spec.source.as_str().into(), spec.routing_key.as_str().into());
        let arguments = spec.arguments.clone();
        on_channel(&self.connections, async |channel| match &spec.destination {
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

/// The state of a queue, which may be one of the gateway's own.
pub(super) async fn queue_state(connections: &TenantConnections, name: &str) -> Result<QueueState, Error> {
    on_channel(connections, async |channel| {
        let options = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(name.into(), options, FieldTable::default()).await?;
        Ok(QueueState { messages: queue.message_count(), consumers: queue.consumer_count() })
    })
    .await
}

/// Whether an exchange exists. A passive declaration of a missing one closes its channel.
pub(super) async fn exchange_exists(connections: &TenantConnections, name: &str) -> Result<bool, Error> {
    let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let found = on_channel(connections, async |channel| {
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
        // Publishers are notified when a queue is full, and rejected messages are kept.
        set("x-overflow", text("reject-publish"));
        set("x-dead-letter-exchange", text(DEAD_LETTERS));
    }
    if spec.kind == QueueKind::Quorum {
        // With the default strategy, at-most-once, a dead letter is lost when its queue is full or its node is down.
        set("x-dead-letter-strategy", text("at-least-once"));
        set("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT));
    }
    for (name, value) in spec.retry.iter().flat_map(RetryPolicy::arguments) {
        set(name, AMQPValue::LongLongInt(value));
    }
    table
}
