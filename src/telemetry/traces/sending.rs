//! The span of a message between its arrival and its outcome: one `send` span, with an event for each attempt at the
//! broker and one for its confirm.

use std::time::Instant;

use opentelemetry::{
    KeyValue,
    trace::{Span as _, Status},
};
use opentelemetry_sdk::trace::Span;
use opentelemetry_semantic_conventions::attribute as names;

use crate::pb::Outcome;

/// A published message without an outcome. If dropped without one, the stream ended first.
#[derive(Debug)]
pub struct Sending {
    span: Span,
    has_id: bool,
    attempts: i64,
    sent: Option<Instant>,
    over: bool,
}

impl Sending {
    pub(super) fn new(span: Span, has_id: bool) -> Self {
        Self { span, has_id, attempts: 0, sent: None, over: false }
    }

    /// The trace id, 32 hex digits.
    pub fn trace_id(&self) -> String {
        self.span.span_context().trace_id().to_string()
    }

    /// Sets the message id, which the gateway may have generated.
    pub fn identified(&mut self, message_id: &str) {
        if !self.has_id && !message_id.is_empty() {
            self.span.set_attribute(KeyValue::new(names::MESSAGING_MESSAGE_ID, message_id.to_owned()));
        }
    }

    /// Records an attempt to send it to the broker.
    pub fn sent(&mut self) {
        self.attempts += 1;
        self.sent = Some(Instant::now());
        self.span.add_event("sent to broker", vec![KeyValue::new(super::ATTEMPT, self.attempts)]);
    }

    /// Ends the span with the outcome, and with the code of the reason unless it is `CONFIRMED`; returns the trace id.
    pub fn end(mut self, outcome: Outcome, reason: &'static str) -> String {
        let outcome = super::outcome(outcome);
        if let Some(sent) = self.sent {
            let millis = sent.elapsed().as_secs_f64() * 1000.0;
            self.span.add_event(outcome, vec![KeyValue::new(super::LATENCY, millis)]);
        }
        self.span.set_attribute(KeyValue::new(super::OUTCOME, outcome));
        if outcome != "confirmed" {
            self.fail(reason);
        }
        self.over = true;
        self.trace_id()
    }

    fn fail(&mut self, reason: &'static str) {
        self.span.set_attribute(KeyValue::new(super::RULE, reason));
        self.span.set_attribute(KeyValue::new(names::ERROR_TYPE, reason));
        self.span.set_status(Status::error(reason));
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.over {
            self.span.set_attribute(KeyValue::new(super::OUTCOME, "unanswered"));
            self.fail("STREAM_ENDED");
        }
    }
}
