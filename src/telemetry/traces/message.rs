//! Traces of a stream's messages: a span for each published message and each delivery if it is sampled, and the
//! context for the next hop in the message's headers.
//!
//! A message that is not sampled costs a lookup in its headers, and a random number if it has no context.

use std::sync::Arc;

use opentelemetry::{
    KeyValue, Value,
    trace::{Link, Span as _, SpanContext, SpanKind},
};
use opentelemetry_sdk::trace::{SdkTracer, Span};
use opentelemetry_semantic_conventions::attribute as names;

use super::{Call, CallKind, Sending, is_new_trace_sampled, start};
use crate::{
    names::{ClientId, TenantId},
    pb::{Message, Publication},
    telemetry::TraceContext,
};

/// Traces the messages of a stream. Cloning is cheap.
#[derive(Clone, Default)]
pub struct MessageTracer {
    /// `None` if no spans are exported.
    spans: Option<Arc<Inner>>,
    /// Without spans: the context that messages without their own inherit.
    inherited: Option<Arc<TraceContext>>,
}

struct Inner {
    tracer: SdkTracer,
    ratio: f64,
    tenant: Arc<str>,
    client: Arc<str>,
    call: Option<CallContext>,
}

/// The call of the messages: their parent if it is unary, and only a link if it is a stream, which may last for days.
struct CallContext {
    context: SpanContext,
    kind: CallKind,
    /// Whether the call's context is visible outside the gateway.
    is_known: bool,
}

/// The attributes of a span about a message.
pub(super) struct Subject<'a> {
    pub(super) operation: &'static str,
    pub(super) kind: &'static str,
    pub(super) destination: String,
    pub(super) routing_key: &'a str,
    pub(super) message: &'a Message,
}

impl MessageTracer {
    pub(super) fn without_spans(call: Option<&Call>) -> Self {
        let inherited = call.filter(|call| call.kind() == CallKind::Unary).and_then(Call::parent);
        Self { spans: None, inherited: inherited.cloned().map(Arc::new) }
    }

    pub(super) fn new(
        tracer: SdkTracer,
        ratio: f64,
        tenant: &TenantId,
        client: &ClientId,
        call: Option<&Call>,
    ) -> Self {
        let (tenant, client) = (tenant.as_str().into(), client.as_str().into());
        let call = call.map(|call| {
            let (context, is_known) = call.context();
            CallContext { context: context.into_inner(), kind: call.kind(), is_known }
        });
        Self { spans: Some(Arc::new(Inner { tracer, ratio, tenant, client, call })), inherited: None }
    }

    /// Starts the span of a message to be published, if it is sampled; it lasts until the outcome. Its context
    /// replaces the caller's in the message's headers, which becomes its parent.
    pub fn publish(&self, publication: &mut Publication) -> Option<Sending> {
        if self.spans.is_none() && self.inherited.is_none() {
            return None;
        }
        let message = publication.message.as_mut()?;
        let given = TraceContext::of_message(message);
        let Some(inner) = self.spans.as_deref() else {
            if let (None, Some(inherited)) = (given, &self.inherited) {
                TraceContext::clone(inherited).into_message(message);
            }
            return None;
        };
        let parent = match (&given, &inner.call) {
            (Some(given), _) if !given.is_sampled() => return None,
            (Some(given), _) => Some(given.inner()),
            (None, Some(CallContext { context, kind: CallKind::Unary, is_known })) => {
                if !context.is_sampled() {
                    if *is_known {
                        TraceContext::from_inner(context.clone()).into_message(message);
                    }
                    return None;
                }
                Some(context)
            }
            (None, _) if !is_new_trace_sampled(inner.ratio) => return None,
            (None, _) => None,
        };
        let links = inner.stream_link();
        let subject = Subject {
            operation: "send",
            kind: "send",
            destination: destination(&publication.exchange, &publication.routing_key, ""),
            routing_key: &publication.routing_key,
            message,
        };
        let span = inner.start(&subject, SpanKind::Producer, parent, links, Vec::new());
        TraceContext::from_inner(span.span_context().clone()).into_message(message);
        Some(Sending::new(span, !message.message_id.is_empty()))
    }

