//! Reading the first messages of a queue without consuming them.
//!
//! They are delivered to a consumer of the lowest priority, so that consumers with capacity are served first, and
//! returned in their order. `basic.get` is not used: RabbitMQ answers it from a stream queue by closing the connection,
//! and with it every stream of the tenant, and it does not keep the order of more than 32 messages that are returned.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::{
    Channel,
    message::Delivery,
    options::{BasicAckOptions, BasicCancelOptions},
};
use tokio::time::{Instant, timeout_at};

use super::{
    connection::{
        live::{ChannelGuard, CloseOnDrop},
        tenant_connections::TenantConnections,
    },
    consume::{
        consumer::{self, ConsumeSpec, StartAt},
        incoming::Incoming,
    },
    error::Error,
    topology::queue_state,
};
use crate::names::QueueName;

/// How long reading may take; what was read until then is returned to the caller.
const READ_TIMEOUT: Duration = Duration::from_secs(8);
/// How long returning the messages may take. When it fails, closing the channel returns them.
const RETURN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait for the first message, and for the next one. The broker does not report the end of a queue.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const NEXT_WAIT: Duration = Duration::from_millis(500);
/// Unacknowledged messages of a stream queue, so that few are in memory in addition to the returned ones.
const STREAM_PREFETCH: u16 = 2;
/// The lowest priority of a consumer.
const LOWEST_PRIORITY: i32 = -128;

/// Which messages to read.
#[derive(Debug, Clone)]
pub struct PeekSpec {
    /// The queue.
    pub queue: QueueName,
    /// Maximum number of messages.
    pub max_messages: usize,
    /// Maximum size of all messages in bytes; the first message may be larger.
    pub max_bytes: usize,
    /// Longer bodies are truncated to this size.
    pub max_body_bytes: usize,
    /// Whether it is a stream queue, and the offset at which to begin.
    pub stream: Option<StartAt>,
    /// Whether the queue serves one consumer at a time.
    pub is_single: bool,
}

/// The first messages of a queue.
#[derive(Debug, Default)]
pub struct Peeked {
    /// In the order of the queue, with the sizes of their whole bodies.
    pub messages: Vec<(Incoming, usize)>,
    /// Whether the queue has more messages.
    pub has_more: bool,
}

/// Reads the first messages of a queue. Runs in a task of its own, so that the messages return in their order even if
/// the caller does not wait.
///
/// # Errors
/// When the queue is missing or does not allow it, or the broker cannot be reached.
pub(super) async fn peek(connections: Arc<TenantConnections>, spec: PeekSpec) -> Result<Peeked, Error> {
    let reading = async move {
        // Two concurrent reads would return the messages in another order.
        let _one_at_a_time = connections.peek.lock().await;
        if spec.stream.is_none() {
            let state = queue_state(&connections, spec.queue.as_str()).await?;
            if spec.is_single && state.consumers > 0 {
                return Err(Error::Exclusive(spec.queue.to_string()));
            }
        }
        let (channel, guard) = connections.consume.channel().await?;
        let close_on_drop = CloseOnDrop::new(&channel);
        let read = read(&channel, &spec).await.map_err(|error| guard.explain(error));
        close(channel, guard, close_on_drop).await;
        read
    };
    // The task fails to join only when the runtime shuts down.
    tokio::spawn(reading).await.unwrap_or(Err(Error::Unreachable(None)))
}

/// The messages read so far, within their bounds.
struct Page<'a> {
    spec: &'a PeekSpec,
    peeked: Peeked,
    bytes: usize,
}

impl<'a> Page<'a> {
    fn new(spec: &'a PeekSpec) -> Self {
        Self { spec, peeked: Peeked::default(), bytes: 0 }
    }

    fn is_full(&self) -> bool {
        self.peeked.messages.len() >= self.spec.max_messages
    }

    /// Adds a message unless it does not fit; returns whether it does.
    fn add(&mut self, mut message: Incoming) -> bool {
        let body_bytes = message.message.body.len();
        let kept = body_bytes.min(self.spec.max_body_bytes);
        let bytes = message.bytes - (body_bytes - kept);
        if !self.peeked.messages.is_empty() && self.bytes + bytes > self.spec.max_bytes {
            self.peeked.has_more = true;
            return false;
        }
        if kept < body_bytes {
            // Copied, so that the rest of the body is freed.
            message.message.body = bytes::Bytes::copy_from_slice(&message.message.body[..kept]);
        }
        self.bytes += bytes;
        self.peeked.messages.push((message, body_bytes));
        true
    }
}

