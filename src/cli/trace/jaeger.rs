//! A client of Jaeger's query API (`/api/traces`). Missing fields of an answer become empty.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::cli::Error;

const TIMEOUT: Duration = Duration::from_secs(20);

/// A Jaeger.
pub(super) struct Jaeger {
    base: String,
    http: reqwest::Client,
}

/// A trace.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) id: String,
    /// In the order of their start.
    pub(super) spans: Vec<Span>,
}

/// A span. Times in microseconds since the epoch.
#[derive(Debug, Default)]
pub(super) struct Span {
    pub(super) id: String,
    pub(super) parent: Option<String>,
    pub(super) service: String,
    pub(super) name: String,
    pub(super) start: u64,
    pub(super) duration: u64,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) events: Vec<(u64, String)>,
}

impl Jaeger {
    pub(super) fn new(base: &str) -> Result<Self, Error> {
        let base = base.trim_end_matches('/');
        if !base.starts_with("http://") && !base.starts_with("https://") {
            return Err(Error::Usage("--jaeger must be an address such as http://127.0.0.1:16686".to_owned()));
        }
        let http = reqwest::Client::builder().timeout(TIMEOUT).build().map_err(anyhow::Error::from)?;
        Ok(Self { base: base.to_owned(), http })
    }

    /// A trace by its id, if Jaeger has it.
    pub(super) async fn trace(&self, id: &str) -> Result<Option<Value>, Error> {
        Ok(self.ask(&format!("/api/traces/{id}"), &[]).await?.into_iter().next())
    }

    /// The newest traces that have a span of this message.
    pub(super) async fn of_message(&self, service: &str, id: &str, since: Duration) -> Result<Vec<Value>, Error> {
        let now = SystemTime::now();
        let micros = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros().to_string();
        let query = [
            ("service", service.to_owned()),
            ("tags", json!({ "messaging.message.id": id }).to_string()),
            ("limit", "20".to_owned()),
            ("start", micros(now.checked_sub(since).unwrap_or(UNIX_EPOCH))),
            // The clocks of the machines may differ.
            ("end", micros(now + Duration::from_secs(60))),
        ];
        self.ask("/api/traces", &query).await
    }

    async fn ask(&self, path: &str, query: &[(&str, String)]) -> Result<Vec<Value>, Error> {
        let mut url = reqwest::Url::parse(&format!("{}{path}", self.base))
            .map_err(|error| Error::Usage(format!("--jaeger {}: {error}", self.base)))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let answer = self.http.get(url).send().await.map_err(|_| {
            Error::Failed(format!(
                "no Jaeger responds at {}; start one (scripts/jaeger), or give its address with --jaeger",
                self.base
            ))
        })?;
        let status = answer.status();
        if status == reqwest::StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        let body = answer.text().await.unwrap_or_default();
        let parsed: Option<Value> = serde_json::from_str(&body).ok();
        match parsed.as_ref().and_then(|body| body.get("data")) {
            Some(Value::Array(traces)) if status.is_success() => Ok(traces.clone()),
            // The API's response for a missing trace.
            Some(Value::Null) if status.is_success() => Ok(Vec::new()),
            _ => Err(Error::Failed(format!("{} responded with {status}, which is not Jaeger's query API", self.base))),
        }
    }
}

impl Trace {
    pub(super) fn read(trace: &Value) -> Self {
        let services: HashMap<&str, &str> = trace["processes"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(id, process)| (id.as_str(), process["serviceName"].as_str().unwrap_or_default()))
            .collect();
        let mut spans: Vec<Span> = array(&trace["spans"]).map(|span| Span::read(span, &services)).collect();
        spans.sort_by_key(|span| span.start);
        Self { id: text(&trace["traceID"]), spans }
    }
}

impl Span {
    fn read(span: &Value, services: &HashMap<&str, &str>) -> Self {
        let trace = &span["traceID"];
        // Jaeger reports a parent that is also linked, such as that of a delivery, as a link only. Links of a root
        // point to other traces.
        let of = |kind: &str| {
            let same = |reference: &&Value| reference["refType"] == *kind && reference["traceID"] == *trace;
            array(&span["references"]).find(same).map(|reference| text(&reference["spanID"]))
        };
        let parent = of("CHILD_OF").or_else(|| of("FOLLOWS_FROM"));
        let fields = |fields: &Value| -> BTreeMap<String, String> {
            array(fields).map(|field| (text(&field["key"]), text(&field["value"]))).collect()
        };
        let event = |log: &Value| {
            let mut fields = fields(&log["fields"]);
            let name = fields.remove("event").unwrap_or_default();
            (log["timestamp"].as_u64().unwrap_or_default(), name)
        };
        Self {
            id: text(&span["spanID"]),
            parent,
            service: services
                .get(span["processID"].as_str().unwrap_or_default())
                .copied()
                .unwrap_or_default()
                .to_owned(),
            name: text(&span["operationName"]),
            start: span["startTime"].as_u64().unwrap_or_default(),
            duration: span["duration"].as_u64().unwrap_or_default(),
            tags: fields(&span["tags"]),
            events: array(&span["logs"]).map(event).collect(),
        }
    }

    pub(super) fn tag(&self, name: &str) -> &str {
        self.tags.get(name).map_or("", String::as_str)
    }
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
