//! The audit trail as a file.

use std::fmt::Write as _;

use axum::response::{IntoResponse as _, Response};
use http::header;
use serde_json::json;

use crate::{
    console::{
        error::PageError,
        parts::{Query, param, rfc3339},
        user::User,
    },
    pb,
};

/// The number of pages of 1,000 events in one file.
const MAX_PAGES: usize = 50;
const PAGE: i32 = 1_000;
const COLUMNS: &str = "time,id,client_id,peer_address,method,tenant,object,rule,outcome,times,trace_id\r\n";

pub(super) async fn export(user: User, query: Query) -> Result<Response, PageError> {
    let is_csv = param(&query, "format") != "jsonl";
    let mut request = pb::ListAuditEventsRequest { page_size: PAGE, ..super::request(&query)? };
    request.page_token.clear();
    let mut text = if is_csv { COLUMNS.to_owned() } else { String::new() };
    let mut admin = user.calls().admin();
    for _ in 0..MAX_PAGES {
        let page = admin.list_audit_events(request.clone()).await?.into_inner();
        for event in &page.events {
            if is_csv { csv(&mut text, event) } else { json_line(&mut text, event) }
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let (kind, name) = match is_csv {
        true => ("text/csv; charset=utf-8", "attachment; filename=\"audit.csv\""),
        false => ("application/x-ndjson", "attachment; filename=\"audit.jsonl\""),
    };
    Ok(([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, name)], text).into_response())
}

fn time(event: &pb::AuditEvent) -> String {
    event.time.as_ref().and_then(rfc3339).unwrap_or_default()
}

fn csv(text: &mut String, event: &pb::AuditEvent) {
    let times = event.times.to_string();
    let fields = [
        &time(event),
        &event.id,
        &event.client_id,
        &event.peer_address,
        &event.method,
        &event.tenant,
        &event.object,
        &event.rule,
        &event.outcome,
        &times,
        &event.trace_id,
    ];
    for (at, field) in fields.into_iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        // A spreadsheet would evaluate text that begins like a formula.
        let apostrophe = if field.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
        let _ = write!(text, "{comma}\"{apostrophe}{}\"", field.replace('"', "\"\""));
    }
    text.push_str("\r\n");
}

fn json_line(text: &mut String, event: &pb::AuditEvent) {
    let event = json!({
        "time": time(event),
        "id": event.id,
        "client_id": event.client_id,
        "peer_address": event.peer_address,
        "method": event.method,
        "tenant": event.tenant,
        "object": event.object,
        "rule": event.rule,
        "outcome": event.outcome,
        "times": event.times,
        "trace_id": event.trace_id,
    });
    let _ = writeln!(text, "{event}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_csv_are_quoted_and_no_formula_is_calculated() {
        let event = pb::AuditEvent {
            client_id: "a\"b,c".into(),
            object: "=HYPERLINK(\"x\")".into(),
            times: 2,
            ..pb::AuditEvent::default()
        };
        let mut text = String::new();
        csv(&mut text, &event);
        assert!(text.contains("\"a\"\"b,c\"") && text.contains("\"'=HYPERLINK(\"\"x\"\")\""), "{text}");
        assert!(text.ends_with(",\"2\",\"\"\r\n"), "{text}");
        text.clear();
        json_line(&mut text, &event);
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read["object"], "=HYPERLINK(\"x\")");
    }
}