    /// Starts the span of a redriven dead letter, in the message's own trace. Its headers are not changed, so that the
    /// next deliveries are siblings of the earlier ones. The message is decoded only if spans are exported.
    pub fn redrive(
        &self,
        queue: &str,
        code: &str,
        redrives: u32,
        message: impl FnOnce() -> Message,
    ) -> Option<Sending> {
        if self.is_off() {
            return None;
        }
        let message = message();
        let destination = queue.to_owned();
        let subject =
            Subject { operation: "redrive", kind: "send", destination, routing_key: queue, message: &message };
        let more = vec![
            KeyValue::new(super::QUEUE, queue.to_owned()),
            KeyValue::new(super::DEAD_LETTER_REASON, code.to_owned()),
            KeyValue::new(super::REDRIVES, i64::from(redrives)),
        ];
        let span = self.consume(&subject, SpanKind::Producer, more)?;
        Some(Sending::new(span, !message.message_id.is_empty()))
    }

    /// A span about a message from a queue, in the message's own trace; `None` if that is not sampled.
    pub(super) fn consume(&self, subject: &Subject<'_>, kind: SpanKind, more: Vec<KeyValue>) -> Option<Span> {
        let inner = self.spans.as_deref()?;
        let producer = TraceContext::of_message(subject.message).filter(TraceContext::is_sampled)?.into_inner();
        let mut links = vec![Link::with_context(producer.clone())];
        links.extend(inner.stream_link());
        Some(inner.start(subject, kind, Some(&producer), links, more))
    }

    /// A child span about the same message.
    pub(super) fn below(&self, parent: &Span, name: String, mut attributes: Vec<KeyValue>) -> Option<Span> {
        let inner = self.spans.as_deref()?;
        attributes.push(KeyValue::new(super::TENANT, Arc::clone(&inner.tenant)));
        attributes.push(KeyValue::new(super::CLIENT, Arc::clone(&inner.client)));
        Some(start(&inner.tracer, name, SpanKind::Client, Some(parent.span_context()), Vec::new(), attributes))
    }

    pub(super) fn is_off(&self) -> bool {
        self.spans.is_none()
    }
}

impl Inner {
    fn stream_link(&self) -> Vec<Link> {
        match &self.call {
            Some(CallContext { context, kind: CallKind::Stream, .. }) if context.is_sampled() => {
                vec![Link::with_context(context.clone())]
            }
            _ => Vec::new(),
        }
    }

    fn start(
        &self,
        subject: &Subject<'_>,
        kind: SpanKind,
        parent: Option<&SpanContext>,
        links: Vec<Link>,
        more: Vec<KeyValue>,
    ) -> Span {
        let name = format!("{} {}", subject.operation, subject.destination);
        let mut attributes = self.attributes(subject);
        attributes.extend(more);
        start(&self.tracer, name, kind, parent, links, attributes)
    }

    /// The attributes of every message span (OpenTelemetry's conventions for messaging and for RabbitMQ).
    fn attributes(&self, subject: &Subject<'_>) -> Vec<KeyValue> {
        // With capacity for attributes that are added later.
        let mut attributes = Vec::with_capacity(20);
        let mut add = |name: &'static str, value: Value| attributes.push(KeyValue::new(name, value));
        add(names::MESSAGING_SYSTEM, "rabbitmq".into());
        add(names::MESSAGING_OPERATION_NAME, subject.operation.into());
        add(names::MESSAGING_OPERATION_TYPE, subject.kind.into());
        add(names::MESSAGING_DESTINATION_NAME, subject.destination.clone().into());
        if !subject.routing_key.is_empty() {
            add(names::MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY, subject.routing_key.to_owned().into());
        }
        if !subject.message.message_id.is_empty() {
            add(names::MESSAGING_MESSAGE_ID, subject.message.message_id.clone().into());
        }
        if !subject.message.correlation_id.is_empty() {
            add(names::MESSAGING_MESSAGE_CONVERSATION_ID, subject.message.correlation_id.clone().into());
        }
        add(names::MESSAGING_MESSAGE_BODY_SIZE, i64::try_from(subject.message.body.len()).unwrap_or(i64::MAX).into());
        add(super::TENANT, Arc::clone(&self.tenant).into());
        add(super::CLIENT, Arc::clone(&self.client).into());
        attributes
    }
}

/// The destination in RabbitMQ's form: exchange, routing key and, for a consumer, the queue, without empty or repeated
/// parts.
pub(super) fn destination(exchange: &str, routing_key: &str, queue: &str) -> String {
    let mut text = String::with_capacity(exchange.len() + routing_key.len() + queue.len() + 2);
    let queue = if queue == routing_key { "" } else { queue };
    for part in [exchange, routing_key, queue] {
        if !part.is_empty() {
            if !text.is_empty() {
                text.push(':');
            }
            text.push_str(part);
        }
    }
    if text.is_empty() { "amq.default".to_owned() } else { text }
}
