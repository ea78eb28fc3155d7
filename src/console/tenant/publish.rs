//! Publishing a test message, with its outcome and its trace.

use std::collections::HashMap;

use maud::{Markup, html};

use crate::{
    console::{
        error::PageError,
        form::Form,
        layout,
        parts::{self, PageResult, badge},
        user::User,
    },
    pb::{self, Outcome, value::Kind},
};

/// The form of a message to this exchange, or to this queue by the default exchange.
pub(super) fn form(user: &User, exchange: &str, routing_key: &str, back: &str) -> Markup {
    html! {
        section {
            h2 { "Publish a test message" }
            form method="post" action="/publish" {
                (user.csrf())
                input type="hidden" name="exchange" value=(exchange);
                input type="hidden" name="back" value=(back);
                div.fields {
                    @if exchange.is_empty() { input type="hidden" name="routing_key" value=(routing_key); }
                    @else { label { "Routing key" input name="routing_key" value=(routing_key) maxlength="255"; } }
                    label { "Content type" input name="content_type" value="application/json" maxlength="255"; }
                    label { "Message id" small { "empty: the gateway makes one" } input name="message_id" maxlength="255"; }
                }
                label { "Body" textarea name="body" rows="4" spellcheck="false" { "{\"hello\": \"world\"}" } }
                label { "Headers" small { "one on a line: name: text" } textarea name="headers" rows="2" spellcheck="false" {} }
                button.primary { "Publish" }
            }
        }
    }
}

/// Headers as lines of `name: text`.
fn headers(text: &str) -> Result<HashMap<String, pb::Value>, PageError> {
    let header = |line: &str| {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| PageError::invalid(format!("headers: {line:?} must be a name, a colon and a text")))?;
        let value = pb::Value { kind: Some(Kind::StringValue(value.trim().to_owned())) };
        Ok((name.trim().to_owned(), value))
    };
    text.lines().filter(|line| !line.trim().is_empty()).map(header).collect()
}

pub(super) async fn submit(form: Form) -> PageResult {
    let body = form.raw("body").replace("\r\n", "\n");
    let message = pb::Message {
        body: body.into(),
        message_id: form.text("message_id").to_owned(),
        content_type: form.text("content_type").to_owned(),
        headers: headers(form.raw("headers"))?,
        ..pb::Message::default()
    };
    let publication = pb::Publication {
        sequence: 1,
        exchange: form.text("exchange").to_owned(),
        routing_key: form.text("routing_key").to_owned(),
        message: Some(message),
        allow_unroutable: false,
    };
    let request = pb::PublishBatchRequest { publications: vec![publication.clone()] };
    let answer = form.user.calls().messaging().publish_batch(request).await?.into_inner();
    let result = answer.results.into_iter().next().unwrap_or_default();
    let (class, text) = outcome(result.outcome());
    let back = form.text("back");
    let is_page = ["/queues/", "/exchanges/"].iter().any(|start| back.starts_with(start)) && !back.contains('\\');
    let content = html! {
        section {
            table.facts {
                tr { th { "Outcome" } td { (badge(class, result.outcome().as_str_name().trim_start_matches("OUTCOME_"))) " " (text) } }
                @if !result.reason.is_empty() { tr { th { "Reason" } td { (result.reason) } } }
                tr { th { "Exchange" } td { @if publication.exchange.is_empty() { span.quiet { "default" } } @else { (publication.exchange) } } }
                tr { th { "Routing key" } td { code { (publication.routing_key) } } }
                tr { th { "Message id" } td { code { (result.message_id) } } }
                tr { th { "Trace" } td {
                    @if result.trace_id.is_empty() { span.quiet { "not sampled" } }
                    @else { (parts::trace(Some(&form.user), &result.trace_id)) }
                } }
            }
            @if is_page { p { a href=(back) { "Back" } } }
        }
    };
    Ok(layout::page(&form.user, "Test message", content))
}

fn outcome(outcome: Outcome) -> (&'static str, &'static str) {
    match outcome {
        Outcome::Confirmed => ("good", "The broker stored it."),
        Outcome::Unroutable => ("warn", "No queue is bound for it; nothing was stored."),
        Outcome::Rejected => ("bad", "It was refused; nothing was stored."),
        Outcome::Denied => ("bad", "The client's grants do not cover this exchange and routing key."),
        Outcome::Throttled => ("warn", "A limit of the plan was exceeded; nothing was stored."),
        Outcome::Unknown | Outcome::Unspecified => ("warn", "It may or may not be stored."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_lines() {
        let given = headers("a: b: c\r\n\n x :y").expect("headers");
        let text = |name: &str| given[name].kind.clone();
        assert_eq!(text("a"), Some(Kind::StringValue("b: c".into())));
        assert_eq!(text("x"), Some(Kind::StringValue("y".into())));
        assert!(headers("no colon").is_err());
    }
}
