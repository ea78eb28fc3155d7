//! Spans of deliveries: one `deliver` span per delivery, by delivery id, with a child span for the settlement. Only
//! sampled messages are recorded.

use std::{collections::BTreeMap, time::Duration};

use opentelemetry::{
    KeyValue,
    trace::{Span as _, SpanKind, Status},
};
use opentelemetry_sdk::trace::Span;
use opentelemetry_semantic_conventions::attribute as names;

use super::{
    MessageTracer,
    message::{Subject, destination},
};
use crate::{
    pb::{Delivery, Message},
    telemetry::{Settlement, TraceContext},
};

/// The open deliveries of one stream.
#[derive(Default)]
pub struct DeliverySpans {
    tracer: MessageTracer,
    open: BTreeMap<u64, Open>,
}

struct Open {
    span: Span,
    destination: String,
    /// Attributes that the settlement has as well.
    common: Vec<KeyValue>,
}

/// Settlements that have not been sent to the broker yet. If dropped before [`Self::done`], they are recorded as
/// failed because the broker connection was lost.
#[must_use = "call done() when the settlements were sent to the broker"]
pub struct Settling(Vec<(Span, Span)>);

impl DeliverySpans {
    /// Without any delivery.
    pub fn new(tracer: MessageTracer) -> Self {
        Self { tracer, open: BTreeMap::new() }
    }

    /// Starts the span of a delivery. Its context replaces the producer's in the message's headers; the producer's
    /// becomes its parent and a link. Returns the trace id if it is sampled.
    pub fn delivered(&mut self, delivery: &mut Delivery, queue: &str) -> Option<String> {
        if self.tracer.is_off() {
            return None;
        }
        let message = delivery.message.as_mut().filter(|message| !message.headers.is_empty())?;
        let destination = destination(&delivery.exchange, &delivery.routing_key, queue);
        let subject = Subject {
            operation: "deliver",
            // The gateway sends it without a request from the client, which OpenTelemetry does not call "receive".
            kind: "process",
            destination: destination.clone(),
            routing_key: &delivery.routing_key,
            message,
        };
        let mut more = vec![
            KeyValue::new(super::QUEUE, queue.to_owned()),
            KeyValue::new(super::ATTEMPT, i64::from(delivery.attempt)),
            KeyValue::new(super::REDELIVERED, delivery.redelivered),
        ];
        if let Some(offset) = delivery.stream_offset {
            more.push(KeyValue::new(super::OFFSET, i64::try_from(offset).unwrap_or(i64::MAX)));
        }
        let span = self.tracer.consume(&subject, SpanKind::Consumer, more)?;
        let common = common(message, &destination, queue);
        TraceContext::from_inner(span.span_context().clone()).into_message(message);
        let trace_id = span.span_context().trace_id().to_string();
        self.open.insert(delivery.delivery_id, Open { span, destination, common });
        Some(trace_id)
    }

    /// The client settles these deliveries, and all up to and including `through` if it is not 0; `reason` is the
    /// client's.
    pub fn settling(&mut self, ids: &[u64], through: u64, settlement: Settlement, reason: &str) -> Settling {
        if self.open.is_empty() {
            return Settling(Vec::new());
        }
        let mut taken = Vec::new();
        if through > 0 {
            let rest = self.open.split_off(&through.saturating_add(1));
            taken.extend(std::mem::replace(&mut self.open, rest).into_values());
        }
        taken.extend(ids.iter().filter_map(|id| self.open.remove(id)));
        Settling(taken.into_iter().filter_map(|open| self.settle(open, settlement, reason)).collect())
    }

    /// Ends all open spans unsettled, for this reason.
    pub fn taken_back(&mut self, why: &'static str) {
        for (_, mut open) in std::mem::take(&mut self.open) {
            open.span.set_attribute(KeyValue::new(super::SETTLEMENT, "taken back"));
            fail(&mut open.span, why);
        }
    }

    fn settle(&self, mut open: Open, settlement: Settlement, reason: &str) -> Option<(Span, Span)> {
        let operation = super::settlement(settlement);
        let mut attributes = open.common;
        attributes.push(KeyValue::new(names::MESSAGING_OPERATION_NAME, operation));
        attributes.push(KeyValue::new(names::MESSAGING_OPERATION_TYPE, "settle"));
        open.span.set_attribute(KeyValue::new(super::SETTLEMENT, operation));
        if !reason.is_empty() {
            attributes.push(KeyValue::new(super::REASON, reason.to_owned()));
            open.span.set_attribute(KeyValue::new(super::REASON, reason.to_owned()));
        }
        match settlement {
            Settlement::Ack | Settlement::Drop => {}
            Settlement::Retry => fail(&mut open.span, "RETRIED"),
            Settlement::DeadLetter => fail(&mut open.span, "DEAD_LETTERED"),
            Settlement::TakenBack => fail(&mut open.span, "LEASE_EXPIRED"),
        }
        let settle = self.tracer.below(&open.span, format!("{operation} {}", open.destination), attributes)?;
        Some((settle, open.span))
    }
}

impl Settling {
    /// Records the delay until the next attempt.
    pub fn retries_after(&mut self, delay: Duration) {
        let millis = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        self.add(&KeyValue::new(super::RETRY_DELAY, millis));
    }

    /// Records that there is no further attempt, with the stable code of the reason.
    pub fn dead_letters(&mut self, code: &'static str) {
        self.add(&KeyValue::new(super::DEAD_LETTER_REASON, code));
    }

    fn add(&mut self, attribute: &KeyValue) {
        for (settle, deliver) in &mut self.0 {
            settle.set_attribute(attribute.clone());
            deliver.set_attribute(attribute.clone());
        }
    }

    /// The settlements were sent to the broker.
    pub fn done(mut self) {
        // Dropping the spans ends them, the settlement first.
        self.0.clear();
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        for (settle, _) in &mut self.0 {
            fail(settle, "LINK_LOST");
        }
    }
}

impl Drop for DeliverySpans {
    fn drop(&mut self) {
        self.taken_back("STREAM_ENDED");
    }
}

fn fail(span: &mut Span, why: &'static str) {
    span.set_attribute(KeyValue::new(names::ERROR_TYPE, why));
    span.set_status(Status::error(why));
}

fn common(message: &Message, destination: &str, queue: &str) -> Vec<KeyValue> {
    let mut common = Vec::with_capacity(8);
    common.push(KeyValue::new(names::MESSAGING_SYSTEM, "rabbitmq"));
    common.push(KeyValue::new(names::MESSAGING_DESTINATION_NAME, destination.to_owned()));
    common.push(KeyValue::new(super::QUEUE, queue.to_owned()));
    if !message.message_id.is_empty() {
        common.push(KeyValue::new(names::MESSAGING_MESSAGE_ID, message.message_id.clone()));
    }
    common
}
