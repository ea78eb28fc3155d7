//! W3C trace context: `traceparent` and `tracestate` enter from gRPC metadata or message headers, are checked, and leave as
//! the same pair of texts or as an OpenTelemetry parent. An invalid context is none; it never fails a call.

use std::str::FromStr as _;

use opentelemetry::{
    Context, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, TraceContextExt as _, TraceState},
};
use tonic::metadata::MetadataMap;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

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
    pub fn from_metadata(metadata: &MetadataMap) -> Option<Self> {
        let text = |key| metadata.get(key).and_then(|value| value.to_str().ok());
        Self::from_pair(text(Self::TRACEPARENT)?, text(Self::TRACESTATE))
    }

    /// Of a span; none when traces go nowhere.
    pub fn of(span: &tracing::Span) -> Option<Self> {
        let context = span.context().span().span_context().clone();
        context.is_valid().then_some(Self(context))
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

    /// Makes this the parent of a span that has not been entered yet.
    pub fn set_as_parent_of(&self, span: &tracing::Span) {
        // Fails for a span that traces do not see, and then has no meaning.
        let _ = span.set_parent(Context::new().with_remote_span_context(self.0.clone()));
    }

    /// Links a span to this.
    pub fn link_to(&self, span: &tracing::Span) {
        span.add_link(self.0.clone());
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
        let mut metadata = MetadataMap::new();
        assert_eq!(TraceContext::from_metadata(&metadata), None);
        metadata.insert("traceparent", PARENT.parse().expect("a value"));
        assert!(TraceContext::from_metadata(&metadata).is_some());
    }

    proptest! {
        #[test]
        fn no_text_panics(parent in "\\PC{0,80}", state: Option<String>) {
            let _ = TraceContext::from_pair(&parent, state.as_deref());
        }
    }
}
