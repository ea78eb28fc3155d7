//! Spans of the OpenTelemetry API. Without the feature `opentelemetry`, this module does nothing.
//!
//! `publish DESTINATION` is a producer span whose context is written into the message's headers; `process QUEUE` is a
//! consumer span with that context as its parent and link.

#[cfg(feature = "opentelemetry")]
pub(crate) use enabled::{Processing, Publishing};

#[cfg(not(feature = "opentelemetry"))]
pub(crate) use disabled::{Processing, Publishing};

#[cfg(not(feature = "opentelemetry"))]
mod disabled {
    use crate::{Delivery, pb};

    #[derive(Debug)]
    pub(crate) struct Publishing;

    impl Publishing {
        pub(crate) fn start(_: &mut pb::Publication) -> Self {
            Self
        }

        pub(crate) fn end(self, _: &pb::PublishResult) {}
    }

    #[derive(Debug)]
    pub(crate) struct Processing;

    impl Processing {
        pub(crate) fn start(_: &str, _: &Delivery) -> Self {
            Self
        }

        pub(crate) async fn run<F: Future>(&self, future: F) -> F::Output {
            future.await
        }

        pub(crate) fn failed(&self, _: &str) {}
    }
}

#[cfg(feature = "opentelemetry")]
mod enabled {
    use std::collections::HashMap;

    use opentelemetry::{
        Context, KeyValue,
        context::FutureExt as _,
        global::{self, BoxedTracer},
        trace::{
            Link, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
            Tracer as _,
        },
    };

    use crate::{
        Delivery,
        pb::{self, value::Kind},
    };

    fn tracer() -> BoxedTracer {
        global::tracer("warrengate-client")
    }

    /// The span of a message, until its outcome is known.
    #[derive(Debug)]
    pub(crate) struct Publishing(Context);

    impl Publishing {
        pub(crate) fn start(publication: &mut pb::Publication) -> Self {
            let destination = match publication.exchange.as_str() {
                "" => publication.routing_key.clone(),
                exchange => exchange.to_owned(),
            };
            let message = publication.message.get_or_insert_default();
            let tracer = tracer();
            let builder = tracer.span_builder(format!("publish {destination}")).with_kind(SpanKind::Producer);
            let span = builder
                .with_attributes([
                    KeyValue::new("messaging.system", "warrengate"),
                    KeyValue::new("messaging.operation.type", "send"),
                    KeyValue::new("messaging.operation.name", "publish"),
                    KeyValue::new("messaging.destination.name", destination),
                    KeyValue::new("messaging.message.id", message.message_id.clone()),
                    KeyValue::new("messaging.message.body.size", message.body.len() as i64),
                ])
                .start(&tracer);
            let context = Context::current_with_span(span);
            inject(context.span().span_context(), &mut message.headers);
            Self(context)
        }

        pub(crate) fn end(self, result: &pb::PublishResult) {
            let span = self.0.span();
            if result.outcome() != pb::Outcome::Confirmed {
                let reason = result.reason.split(':').next().unwrap_or_default();
                span.set_attribute(KeyValue::new("error.type", reason.to_owned()));
                span.set_status(Status::error(result.reason.clone()));
            }
            span.end();
        }
    }

    /// The span of a handler.
    #[derive(Debug)]
    pub(crate) struct Processing(Context);

    impl Processing {
        pub(crate) fn start(queue: &str, delivery: &Delivery) -> Self {
            let tracer = tracer();
            let mut builder =
                tracer.span_builder(format!("process {queue}")).with_kind(SpanKind::Consumer).with_attributes([
                    KeyValue::new("messaging.system", "warrengate"),
                    KeyValue::new("messaging.operation.type", "process"),
                    KeyValue::new("messaging.operation.name", "process"),
                    KeyValue::new("messaging.destination.name", queue.to_owned()),
                    KeyValue::new("messaging.message.id", delivery.message().message_id.clone()),
                    KeyValue::new("warrengate.attempt", i64::from(delivery.attempt())),
                ]);
            let mut parent = Context::current();
            if let Some(origin) = extract(&delivery.message().headers) {
                builder = builder.with_links(vec![Link::with_context(origin.clone())]);
                parent = parent.with_remote_span_context(origin);
            }
            let span = builder.start_with_context(&tracer, &parent);
            Self(parent.with_span(span))
        }

        /// Runs a handler with the span as the current one, and ends the span.
        pub(crate) async fn run<F: Future>(&self, future: F) -> F::Output {
            let output = future.with_context(self.0.clone()).await;
            self.0.span().end();
            output
        }

        pub(crate) fn failed(&self, cause: &str) {
            self.0.span().set_status(Status::error(cause.to_owned()));
        }
    }

    /// Writes the W3C trace context, unless the application has written one.
    fn inject(origin: &SpanContext, headers: &mut HashMap<String, pb::Value>) {
        if !origin.is_valid() || headers.contains_key("traceparent") {
            return;
        }
        let (trace, span, flags) = (origin.trace_id(), origin.span_id(), origin.trace_flags().to_u8());
        headers.insert("traceparent".to_owned(), text(format!("00-{trace}-{span}-{flags:02x}")));
        let state = origin.trace_state().header();
        if !state.is_empty() {
            headers.insert("tracestate".to_owned(), text(state));
        }
    }

    fn text(value: String) -> pb::Value {
        pb::Value { kind: Some(Kind::StringValue(value)) }
    }

    fn extract(headers: &HashMap<String, pb::Value>) -> Option<SpanContext> {
        let header = |name| match headers.get(name)?.kind.as_ref()? {
            Kind::StringValue(value) => Some(value.as_str()),
            _ => None,
        };
        let mut parts = header("traceparent")?.split('-').skip(1);
        let trace = TraceId::from_hex(parts.next()?).ok()?;
        let span = SpanId::from_hex(parts.next()?).ok()?;
        let flags = TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()?);
        let state = header("tracestate").and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
        let origin = SpanContext::new(trace, span, flags, true, state);
        origin.is_valid().then_some(origin)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_trace_context_passes_through_the_headers() {
            let origin = SpanContext::new(
                TraceId::from_hex("0af7651916cd43dd8448eb211c80319c").expect("an id"),
                SpanId::from_hex("b7ad6b7169203331").expect("an id"),
                TraceFlags::SAMPLED,
                false,
                TraceState::from_key_value([("vendor", "x")]).expect("a state"),
            );
            let mut headers = HashMap::new();
            inject(&origin, &mut headers);
            let expected = text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
            assert_eq!(headers.get("traceparent"), Some(&expected));
            let found = extract(&headers).expect("a context");
            assert_eq!((found.trace_id(), found.span_id()), (origin.trace_id(), origin.span_id()));
            assert!(found.is_sampled() && found.is_remote());
            assert_eq!(found.trace_state().get("vendor"), Some("x"));
            headers.insert("traceparent".to_owned(), text("nonsense".to_owned()));
            assert!(extract(&headers).is_none());
        }
    }
}
