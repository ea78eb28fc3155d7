//! W3C trace context in gRPC metadata and in message headers.
//!
//! An invalid `traceparent` counts as missing, and an invalid `tracestate` does not invalidate the `traceparent`;
//! neither makes a call fail. The baggage of a message is not delivered.

use http::HeaderMap;
use opentelemetry::{
    SpanId, TraceFlags, TraceId,
    trace::{SpanContext, TraceState},
};

use crate::pb::{Message, Value, value::Kind};

/// A `tracestate` up to this length is always passed on; members of a longer one are dropped (section 3.3.1.5).
const MAX_STATE: usize = 512;
/// The maximum number of members of a `tracestate` (section 3.3.1.1).
const MAX_MEMBERS: usize = 32;
/// Members longer than this are dropped first.
const LONG_MEMBER: usize = 128;
/// The flags that are passed on: sampled, and random trace id (level 2 of the recommendation).
const FLAGS: u8 = 0x03;

/// A position in a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceContext(SpanContext);

impl TraceContext {
    /// The header or property that holds [`Self::traceparent`].
    pub const TRACEPARENT: &'static str = "traceparent";
    /// The header or property that holds [`Self::tracestate`].
    pub const TRACESTATE: &'static str = "tracestate";

    /// Parses the two texts.
    pub fn from_pair(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let traceparent = traceparent.trim_matches([' ', '\t']);
        let bytes = traceparent.as_bytes();
        // "00-<32 hex>-<16 hex>-<2 hex>"; a later version may have more after a dash, and version ff is invalid.
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
        let state = tracestate.map(trace_state).unwrap_or_default();
        let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()? & FLAGS);
        let context =
            SpanContext::new(TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?, flags, true, state);
        context.is_valid().then_some(Self(context))
    }

    /// Reads the metadata of a call.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(Self::TRACEPARENT).iter();
        let (Some(traceparent), None) = (parents.next(), parents.next()) else { return None };
        // Several fields form one list (RFC 9110, section 5.3).
        let states: Result<Vec<_>, _> = headers.get_all(Self::TRACESTATE).iter().map(|value| value.to_str()).collect();
        let state = states.ok().map(|states| states.join(","));
        Self::from_pair(traceparent.to_str().ok()?, state.as_deref())
    }

    /// The trace id of a call, 32 hex digits: its caller's, or a new one.
    pub fn trace_id_of(headers: &HeaderMap) -> String {
        let new_id = || TraceId::from_bytes(rand::random::<[u8; 16]>()).to_string();
        Self::from_headers(headers).map_or_else(new_id, |context| context.trace_id())
    }

    /// Reads the headers of a message.
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

    /// Replaces the context in the headers of a message.
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

    /// The value of `traceparent`.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.0.trace_id(), self.0.span_id(), self.0.trace_flags().to_u8())
    }

    /// The value of `tracestate`, if there is one.
    pub fn tracestate(&self) -> Option<String> {
        Some(self.0.trace_state().header()).filter(|state| !state.is_empty())
    }

    /// The trace id, 32 hex digits.
    pub fn trace_id(&self) -> String {
        self.0.trace_id().to_string()
    }

    /// Whether the trace is sampled.
    pub fn is_sampled(&self) -> bool {
        self.0.is_sampled()
    }
}

/// The members of a `tracestate`; empty if one of them is invalid or there are too many.
fn trace_state(text: &str) -> TraceState {
    let mut members: Vec<(&str, &str)> = Vec::new();
    for member in text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty()) {
        let Some((key, value)) = member.split_once('=') else { return TraceState::default() };
        if key.is_empty() || value.is_empty() || !value.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
            return TraceState::default();
        }
        // The first member is the newest.
        if !members.iter().any(|(known, _)| *known == key) {
            members.push((key, value));
        }
    }
    if members.len() > MAX_MEMBERS {
        return TraceState::default();
    }
    let length = |member: &(&str, &str)| member.0.len() + member.1.len() + 2;
    if members.iter().map(length).sum::<usize>() > MAX_STATE + 1 {
        members.retain(|member| length(member) <= LONG_MEMBER + 1);
    }
    while members.iter().map(length).sum::<usize>() > MAX_STATE + 1 {
        members.pop();
    }
    TraceState::from_key_value(members).unwrap_or_default()
}

/// Removes W3C baggage from a message, because it is meant for the producer's own services.
pub fn strip_baggage(message: &mut Message) {
    // AMQP header names are case-sensitive, but a consumer's library may ignore case.
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
    fn a_valid_pair_is_preserved_and_an_invalid_one_is_ignored() {
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
    fn fields_are_parsed_as_the_recommendation_requires() {
        let read = |fields: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, value.parse().expect("a value"));
            }
            TraceContext::from_headers(&headers)
        };
        let state = |fields: &[&str]| {
            let fields: Vec<_> = fields.iter().map(|field| ("tracestate", *field)).collect();
            let context = read(&[&[("traceparent", PARENT)][..], &fields].concat()).expect("valid");
            context.tracestate().unwrap_or_default()
        };
        assert_eq!(read(&[("traceparent", PARENT), ("traceparent", PARENT)]), None, "two fields");
        assert_eq!(read(&[("tracestate", "a=1")]), None, "no parent");
        assert!(read(&[("traceparent", &format!("\t {PARENT} "))]).is_some(), "optional whitespace");
        let random = format!("{}03", &PARENT[..53]);
        assert_eq!(read(&[("traceparent", &random)]).expect("valid").traceparent(), random, "the random flag is kept");
        let unknown = format!("{}ff", &PARENT[..53]);
        assert_eq!(read(&[("traceparent", &unknown)]).expect("valid").traceparent(), random, "unknown flags do not");

        assert_eq!(state(&["a=1,b=2", "c=3"]), "a=1,b=2,c=3", "several fields");
        assert_eq!(state(&[" a=1 ,\tb=2,,", ""]), "a=1,b=2", "whitespace and empty members");
        assert_eq!(state(&["a=1,a=2,b=3"]), "a=1,b=3", "a key occurs once");
        assert_eq!(state(&["1a-_*/@x=1,t@vendor= !~"]), "1a-_*/@x=1,t@vendor= !~");
        for bad in ["a", "A=1", "a=1,b", "=1", "a=", "a b=1", "a=1=2", "a@b@c=1", "_a=1"] {
            assert_eq!(state(&[bad]), "", "{bad}");
        }
        let many = |count| (0..count).map(|at| format!("k{at}=v")).collect::<Vec<_>>().join(",");
        assert_eq!(state(&[&many(32)]), many(32));
        assert_eq!(state(&[&many(33)]), "");
        let long = format!("long={},{}", "x".repeat(200), many(32).replace("=v", "=0123456789"));
        let kept = state(&[&long[..long.rfind(',').expect("members")]]);
        assert!(kept.len() <= MAX_STATE && kept.starts_with("k0=") && !kept.contains("long"), "{kept}");
    }

    #[test]
    fn a_message_keeps_its_trace_context_and_loses_its_baggage() {
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
        fn no_text_makes_the_parser_panic(parent in "\\PC{0,80}", state: Option<String>) {
            let _ = TraceContext::from_pair(&parent, state.as_deref());
        }
    }
}
