//! The list of queues, and declaring a queue.

use axum::response::Redirect;
use maud::{Markup, html};

use crate::{
    console::{
        error::PageError,
        form::Form,
        layout,
        parts::{self, PageResult, Query, count, param},
        user::User,
    },
    pb::{self, QueueType},
};

const PAGE: i32 = 100;
/// The service does not list these queues, which could be neither read nor deleted by a call.
pub(super) const NOT_LISTED: &str =
    "Queues with names that the gateway does not accept, created at the broker, are missing.";

pub(super) async fn list(user: User, query: Query) -> PageResult {
    super::tenant_only(&user)?;
    let request = pb::ListQueuesRequest { page_size: PAGE, page_token: param(&query, "page").to_owned() };
    let listed = user.calls().topology().list_queues(request).await?.into_inner();
    let content = html! {
        (parts::notice(&query))
        section {
            @if listed.queues.is_empty() {
                (parts::empty("There are no queues that this client may see.", html! { p { "Declare one below." } }))
            } @else {
                div.scroll { table {
                    thead { (head()) }
                    tbody { @for entry in &listed.queues { (row(entry)) } }
                } }
                p.quiet data-live=[user.observes().then_some("/live")] { span data-status="" role="status" { "Figures are at most a few seconds old." } }
                (parts::next_page("/queues", &query, &listed.next_page_token))
            }
            p.quiet { (NOT_LISTED) }
        }
        (declaration(&user))
    };
    Ok(layout::page(&user, "Queues", content))
}

/// The names of the columns of [`row`].
pub(super) fn head() -> Markup {
    html! {
        tr {
            th { "Queue" } th { "Type" } th.number { "Ready" } th.number { "Unsettled" } th.number { "Consumers" }
            th.number { "In / s" } th.number { "Out / s" }
        }
    }
}

/// A queue and its figures.
pub(super) fn row(entry: &pb::QueueEntry) -> Markup {
    let (queue, status) = (entry.queue.clone().unwrap_or_default(), entry.status.unwrap_or_default());
    html! {
        tr data-row=(queue.name) {
            td { a href={ "/queues/" (parts::segment(&queue.name)) } { (queue.name) } }
            td { (kind(queue.r#type())) }
            td.number data-figure="ready" { (count(status.messages_ready)) }
            td.number data-figure="unsettled" { (count(status.messages_unacknowledged)) }
            td.number data-figure="consumers" { (count(status.consumers.into())) }
            td.number data-figure="in" { (rate(status.publish_rate)) }
            td.number data-figure="out" { (rate(status.deliver_rate)) }
        }
    }
}

/// Messages per second.
pub(super) fn rate(value: f64) -> String {
    if value < 0.05 { "0".to_owned() } else { format!("{value:.1}") }
}

pub(super) fn kind(kind: QueueType) -> &'static str {
    match kind {
        QueueType::Unspecified | QueueType::Quorum => "quorum",
        QueueType::Classic => "classic",
        QueueType::Stream => "stream",
    }
}

fn declaration(user: &User) -> Markup {
    html! {
        section {
            h2 { "Declare a queue" }
            form method="post" action="/queues" {
                (user.csrf())
                div.fields {
                    label { "Name" input name="name" required maxlength="200" pattern="[A-Za-z0-9._:\\-]+" autocomplete="off"; }
                    label { "Type" select name="type" {
                        option value="quorum" { "quorum (replicated)" }
                        option value="classic" { "classic (one node)" }
                        option value="stream" { "stream (a log)" }
                    } }
                    label { "Most ready messages" small { "empty: no limit" } input name="max_length" inputmode="numeric"; }
                    label { "Time to live" small { "such as 1h; then a dead letter" } input name="message_ttl"; }
                    label { "Delivery attempts" small { "empty: 20; not for streams" } input name="attempts" inputmode="numeric"; }
                    label { "First retry after" small { "such as 5s; empty: 1s" } input name="min_backoff"; }
                }
                label.check { input type="checkbox" name="single" value="yes"; "One consumer at a time" }
                button.primary { "Declare" }
            }
        }
    }
}

pub(super) async fn declare(form: Form) -> Result<Redirect, PageError> {
    let kind = match form.text("type") {
        "classic" => QueueType::Classic,
        "stream" => QueueType::Stream,
        _ => QueueType::Quorum,
    };
    let min_backoff = form.duration("min_backoff")?;
    let queue = pb::Queue {
        name: form.text("name").to_owned(),
        r#type: kind.into(),
        max_length: form.number("max_length")?,
        message_ttl: form.duration("message_ttl")?,
        max_delivery_attempts: form.number("attempts")?,
        single_active_consumer: form.has("single"),
        retry_policy: min_backoff.map(|backoff| pb::RetryPolicy { min_backoff: Some(backoff), ..Default::default() }),
        ..pb::Queue::default()
    };
    let name = queue.name.clone();
    form.user
        .calls()
        .topology()
        .declare_queue(pb::DeclareQueueRequest { queue: Some(queue), validate_only: false })
        .await?;
    Ok(Redirect::to(&format!("/queues/{}?done=created", parts::segment(&name))))
}
