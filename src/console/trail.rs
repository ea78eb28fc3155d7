//! The audit trail: filters in the address, pages, and export as CSV and JSON lines.

mod export;

use std::collections::HashMap;

use axum::{Router, routing::get};
use maud::{Markup, html};
use time::{OffsetDateTime, PrimitiveDateTime, format_description::well_known::Rfc3339, macros::format_description};

use super::{
    Console,
    error::PageError,
    layout,
    parts::{self, PageResult, Query, badge, param},
    user::User,
};
use crate::pb;

const PAGE: i32 = 100;

pub(super) fn routes() -> Router<Console> {
    Router::new().route("/audit", get(page)).route("/audit/export", get(export::export))
}

/// The events that the address selects.
fn request(query: &HashMap<String, String>) -> Result<pb::ListAuditEventsRequest, PageError> {
    Ok(pb::ListAuditEventsRequest {
        tenant: param(query, "tenant").to_owned(),
        page_size: PAGE,
        page_token: param(query, "page").to_owned(),
        client_id: param(query, "client").to_owned(),
        method: param(query, "method").to_owned(),
        outcome: param(query, "outcome").to_owned(),
        from: moment(query, "from")?,
        until: moment(query, "until")?,
    })
}

/// A time in UTC, as a browser's field sends it (`2026-11-30T12:00`) or as RFC 3339.
pub(super) fn moment(query: &HashMap<String, String>, name: &str) -> Result<Option<prost_types::Timestamp>, PageError> {
    let text = param(query, name);
    if text.is_empty() {
        return Ok(None);
    }
    let minutes = format_description!("[year]-[month]-[day]T[hour]:[minute]");
    let seconds = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    let time = OffsetDateTime::parse(text, &Rfc3339)
        .or_else(|_| PrimitiveDateTime::parse(text, &minutes).map(PrimitiveDateTime::assume_utc))
        .or_else(|_| PrimitiveDateTime::parse(text, &seconds).map(PrimitiveDateTime::assume_utc));
    let time = time.map_err(|_| PageError::invalid(format!("{name}: must be a time such as 2026-11-30T12:00")))?;
    Ok(Some(prost_types::Timestamp { seconds: time.unix_timestamp(), nanos: 0 }))
}

async fn page(user: User, query: Query) -> PageResult {
    let found = user.calls().admin().list_audit_events(request(&query)?).await?.into_inner();
    let mut filters: Vec<_> = query.iter().filter(|(name, _)| *name != "page").collect();
    filters.sort_unstable();
    let filters: Vec<_> = filters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let export = |format: &str| parts::address("/audit/export", &[filters.as_slice(), &[("format", format)]].concat());
    let value = |name: &str| param(&query, name).to_owned();
    let is_followed = query.contains_key("follow") && !query.contains_key("page");
    let without: Vec<_> = filters.iter().copied().filter(|(name, _)| *name != "follow").collect();
    let content = html! {
        section {
            form method="get" action="/audit" {
                div.fields {
                    @if user.is_platform() { label { "Tenant" input name="tenant" value=(value("tenant")); } }
                    label { "Client" input name="client" value=(value("client")); }
                    label { "Method" input name="method" value=(value("method")) placeholder="CreateTenant"; }
                    label { "Outcome"
                        select name="outcome" {
                            @for outcome in ["", "done", "refused", "failed", "unfinished"] {
                                option value=(outcome) selected[value("outcome") == outcome] {
                                    @if outcome.is_empty() { "any" } @else { (outcome) }
                                }
                            }
                        }
                    }
                    label { "From (UTC)" input type="datetime-local" name="from" value=(value("from")); }
                    label { "Until (UTC)" input type="datetime-local" name="until" value=(value("until")); }
                }
                @if is_followed { input type="hidden" name="follow" value="yes"; }
                button { "Show" } " "
                a href=(export("csv")) { "Export CSV" } " · " a href=(export("jsonl")) { "Export JSON lines" }
                @if query.contains_key("page") {}
                @else if is_followed { " · " a href=(parts::address("/audit", &without)) { "Stop following" } }
                @else { " · " a href=(parts::address("/audit", &[without.as_slice(), &[("follow", "yes")]].concat())) { "Follow" } }
            }
        }
        section {
            @if is_followed { p.live role="status" data-follow-status="" { "Following needs the page's script; without it, reload the page." } }
            div data-follow=[is_followed.then_some("yes")] {
                (table(&user, &found.events))
                (parts::next_page("/audit", &query, &found.next_page_token))
            }
        }
    };
    Ok(layout::page(&user, "Audit trail", content))
}

/// Events as rows.
pub(super) fn table(user: &User, events: &[pb::AuditEvent]) -> Markup {
    if events.is_empty() {
        return parts::empty(
            "No events match.",
            html! { p { "Every change, refusal and issued token appears here." } },
        );
    }
    html! {
        div.scroll { table {
            thead { tr {
                th { "Time" } th { "Client" } th { "Method" }
                @if user.is_platform() { th { "Tenant" } }
                th { "Object" } th { "Outcome" } th { "Rule" } th { "Address" } th { "Trace" }
            } }
            tbody { @for event in events { tr {
                td { (parts::time(event.time.as_ref())) }
                td { (event.client_id) }
                td { (event.method.strip_prefix("warrengate.v1.").unwrap_or(&event.method)) }
                @if user.is_platform() { td { (event.tenant) } }
                td { (event.object) }
                td { (outcome(&event.outcome)) @if event.times > 1 { " × " (parts::count(event.times)) } }
                td { (event.rule) }
                td { (event.peer_address) }
                td { @if !event.trace_id.is_empty() { (parts::trace(Some(user), &event.trace_id)) } }
            } } }
        } }
    }
}

fn outcome(text: &str) -> Markup {
    match text {
        "done" => badge("good", text),
        "refused" => badge("warn", text),
        _ => badge("bad", text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_of_time_is_what_a_browser_sends_or_rfc_3339() {
        let ask = |text: &str| {
            let query = [("from".to_owned(), text.to_owned())].into_iter().collect();
            moment(&query, "from").map(|time| time.map(|time| time.seconds))
        };
        for text in ["1970-01-02T00:00", "1970-01-02T00:00:00", "1970-01-02T01:00:00+01:00"] {
            assert_eq!(ask(text).expect("a time"), Some(86_400), "{text}");
        }
        assert_eq!(ask("").expect("none"), None);
        assert!(ask("yesterday").is_err());
    }
}
