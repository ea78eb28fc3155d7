//! One queue: its state, its bindings, a test message, purging and deleting.

use axum::{extract::Path, response::Redirect};
use maud::{Markup, html};

use super::{bindings, consumers, publish, queues};
use crate::{
    console::{
        error::PageError,
        form::Form,
        layout,
        parts::{self, PageResult, Query, count},
        user::User,
    },
    pb::{self, QueueType},
    units::{format_duration, format_size},
};

pub(super) async fn page(user: User, Path(name): Path<String>, query: Query) -> PageResult {
    super::tenant_only(&user)?;
    let mut topology = user.calls().topology();
    let found = topology.get_queue(pb::GetQueueRequest { name: name.clone() }).await?.into_inner();
    let (queue, status) = (found.queue.unwrap_or_default(), found.status.unwrap_or_default());
    let request =
        pb::ListBindingsRequest { destination: name.clone(), page_size: bindings::MAX_SHOWN, ..Default::default() };
    let bound = topology.list_bindings(request).await?.into_inner();
    let bound: Vec<_> =
        bound.bindings.into_iter().filter(|b| b.destination_type() != pb::DestinationType::Exchange).collect();
    let path = format!("/queues/{}", parts::segment(&name));
    let consumers = consumers::of(&user, &name).await;
    let content = html! {
        (parts::notice(&query))
        div.grid data-live=[user.observes().then(|| parts::address("/live", &[("queue", &name)]))] data-queue=(name) {
            section {
                h2 { "State" }
                dl.figures {
                    div { dt { "Ready" } dd data-figure="ready" { (count(status.messages_ready)) } }
                    div { dt { "Unsettled" } dd data-figure="unsettled" { (count(status.messages_unacknowledged)) } }
                    div { dt { "Consumers" } dd data-figure="consumers" { (count(status.consumers.into())) } }
                    div { dt { "In / s" } dd data-figure="in" { (queues::rate(status.publish_rate)) } }
                    div { dt { "Out / s" } dd data-figure="out" { (queues::rate(status.deliver_rate)) } }
                    @if user.observes() { div { dt { "Oldest" } dd data-figure="age" { "–" } } }
                }
                @if user.observes() { (parts::chart("Messages ready", "ready")) p.live data-status="" role="status" {} }
                div.tools {
                    (parts::action_form(&user, &format!("{path}/peek"), "Show the first messages", &[]))
                    a.button href=(parts::address("/dead-letters", &[("queue", &name)])) { "Dead letters" }
                    @if queue.r#type() != QueueType::Stream {
                        @let question = html! { p { "This deletes the ready messages: " (count(status.messages_ready)) " at the moment. It cannot be undone." } };
                        (parts::confirmed_form(&user, &format!("{path}/purge"), "Purge", question, None, &[]))
                    }
                    @let question = html! { p { "This deletes the queue with its messages, and ends its subscriptions. It cannot be undone." } };
                    (parts::confirmed_form(&user, &format!("{path}/delete"), "Delete", question, Some(&name), &[]))
                }
            }
            section {
                h2 { "Settings" }
                (settings(&queue))
            }
        }
        (consumers)
        section {
            h2 { "Bindings" }
            @if bound.is_empty() { p.quiet { "No exchange routes to it. Messages reach it by the default exchange, with its name as the routing key." } }
            @else { (bindings::table(&user, &bound, &path)) }
            h3 { "Bind" }
            (bindings::creation(&user, "", &name, &path))
        }
        (publish::form(&user, "", &name, &path))
    };
    Ok(layout::page(&user, &format!("Queue {name}"), content))
}

fn settings(queue: &pb::Queue) -> Markup {
    let time = |time: Option<prost_types::Duration>| time.and_then(|time| time.try_into().ok()).map(format_duration);
    let retry = queue
        .retry_policy
        .and_then(|policy| Some(format!("{} to {}", time(policy.min_backoff)?, time(policy.max_backoff)?)));
    let number = |number: u64| (number > 0).then(|| count(number));
    let size = |bytes: u64| (bytes > 0).then(|| format_size(bytes));
    let rows = [
        ("Type", Some(queues::kind(queue.r#type()).to_owned())),
        ("Most ready messages", number(queue.max_length)),
        ("Most bytes", size(queue.max_length_bytes)),
        ("Time to live", time(queue.message_ttl)),
        ("Deleted when unused for", time(queue.expires)),
        ("Delivery attempts", number(queue.max_delivery_attempts.into())),
        ("Levels of priority", number(queue.max_priority.into())),
        ("Consumers", queue.single_active_consumer.then(|| "one at a time".to_owned())),
        ("Messages are kept for", time(queue.max_age)),
        ("Segment size", size(queue.stream_max_segment_bytes)),
        ("Retries after", retry),
    ];
    html! {
        table.facts {
            @for (name, value) in rows { @if let Some(value) = value { tr { th { (name) } td { (value) } } } }
        }
    }
}

pub(super) async fn purge(Path(name): Path<String>, form: Form) -> Result<Redirect, PageError> {
    form.user.calls().topology().purge_queue(pb::PurgeQueueRequest { name: name.clone() }).await?;
    Ok(Redirect::to(&format!("/queues/{}?done=purged", parts::segment(&name))))
}

pub(super) async fn delete(Path(name): Path<String>, form: Form) -> Result<Redirect, PageError> {
    form.confirmed(&name)?;
    form.user
        .calls()
        .topology()
        .delete_queue(pb::DeleteQueueRequest { name, if_unused: false, if_empty: false })
        .await?;
    Ok(Redirect::to("/queues?done=deleted"))
}
