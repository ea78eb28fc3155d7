//! Dead letters: list, inspect, send again, delete.

use std::collections::HashMap;

use axum::response::{Redirect, Response};
use maud::{Markup, html};

use super::{message, redrive};
use crate::{
    console::{
        error::PageError,
        form::{EDITED_LETTER, Form, MAX_EDITED_BODY},
        layout,
        parts::{self, PageResult, Query, count, param, plural},
        trail::moment,
        user::User,
    },
    pb,
};

const PAGE: i32 = 50;
/// The fields of the filter, in the address and in forms.
const FILTER: [&str; 5] = ["queue", "code", "reason", "after", "before"];

fn filter(query: &HashMap<String, String>) -> Result<pb::DeadLetterFilter, PageError> {
    Ok(pb::DeadLetterFilter {
        queue: param(query, "queue").to_owned(),
        code: param(query, "code").to_owned(),
        reason_contains: param(query, "reason").to_owned(),
        died_after: moment(query, "after")?,
        died_before: moment(query, "before")?,
        dead_letter_id: String::new(),
    })
}

fn is_filtered(query: &HashMap<String, String>) -> bool {
    FILTER.iter().any(|name| !param(query, name).is_empty())
}

pub(super) async fn list(user: User, query: Query) -> PageResult {
    super::tenant_only(&user)?;
    let request = pb::ListDeadLettersRequest {
        filter: Some(filter(&query)?),
        page_size: PAGE,
        page_token: param(&query, "page").to_owned(),
        without_bodies: true,
    };
    let listed = user.calls().topology().list_dead_letters(request).await?.into_inner();
    let content = html! {
        (parts::notice(&query))
        (filters(&query))
        section {
            @if listed.dead_letters.is_empty() {
                @let next = html! { p { "A message becomes a dead letter when a consumer rejects it, when its attempts are used up, or when its time to live ends." } };
                (parts::empty(if is_filtered(&query) { "No dead letters match." } else { "There are no dead letters." }, next))
            } @else {
                (selection(&user, &query, &listed.dead_letters))
                (parts::next_page("/dead-letters", &query, &listed.next_page_token))
            }
            p.quiet { "Dead letters of queues with names that the gateway does not accept, created at the broker, are missing." }
        }
    };
    Ok(layout::page(&user, "Dead letters", content))
}

fn filters(query: &HashMap<String, String>) -> Markup {
    let value = |name: &str| param(query, name).to_owned();
    html! {
        section {
            form method="get" action="/dead-letters" {
                div.fields {
                    label { "Queue" input name="queue" value=(value("queue")); }
                    label { "Code" select name="code" {
                        @for code in ["", "rejected", "delivery_limit", "expired", "queue_deleted", "headers_too_large"] {
                            option value=(code) selected[value("code") == code] { @if code.is_empty() { "any" } @else { (code) } }
                        }
                    } }
                    label { "Reason contains" input name="reason" value=(value("reason")); }
                    label { "Died after (UTC)" input type="datetime-local" name="after" value=(value("after")); }
                    label { "Died before (UTC)" input type="datetime-local" name="before" value=(value("before")); }
                }
                button { "Show" }
            }
        }
    }
}

/// The rows with checkboxes, and the operations on the checked rows or on all that match.
fn selection(user: &User, query: &HashMap<String, String>, letters: &[pb::DeadLetter]) -> Markup {
    html! {
        form method="post" action="/dead-letters/redrive" {
            (user.csrf())
            @for name in FILTER { input type="hidden" name=(name) value=(param(query, name)); }
            div.scroll { table {
                thead { tr {
                    th { input type="checkbox" data-check="id" aria-label="Select all on this page" hidden; }
                    th { "Died" } th { "Queue" } th { "Code" } th { "Reason" } th.number { "Attempts" } th { "Message" }
                } }
                tbody { @for letter in letters { tr {
                    td { input type="checkbox" name="id" value=(letter.dead_letter_id) aria-label="Select"; }
                    td { (parts::time(letter.died.as_ref())) }
                    td { (parts::visible(&letter.queue)) }
                    td { (parts::visible(&letter.code)) }
                    td { (parts::visible(&letter.reason)) }
                    td.number { (letter.attempts) }
                    td { a href=(parts::address("/dead-letters/letter", &[("id", &letter.dead_letter_id)])) {
                        @let id = letter.message.as_ref().map_or("", |message| message.message_id.as_str());
                        @if id.is_empty() { "Look inside" } @else { (parts::visible(id)) }
                    } }
                } } }
            } }
            div.tools {
                button.primary name="which" value="selected" { "Send the selected again" }
                label.check { "at most" input.rate name="rate" inputmode="numeric" size="6" aria-label="Most per second"; "per second" }
            }
            div.tools {
                details.ask {
                    summary { "All that match…" }
                    p { "This concerns all dead letters that match the filter above, not only those on this page." }
                    div.tools {
                        button name="which" value="matching" { "Send all that match again" }
                        button.danger name="which" value="matching" formaction="/dead-letters/purge" { "Delete all that match" }
                    }
                }
                details.ask {
                    summary { "Delete the selected…" }
                    p { "They cannot be restored." }
                    button.danger name="which" value="selected" formaction="/dead-letters/purge" { "Delete the selected" }
                }
            }
        }
    }
}

