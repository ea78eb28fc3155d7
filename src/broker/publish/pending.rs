//! A message on its way to the broker.
//!
//! Invariant: a checked message is acceptable to lapin, refers to no object of the gateway's own, and can be published
//! any number of times with the same id and time.

use std::time::SystemTime;

use lapin::BasicProperties;
use tokio::time::Instant;

use super::{
    confirms,
    outcome::{PublishOutcome, PublishStatus},
};
use crate::{
    broker::message::{properties, size::encoded_size, time},
    error::Failure,
    names::{ExchangeName, RoutingKey},
    pb::{Message, Publication},
    telemetry::Sending,
};

/// A checked message with its destination. Boxed, because it is large and is moved through several queues.
pub struct PendingPublish(Box<Checked>);

struct Checked {
    order: u64,
    sequence: u64,
    /// The size that counts against limits: body, properties and headers.
    bytes: usize,
    exchange: ExchangeName,
    routing_key: String,
    mandatory: bool,
    message: Message,
    /// Created when the message was checked, and used by the first attempt; later attempts create them again.
    properties: Option<BasicProperties>,
    accepted: SystemTime,
    pushed: Option<Instant>,
    /// The properties of a message that the gateway publishes again, with headers that no publisher may set.
    republished: Option<Box<BasicProperties>>,
    due: Option<Instant>,
    sent: bool,
    /// How often it was taken from a channel that did not answer.
    rescues: u8,
    /// Set when its trace is sampled.
    span: Option<Box<Sending>>,
}

impl PendingPublish {
    /// Checks a publication, and moves the message out of it if it is valid; otherwise the publication is unchanged.
    /// `order` is its number in the stream, in ascending order, and `bytes` its size as limits count it.
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
        if exchange.is_default() && is_of_gateway(&publication.routing_key) {
            return Err(Failure::from(crate::names::Error::Reserved).on_field("routing_key"));
        }
        let new_id = message.message_id.is_empty().then(|| uuid::Uuid::now_v7().to_string());
        let properties = properties::to_amqp(message, new_id.as_ref().unwrap_or(&message.message_id), now)?;
        let mut message = publication.message.take().unwrap_or_default();
        if let Some(new_id) = new_id {
            message.message_id = new_id;
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
            republished: None,
            due: None,
            sent: false,
            rescues: 0,
            span: None,
        })))
    }

    /// A message that the gateway publishes again, with properties of its own; it must reach a queue.
    pub(in crate::broker) fn republish(
        order: u64,
        exchange: ExchangeName,
        routing_key: String,
        body: bytes::Bytes,
        properties: BasicProperties,
    ) -> Self {
        Self(Box::new(Checked {
            order,
            bytes: body.len() + encoded_size(&properties),
            sequence: 0,
            exchange,
            routing_key,
            mandatory: true,
            message: Message { body, ..Message::default() },
            properties: None,
            // The timestamp is unchanged, so that the age of the message is correct.
            accepted: confirms::accepted(&properties).unwrap_or_else(SystemTime::now),
            pushed: None,
            republished: Some(Box::new(properties)),
            due: None,
            sent: false,
            rescues: 0,
            span: None,
        }))
    }

    /// The same message with its span, when its trace is sampled.
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

    /// Set by `push`; a message that was not pushed has no deadline and counts as overdue.
    pub(super) fn deadline(&self) -> Instant {
        self.0.due.unwrap_or_else(Instant::now)
    }

    pub(super) fn was_sent(&self) -> bool {
        self.0.sent
    }

    /// How often it was taken from a channel that did not answer.
    pub(super) fn rescues(&self) -> u8 {
        self.0.rescues
    }

    pub(super) fn rescued(&mut self) {
        self.0.rescues += 1;
    }

    pub(super) fn settle(mut self, status: PublishStatus) -> PublishOutcome {
        // Moves single fields, because moving the whole message is expensive.
        let Checked { order, sequence, bytes, message, pushed, span, .. } = &mut *self.0;
        let message_id = std::mem::take(&mut message.message_id);
        let (order, sequence, bytes, pushed, span) = (*order, *sequence, *bytes, *pushed, span.take());
        PublishOutcome { order, sequence, bytes, message_id, pushed, status, span }
    }

    /// The data for one attempt to publish; the body is shared, not copied.
    pub(super) fn attempt(&mut self) -> (Attempt, bytes::Bytes) {
        self.0.sent = true;
        if let Some(span) = &mut self.0.span {
            span.sent();
        }
        let republished = || self.0.republished.as_deref().cloned();
        let properties = self.0.properties.take().or_else(republished).unwrap_or_else(|| {
            // The message was valid the first time and has not changed.
            let message = &self.0.message;
            properties::to_amqp(message, &message.message_id, SystemTime::UNIX_EPOCH).unwrap_or_default()
        });
        let (exchange, routing_key) = (self.0.exchange.as_str().into(), self.0.routing_key.as_str().into());
        let (mandatory, accepted) = (self.0.mandatory, self.0.accepted);
        (Attempt { exchange, routing_key, mandatory, accepted, properties }, self.0.message.body.clone())
    }
}

/// The data for one attempt to publish, except the body.
pub(super) struct Attempt {
    pub(super) exchange: lapin::types::ShortString,
    pub(super) routing_key: lapin::types::ShortString,
    pub(super) mandatory: bool,
    pub(super) accepted: SystemTime,
    pub(super) properties: BasicProperties,
}

/// Whether a queue belongs to the gateway. The default exchange would route to it by name.
pub(in crate::broker) fn is_of_gateway(queue: &str) -> bool {
    queue.get(..3).is_some_and(|head| head.eq_ignore_ascii_case("wg."))
}
