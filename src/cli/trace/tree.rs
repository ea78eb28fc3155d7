//! A trace as a tree of lines in the order of start times. A span whose parent is missing is shown as a root, with a
//! note.

use std::fmt::Write as _;

use super::jaeger::{Span, Trace};

/// The attributes that are shown, in this order.
const SHOWN: [(&str, &str); 9] = [
    ("warrengate.client", ""),
    ("warrengate.attempt", "attempt "),
    ("warrengate.outcome", ""),
    ("warrengate.settlement", ""),
    ("warrengate.rule", "rule "),
    ("warrengate.reason", "reason "),
    ("warrengate.retry_delay_ms", "again after ms "),
    ("warrengate.dead_letter_reason", "dead letter: "),
    ("rpc.response.status_code", ""),
];

pub(super) fn draw(trace: &Trace) -> String {
    let begin = trace.spans.first().map_or(0, |span| span.start);
    let end = trace.spans.iter().map(|span| span.start + span.duration).max().unwrap_or(begin);
    let mut text = format!("trace {}: {} spans, {}", trace.id, trace.spans.len(), time(end - begin));
    let messages: std::collections::BTreeSet<_> =
        trace.spans.iter().map(|span| span.tag("messaging.message.id")).filter(|id| !id.is_empty()).collect();
    for id in messages.iter().take(5) {
        let _ = write!(text, "\nmessage {id}");
    }
    let is_root = |span: &&Span| span.parent.as_ref().is_none_or(|parent| !trace.spans.iter().any(|s| s.id == *parent));
    for root in trace.spans.iter().filter(is_root) {
        branch(trace, root, "", "", begin, &mut text);
    }
    text
}

fn branch(trace: &Trace, span: &Span, first: &str, rest: &str, begin: u64, text: &mut String) {
    // A faulty exporter could produce a cycle; real traces are never this deep.
    if first.chars().count() > 200 {
        return;
    }
    let failed = span.tag("error") == "true" || span.tag("otel.status_code") == "ERROR";
    let sign = if failed { " !" } else { "" };
    let _ = write!(text, "\n{first}{}{sign}  +{} {}", span.name, time(span.start - begin), time(span.duration));
    if span.service != "warrengate" {
        let _ = write!(text, "  ({})", span.service);
    }
    for (tag, label) in SHOWN {
        if !span.tag(tag).is_empty() {
            let _ = write!(text, "  {label}{}", span.tag(tag));
        }
    }
    if first.is_empty() && span.parent.is_some() {
        text.push_str("  (the parent span is not in Jaeger)");
    }
    let children: Vec<_> = trace.spans.iter().filter(|child| child.parent.as_ref() == Some(&span.id)).collect();
    let bar = if children.is_empty() { "  " } else { "│ " };
    for (at, event) in &span.events {
        let _ = write!(text, "\n{rest}{bar}· {event} +{}", time(at.saturating_sub(begin)));
    }
    for (n, child) in children.iter().enumerate() {
        let (elbow, line) = if n + 1 == children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        branch(trace, child, &format!("{rest}{elbow}"), &format!("{rest}{line}"), begin, text);
    }
}

/// Microseconds as text.
fn time(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        _ => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn spans_are_below_their_parents() {
        let reference = |id: &str| json!([{ "refType": "CHILD_OF", "traceID": "t", "spanID": id }]);
        // Jaeger's form of a parent that is also linked, and of a stream's link.
        let link = |trace: &str, id: &str| json!({ "refType": "FOLLOWS_FROM", "traceID": trace, "spanID": id });
        let trace = json!({
            "traceID": "t",
            "processes": { "p1": { "serviceName": "warrengate" }, "p2": { "serviceName": "shop" } },
            "spans": [
                { "traceID": "t", "spanID": "c", "operationName": "ack jobs", "references": reference("b"),
                  "startTime": 30, "duration": 5, "processID": "p1" },
                { "traceID": "t", "spanID": "a", "operationName": "send jobs", "references": reference("elsewhere"),
                  "startTime": 10, "duration": 1500, "processID": "p1",
                  "tags": [{ "key": "warrengate.outcome", "value": "confirmed" },
                           { "key": "messaging.message.id", "value": "m1" }],
                  "logs": [{ "timestamp": 12, "fields": [{ "key": "event", "value": "confirmed" }] }] },
                { "traceID": "t", "spanID": "b", "operationName": "deliver jobs",
                  "references": [link("stream", "s"), link("t", "a")],
                  "startTime": 20, "duration": 9, "processID": "p1", "tags": [{ "key": "error", "value": true }] },
                { "traceID": "t", "spanID": "d", "operationName": "work", "references": reference("b"),
                  "startTime": 25, "duration": 2, "processID": "p2" },
            ],
        });
        assert_eq!(
            draw(&Trace::read(&trace)),
            "trace t: 4 spans, 1.5 ms\nmessage m1\n\
             send jobs  +0 µs 1.5 ms  confirmed  (the parent span is not in Jaeger)\n\
             │ · confirmed +2 µs\n\
             └─ deliver jobs !  +10 µs 9 µs\n   \
                ├─ work  +15 µs 2 µs  (shop)\n   \
                └─ ack jobs  +20 µs 5 µs"
        );
    }

    #[test]
    fn the_tree_of_the_stored_trace_matches_the_documentation() {
        let trace = serde_json::from_str(include_str!("../../../docs/tracing/order-17.json")).expect("Jaeger's JSON");
        let (drawn, page) = (draw(&Trace::read(&trace)), include_str!("../../../docs/tracing.md"));
        assert!(page.contains(&drawn), "docs/tracing.md differs from\n{drawn}");
        assert_eq!(
            drawn.lines().filter(|line| !line.starts_with([' ', '│', '├', '└'])).count(),
            3,
            "one root: {drawn}"
        );
    }
}