/// The selection of a form; `None` when it is empty.
fn selected(form: &Form) -> Result<Option<pb::DeadLetterSelection>, PageError> {
    let query: HashMap<_, _> = FILTER.iter().map(|name| ((*name).to_owned(), form.text(name).to_owned())).collect();
    let ids = form.all("id");
    Ok(match form.text("which") {
        "matching" if is_filtered(&query) => {
            Some(pb::DeadLetterSelection { filter: Some(filter(&query)?), ..Default::default() })
        }
        "matching" => Some(pb::DeadLetterSelection { all: true, ..Default::default() }),
        _ if ids.is_empty() => None,
        _ => Some(pb::DeadLetterSelection { dead_letter_ids: ids, ..Default::default() }),
    })
}

fn back(form: &Form) -> String {
    let query: Vec<_> =
        FILTER.iter().map(|name| (*name, form.text(name))).filter(|(_, value)| !value.is_empty()).collect();
    parts::address("/dead-letters", &query)
}

fn nothing() -> PageError {
    PageError::invalid("nothing was done: check the boxes of dead letters first")
}

pub(super) async fn redrive(form: Form) -> Result<Response, PageError> {
    let selection = selected(&form)?.ok_or_else(nothing)?;
    let request =
        pb::RedriveDeadLettersRequest { selection: Some(selection), max_per_second: form.number("rate")?, edit: None };
    let back = back(&form);
    redrive::send(form.user, request, &back).await
}

pub(super) async fn purge(form: Form) -> Result<Redirect, PageError> {
    let selection = Some(selected(&form)?.ok_or_else(nothing)?);
    form.user.calls().topology().purge_dead_letters(pb::PurgeDeadLettersRequest { selection }).await?;
    let back = back(&form);
    let separator = if back.contains('?') { '&' } else { '?' };
    Ok(Redirect::to(&format!("{back}{separator}done=purged")))
}

/// The body as text, if a form returns it unchanged: browsers change some line ends, and null.
fn editable(body: &[u8]) -> Option<&str> {
    std::str::from_utf8(body).ok().filter(|text| text.len() <= MAX_EDITED_BODY && !text.contains(['\r', '\0']))
}

/// The form that sends a dead letter again with another body or to another destination.
fn edit(user: &User, id: &str, letter: &pb::DeadLetter, message: &pb::Message) -> Markup {
    let text = editable(&message.body);
    html! {
        section {
            h2 { "Change it and send it" }
            form method="post" action=(EDITED_LETTER) {
                (user.csrf())
                input type="hidden" name="id" value=(id);
                @match text {
                    Some(text) => { label { "Body" textarea name="body" rows="6" spellcheck="false" { "\n" (text) } } }
                    None if message.body.len() > MAX_EDITED_BODY => { p.quiet {
                        "The body has more than " (count(MAX_EDITED_BODY as u64)) " bytes, so it is kept."
                    } }
                    None => { p.quiet { "A form cannot return its body unchanged, so the body is kept." } }
                }
                div.fields {
                    label { "Exchange" small { "empty with an empty key: its own queue" } input name="exchange" maxlength="255"; }
                    label { "Routing key" small { "published to: " (parts::visible(&letter.routing_key)) } input name="routing_key" maxlength="255"; }
                }
                button { "Send" }
            }
        }
    }
}

