//! W3C trace context: `traceparent` and `tracestate` enter from gRPC metadata or message headers, are checked, and leave as
//! the same pair of texts or as an OpenTelemetry parent. An invalid context is none; it never fails a call. Baggage goes no
//! further than its message's arrival.

use std::str::FromStr as _;

use http::HeaderMap;
use opentelemetry::{
    SpanId, TraceFlags, TraceId,
    trace::{SpanContext, TraceState},
};

use crate::pb::{Message, Value, value::Kind};

/// W3C: a longer state may be dropped.
const MAX_STATE: usize = 512;

/// Where in which trace something happens.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceContext(SpanContext);

impl TraceContext {
    /// The header or property that holds [`Self::traceparent`].
    pub const TRACEPARENT: &'static str = "traceparent";
    /// The header or property that holds [`Self::tracestate`].
    pub const TRACESTATE: &'static str = "tracestate";

    /// From the two texts. An invalid `tracestate` is dropped, and the rest kept, as W3C wants it.
    pub fn from_pair(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let bytes = traceparent.as_bytes();
        // "00-<32 hex>-<16 hex>-<2 hex>"; a later version may have more after a dash, and version ff is none.
        if bytes.len() < 55 || !traceparent.is_ascii() {
            return None;
        }
        let (version, trace, span, flags) =
            (&traceparent[..2], &traceparent[3..35], &traceparent[36..52], &traceparent[53..55]);
        let dashes = bytes[2] == b'-' && bytes[35] == b'-' && bytes[52] == b'-';
        let lower_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let tail = match version {
            "00" => bytes.len() == 55,
            _ => bytes.len() == 55 || bytes[55] == b'-',
        };
        if !dashes || !tail || version == "ff" || ![version, trace, span, flags].into_iter().all(lower_hex) {
            return None;
        }
        let state = tracestate
            .filter(|state| state.len() <= MAX_STATE)
            .and_then(|state| TraceState::from_str(state).ok())
            .unwrap_or_default();
        let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
        let context =
            SpanContext::new(TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?, flags, true, state);
        context.is_valid().then_some(Self(context))
    }

    /// From a call's metadata.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let text = |key| headers.get(key).and_then(|value| value.to_str().ok());
        Self::from_pair(text(Self::TRACEPARENT)?, text(Self::TRACESTATE))
    }

    /// The id of the trace that a call belongs to, 32 hex digits: its caller's, or one that begins here.
    pub fn trace_id_of(headers: &HeaderMap) -> String {
        let begun = || TraceId::from_bytes(rand::random::<[u8; 16]>()).to_string();
        Self::from_headers(headers).map_or_else(begun, |context| context.trace_id())
    }

    /// From a message's headers.
    pub fn of_message(message: &Message) -> Option<Self> {
        let text = |key| match &message.headers.get(key)?.kind {
            Some(Kind::StringValue(text)) => Some(text.as_str()),
            _ => None,
        };
        if message.headers.is_empty() {
            return None;
        }
        Self::from_pair(text(Self::TRACEPARENT)?, text(Self::TRACESTATE))
    }

    /// Into a message's headers, in place of what was there.
    pub(super) fn into_message(self, message: &mut Message) {
        let text = |text: String| Value { kind: Some(Kind::StringValue(text)) };
        message.headers.insert(Self::TRACEPARENT.to_owned(), text(self.traceparent()));
        match self.tracestate() {
            Some(state) => drop(message.headers.insert(Self::TRACESTATE.to_owned(), text(state))),
            None => drop(message.headers.remove(Self::TRACESTATE)),
        }
    }

    pub(super) const fn from_inner(context: SpanContext) -> Self {
        Self(context)
    }

    pub(super) const fn inner(&self) -> &SpanContext {
        &self.0
    }

    pub(super) fn into_inner(self) -> SpanContext {
        self.0
    }

    /// The first of the pair.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.0.trace_id(), self.0.span_id(), self.0.trace_flags().to_u8())
    }

    /// The second of the pair, when there is one.
    pub fn tracestate(&self) -> Option<String> {
        Some(self.0.trace_state().header()).filter(|state| !state.is_empty())
    }

    /// The trace's id, 32 hex digits.
    pub fn trace_id(&self) -> String {
        self.0.trace_id().to_string()
    }

    /// Whether the trace is kept.
    pub fn is_sampled(&self) -> bool {
        self.0.is_sampled()
    }
}

/// Takes W3C baggage out of a message: what a caller's tracing carries along is for its own services.
pub fn strip_baggage(message: &mut Message) {
    // AMQP tells apart what a consumer's library may not.
    if !message.headers.is_empty() {
        message.headers.retain(|name, _| !name.eq_ignore_ascii_case("baggage"));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_pair_survives_and_an_invalid_one_is_none() {
        let context = TraceContext::from_pair(PARENT, Some("a=1,b=2")).expect("valid");
        assert_eq!(context.traceparent(), PARENT);
        assert_eq!(context.tracestate().as_deref(), Some("a=1,b=2"));
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(context.is_sampled());
        assert_eq!(TraceContext::from_pair(PARENT, Some("\u{1}=,,")).expect("valid").tracestate(), None);
        let later = format!("01{}-more", &PARENT[2..]);
        assert_eq!(TraceContext::from_pair(&later, None).expect("valid").traceparent(), PARENT);
        for bad in [
            "",
            "00",
            &PARENT[..54],
            &PARENT.to_uppercase(),
            &format!("{PARENT}-more"),
            &format!("ff{}", &PARENT[2..]),
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &PARENT.replace('-', "_"),
        ] {
            assert_eq!(TraceContext::from_pair(bad, None), None, "{bad}");
        }
    }

    #[test]
    fn a_call_without_context_has_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(TraceContext::from_headers(&headers), None);
        headers.insert("traceparent", PARENT.parse().expect("a value"));
        assert!(TraceContext::from_headers(&headers).is_some());
    }

    #[test]
    fn a_message_carries_it_on_and_loses_baggage() {
        let mut message = Message::default();
        assert_eq!(TraceContext::of_message(&message), None);
        let context = TraceContext::from_pair(PARENT, Some("a=1")).expect("valid");
        context.clone().into_message(&mut message);
        message.headers.insert("baggage".to_owned(), Value::default());
        strip_baggage(&mut message);
        assert_eq!((TraceContext::of_message(&message), message.headers.len()), (Some(context), 2));
        TraceContext::from_pair(PARENT, None).expect("valid").into_message(&mut message);
        assert!(!message.headers.contains_key("tracestate"));
    }

    proptest! {
        #[test]
        fn no_text_panics(parent in "\\PC{0,80}", state: Option<String>) {
            let _ = TraceContext::from_pair(&parent, state.as_deref());
        }
    }
}