async fn read(channel: &Channel, spec: &PeekSpec) -> Result<Peeked, Error> {
    let until = Instant::now() + READ_TIMEOUT;
    // One message more than requested, to find out whether the queue has more.
    let prefetch = match spec.stream {
        Some(_) => STREAM_PREFETCH,
        None => u16::try_from(spec.max_messages + 1).unwrap_or(u16::MAX),
    };
    let consume = ConsumeSpec {
        queue: spec.queue.clone(),
        max_messages: prefetch,
        max_bytes: spec.max_bytes,
        start: spec.stream,
        exclusive: false,
        priority: if spec.stream.is_none() { LOWEST_PRIORITY } else { 0 },
        keep: false,
    };
    let opening = consumer::consume(channel.clone(), consume, prefetch);
    let mut deliveries = timeout_at(until, opening).await.map_err(|_| Error::Timeout)??;
    let (mut page, mut tags) = (Page::new(spec), Vec::new());
    let mut wait = FIRST_WAIT;
    while let Ok(next) = timeout_at(until.min(Instant::now() + wait), deliveries.next()).await {
        wait = NEXT_WAIT;
        let delivery = next.ok_or_else(|| Error::QueueDeleted(spec.queue.to_string()))??;
        let tag = delivery.delivery_tag;
        tags.push(tag);
        if page.is_full() {
            page.peeked.has_more = true;
            break;
        }
        if !page.add(consumer::read(delivery)) {
            break;
        }
        if spec.stream.is_some() {
            // In a stream queue, an acknowledgement only requests the next message.
            channel.basic_ack(tag, BasicAckOptions::default()).await?;
        }
    }
    if spec.stream.is_none() {
        // When this fails, closing the channel returns them.
        let _ = tokio::time::timeout(RETURN_TIMEOUT, return_all(channel, deliveries, tags)).await;
    }
    Ok(page.peeked)
}

/// Cancels the consumer, and returns all its deliveries in their order.
async fn return_all(
    channel: &Channel,
    mut deliveries: lapin::Consumer,
    mut tags: Vec<u64>,
) -> Result<(), lapin::Error> {
    channel.basic_cancel(deliveries.tag(), BasicCancelOptions::default()).await?;
    // The broker has confirmed the cancel, so its last delivery has been received.
    while let Some(Some(Ok(Delivery { delivery_tag, .. }))) = deliveries.next().now_or_never() {
        tags.push(delivery_tag);
    }
    consumer::return_in_order(channel, tags).await
}

async fn close(channel: Channel, guard: ChannelGuard, close_on_drop: CloseOnDrop) {
    if tokio::time::timeout(RETURN_TIMEOUT, channel.close(200, "done".into())).await.is_ok() {
        close_on_drop.disarm();
    }
    // The connection counts as used until now.
    drop(guard);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::Message;

    fn incoming(body: usize) -> Incoming {
        let message = Message { body: vec![0; body].into(), ..Message::default() };
        Incoming { bytes: body + 10, message, ..Incoming::default() }
    }

    #[test]
    fn a_page_ends_before_a_message_that_does_not_fit_and_the_first_one_always_fits() {
        let spec = PeekSpec {
            queue: QueueName::parse("q").expect("a name"),
            max_messages: 3,
            max_bytes: 100,
            max_body_bytes: usize::MAX,
            stream: None,
            is_single: false,
        };
        let mut page = Page::new(&spec);
        assert!(page.add(incoming(500)));
        assert!(!page.add(incoming(1)) && page.peeked.has_more);
        let short = PeekSpec { max_body_bytes: 20, ..spec };
        let mut page = Page::new(&short);
        assert!(page.add(incoming(500)) && page.add(incoming(500)) && page.add(incoming(5)) && page.is_full());
        let sizes: Vec<_> = page.peeked.messages.iter().map(|(m, whole)| (m.message.body.len(), *whole)).collect();
        assert_eq!(sizes, [(20, 500), (20, 500), (5, 5)]);
    }
}