pub(super) async fn edited(form: Form) -> Result<Response, PageError> {
    let (exchange, routing_key) = (form.text("exchange").to_owned(), form.text("routing_key").to_owned());
    let is_elsewhere = !exchange.is_empty() || !routing_key.is_empty();
    // Browsers send line ends as two characters.
    let body = form.has("body").then(|| form.raw("body").replace("\r\n", "\n"));
    if let Some(body) = body.as_ref().filter(|body| body.len() > MAX_EDITED_BODY) {
        let text = format!(
            "body: has {} bytes; at most {} are allowed",
            count(body.len() as u64),
            count(MAX_EDITED_BODY as u64)
        );
        return Err(PageError::invalid(text));
    }
    let edit = pb::DeadLetterEdit {
        body: body.map(Into::into),
        destination: is_elsewhere.then_some(pb::PublishDestination { exchange, routing_key }),
    };
    let ids = vec![form.text("id").to_owned()];
    let selection = pb::DeadLetterSelection { dead_letter_ids: ids, ..Default::default() };
    let request = pb::RedriveDeadLettersRequest { selection: Some(selection), max_per_second: 0, edit: Some(edit) };
    let back = back(&form);
    redrive::send(form.user, request, &back).await
}

pub(super) async fn letter(user: User, query: Query) -> PageResult {
    super::tenant_only(&user)?;
    let id = param(&query, "id");
    let filter = pb::DeadLetterFilter { dead_letter_id: id.to_owned(), ..Default::default() };
    let request = pb::ListDeadLettersRequest { filter: Some(filter), page_size: 1, ..Default::default() };
    let listed = user.calls().topology().list_dead_letters(request).await?.into_inner();
    let gone = || PageError::not_found("this dead letter no longer exists: it was sent again or deleted");
    let letter = listed.dead_letters.into_iter().next().ok_or_else(gone)?;
    let message = letter.message.clone().unwrap_or_default();
    let trace = message::trace_of(&message);
    let content = html! {
        div.grid {
            section {
                h2 { "What happened" }
                table.facts {
                    tr { th { "Queue" } td { a href={ "/queues/" (parts::segment(&letter.queue)) } { (parts::visible(&letter.queue)) } } }
                    tr { th { "Code" } td { (parts::visible(&letter.code)) } }
                    @if !letter.reason.is_empty() { tr { th { "Reason" } td { (parts::visible(&letter.reason)) } } }
                    tr { th { "Attempts" } td { (letter.attempts) } }
                    tr { th { "First failure" } td { (parts::time(letter.first_failure.as_ref())) } }
                    tr { th { "Last failure" } td { (parts::time(letter.last_failure.as_ref())) } }
                    tr { th { "Died" } td { (parts::time(letter.died.as_ref())) } }
                    tr { th { "Sent again before" } td { (plural(letter.redrives.into(), "time", "times")) } }
                    tr { th { "Published to" } td {
                        @if letter.exchange.is_empty() { span.quiet { "default exchange" } } @else { (parts::visible(&letter.exchange)) }
                        " " code { (parts::visible(&letter.routing_key)) }
                    } }
                    @if let Some(trace) = &trace { tr { th { "Trace" } td { (parts::trace(Some(&user), trace)) } } }
                }
                div.tools {
                    (parts::action_form(&user, "/dead-letters/redrive", "Send again", &[("id", id), ("which", "selected")]))
                    (parts::confirmed_form(&user, "/dead-letters/purge", "Delete", html! { p { "It cannot be restored." } }, None,
                        &[("id", id), ("which", "selected")]))
                }
            }
            section { h2 { "Properties" } (message::properties(&message)) }
        }
        section { h2 { "Body" } (message::body(&message.body, 0)) }
        (edit(&user, id, &letter, &message))
    };
    Ok(layout::page(&user, "Dead letter", content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_editable_only_if_a_form_returns_it_unchanged() {
        assert_eq!(editable("two\nlines, größer".as_bytes()), Some("two\nlines, größer"));
        let long = vec![b'a'; MAX_EDITED_BODY + 1];
        for body in [b"ends\r\n".as_slice(), b"a\0b", b"\xff", &long] {
            assert_eq!(editable(body), None);
        }
    }
}
