//! A real Jaeger, when `./scripts/jaeger test` runs the tests. The collector forwards everything to it, and its query
//! API must show the same spans.

use serde_json::Value;

use super::{
    collector::{Span, SpanKind},
    wait::until,
};

/// Jaeger's addresses from the environment, which the script sets.
pub struct Jaeger {
    pub otlp: String,
    pub otlp_http: String,
    pub query: String,
}

impl Jaeger {
    /// `None` when the script does not run these tests.
    pub fn find() -> Option<Self> {
        let variable = |name: &str| std::env::var(format!("WARRENGATE_TEST_JAEGER_{name}")).ok();
        Some(Self { otlp: variable("OTLP")?, otlp_http: variable("OTLP_HTTP")?, query: variable("QUERY")? })
    }

    /// The spans of a trace from Jaeger's query API, as soon as there are `spans`.
    pub async fn trace(&self, id: &str, spans: usize) -> Vec<Span> {
        let url = format!("{}/api/traces/{id}", self.query);
        let mut found = until(&format!("{spans} spans of trace {id} in Jaeger"), async || {
            let answer = reqwest::get(&url).await.ok()?.text().await.ok()?;
            let answer: Value = serde_json::from_str(&answer).ok()?;
            let trace = answer["data"].get(0)?;
            let found: Vec<_> = trace["spans"].as_array()?.iter().map(|span| read(trace, span)).collect();
            (found.len() >= spans).then_some(found)
        })
        .await;
        found.sort_by_key(|span| span.start);
        found
    }

    /// Checks that Jaeger shows these spans of one trace unchanged.
    pub async fn shows(&self, sent: &[Span]) {
        let Some(first) = sent.first() else { return };
        let shown = self.trace(&first.trace, sent.len()).await;
        for span in sent {
            // Jaeger's timestamps are in microseconds.
            let expected = Span { start: span.start / 1_000, ..span.clone() };
            let found = shown.iter().find(|shown| shown.id == span.id);
            assert_eq!(found, Some(&expected), "Jaeger shows another span than it received");
        }
    }
}

/// Converts a span of Jaeger's JSON to OpenTelemetry's terms.
fn read(trace: &Value, span: &Value) -> Span {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut attributes: std::collections::HashMap<_, _> =
        span["tags"].as_array().unwrap().iter().map(|tag| (text(&tag["key"]), text(&tag["value"]))).collect();
    let mut take = |name: &str| attributes.remove(name).unwrap_or_default();
    let kind = match take("span.kind").as_str() {
        "producer" => SpanKind::Producer,
        "consumer" => SpanKind::Consumer,
        "client" => SpanKind::Client,
        "server" => SpanKind::Server,
        _ => SpanKind::Internal,
    };
    let (failed, status) = (take("otel.status_code") == "ERROR", take("otel.status_description"));
    // Tags that correspond to other fields of OTLP.
    for name in ["error", "internal.span.format", "otel.scope.name", "otel.scope.version", "w3c.tracestate"] {
        take(name);
    }
    let references = |kind: &str| {
        let all = span["references"].as_array().unwrap().iter().filter(move |reference| reference["refType"] == kind);
        all.collect::<Vec<_>>()
    };
    let (parents, links) = (references("CHILD_OF"), references("FOLLOWS_FROM"));
    // A parent that is also linked has only the link.
    let parent = parents.first().or_else(|| links.iter().find(|link| link["traceID"] == span["traceID"]));
    let event = |log: &Value| {
        let field = log["fields"].as_array().unwrap().iter().find(|field| field["key"] == "event");
        field.map(|field| text(&field["value"])).unwrap_or_default()
    };
    Span {
        service: text(&trace["processes"][text(&span["processID"])]["serviceName"]),
        name: text(&span["operationName"]),
        kind,
        trace: text(&span["traceID"]),
        id: text(&span["spanID"]),
        parent: parent.map(|parent| text(&parent["spanID"])).unwrap_or_default(),
        links: links.iter().map(|link| text(&link["spanID"])).collect(),
        attributes,
        events: span["logs"].as_array().unwrap().iter().map(event).collect(),
        failed,
        status,
        start: span["startTime"].as_u64().unwrap(),
    }
}
