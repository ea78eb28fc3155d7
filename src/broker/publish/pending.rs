//! A message on its way to the broker. An untrusted publication enters; what leaves is known to be acceptable to lapin and
//! to name nothing of the gateway's, and can be published as often as it takes with the same id and time.

use std::time::SystemTime;

use lapin::BasicProperties;
use tokio::time::Instant;

use super::{Settled, Verdict, confirms};
use crate::{
    broker::message::{properties, time},
    error::Failure,
    names::{ExchangeName, RoutingKey},
    pb::{Message, Publication},
    telemetry::Sending,
};

/// A checked message with its destination. On the heap: it passes through several queues on its way, and is large.
pub struct Outgoing(Box<Checked>);

struct Checked {
    order: u64,
    sequence: u64,
    /// What limits count: body, properties and headers.
    bytes: usize,
    exchange: ExchangeName,
    routing_key: String,
    mandatory: bool,
    message: Message,
    /// Made when the message was checked, used by the first attempt; later attempts make them again.
    properties: Option<BasicProperties>,
    accepted: SystemTime,
    pushed: Option<Instant>,
    /// Of a message on another round, which has what no publisher may write.
    round: Option<Box<BasicProperties>>,
    due: Option<Instant>,
    sent: bool,
    /// When its trace is kept.
    span: Option<Box<Sending>>,
}

impl Outgoing {
    /// Checks a publication, and takes it when it is fine; what is refused stays with the caller. `order` is the stream's
    /// own growing number for it, `bytes` its size as limits count it.
    ///
    /// # Errors
    /// Names the field that is wrong.
    pub fn check(order: u64, bytes: usize, publication: &mut Publication, now: SystemTime) -> Result<Self, Failure> {
        let exchange =
            ExchangeName::parse(&publication.exchange).map_err(|error| Failure::from(error).on_field("exchange"))?;
        RoutingKey::check(&publication.routing_key).map_err(|error| Failure::from(error).on_field("routing_key"))?;
        let Some(message) = &publication.message else {
            return Err(Failure::invalid("message", "is required"));
        };
        if exchange.is_default() && is_gateways(&publication.routing_key) {
            return Err(Failure::from(crate::names::Error::Reserved).on_field("routing_key"));
        }
        let made = message.message_id.is_empty().then(|| uuid::Uuid::now_v7().to_string());
        let properties = properties::to_amqp(message, made.as_ref().unwrap_or(&message.message_id), now)?;
        let mut message = publication.message.take().unwrap_or_default();
        if let Some(made) = made {
            message.message_id = made;
        }
        message.publish_time = properties.timestamp().map(time::timestamp);
        Ok(Self(Box::new(Checked {
            order,
            bytes,
            sequence: publication.sequence,
            exchange,
            routing_key: std::mem::take(&mut publication.routing_key),
            mandatory: !publication.allow_unroutable,
            message,
            properties: Some(properties),
            accepted: now,
            pushed: None,
            round: None,
            due: None,
            sent: false,
            span: None,
        })))
    }

    /// A message that goes another round, with the gateway's own properties, and must find a queue.
    pub(in crate::broker) fn round(
        order: u64,
        exchange: ExchangeName,
        routing_key: String,
        body: bytes::Bytes,
        properties: BasicProperties,
    ) -> Self {
        Self(Box::new(Checked {
            order,
            bytes: body.len(),
            sequence: 0,
            exchange,
            routing_key,
            mandatory: true,
            message: Message { body, ..Message::default() },
            properties: None,
            // As before, so that its age goes on.
            accepted: confirms::accepted(&properties).unwrap_or_else(SystemTime::now),
            pushed: None,
            round: Some(Box::new(properties)),
            due: None,
            sent: false,
            span: None,
        }))
    }

    /// The same with its span, when its trace is kept.
    #[must_use]
    pub fn traced(mut self, span: Option<Sending>) -> Self {
        self.0.span = span.map(|mut span| {
            span.identified(&self.0.message.message_id);
            Box::new(span)
        });
        self
    }

    /// The exchange, as grants write it.
    pub fn exchange_in_grants(&self) -> &str {
        self.0.exchange.in_grants()
    }

    /// The routing key.
    pub fn routing_key(&self) -> &str {
        &self.0.routing_key
    }

    /// The message's id.
    pub fn message_id(&self) -> &str {
        &self.0.message.message_id
    }

    /// Its size as limits count it: body, properties and headers.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// The stream's number for it.
    pub fn order(&self) -> u64 {
        self.0.order
    }

    pub(super) fn exchange(&self) -> &str {
        self.0.exchange.as_str()
    }

    pub(super) fn due(mut self, pushed: Instant, due: Instant) -> Self {
        self.0.pushed = Some(pushed);
        self.0.due = Some(due);
        self
    }

    /// Set by `push`; a message without one is over at once, which nothing makes.
    pub(super) fn deadline(&self) -> Instant {
        self.0.due.unwrap_or_else(Instant::now)
    }

    pub(super) fn was_sent(&self) -> bool {
        self.0.sent
    }

    pub(super) fn settle(mut self, verdict: Verdict) -> Settled {
        // Taken out one by one: the rest is large, and need not be moved to be dropped.
        let Checked { order, sequence, bytes, message, pushed, span, .. } = &mut *self.0;
        let message_id = std::mem::take(&mut message.message_id);
        let (order, sequence, bytes, pushed, span) = (*order, *sequence, *bytes, *pushed, span.take());
        Settled { order, sequence, bytes, message_id, pushed, verdict, span }
    }

    /// What one attempt needs of it, owned; the body is shared, not copied.
    pub(super) fn attempt(&mut self) -> (Attempt, bytes::Bytes) {
        self.0.sent = true;
        if let Some(span) = &mut self.0.span {
            span.sent();
        }
        let round = || self.0.round.as_deref().cloned();
        let properties = self.0.properties.take().or_else(round).unwrap_or_else(|| {
            // It was acceptable the first time, and nothing about it has changed.
            let message = &self.0.message;
            properties::to_amqp(message, &message.message_id, SystemTime::UNIX_EPOCH).unwrap_or_default()
        });
        let (exchange, routing_key) = (self.0.exchange.as_str().into(), self.0.routing_key.as_str().into());
        let (mandatory, accepted) = (self.0.mandatory, self.0.accepted);
        (Attempt { exchange, routing_key, mandatory, accepted, properties }, self.0.message.body.clone())
    }
}

/// One attempt's share of a message, beside its body.
pub(super) struct Attempt {
    pub(super) exchange: lapin::types::ShortString,
    pub(super) routing_key: lapin::types::ShortString,
    pub(super) mandatory: bool,
    pub(super) accepted: SystemTime,
    pub(super) properties: BasicProperties,
}

/// The default exchange routes to any queue by name: the gateway's own are not for tenants.
fn is_gateways(queue: &str) -> bool {
    queue.get(..3).is_some_and(|head| head.eq_ignore_ascii_case("wg."))
}
