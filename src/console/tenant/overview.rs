//! The first page of a tenant: its largest queues, its dead letters, and the client's grants.

use maud::{Markup, html};

use super::queues;
use crate::{
    console::{
        layout,
        parts::{self, PageResult, count},
        user::User,
    },
    pb,
};

/// How many queues are read, and how many of the largest are shown.
const MAX_READ: i32 = 1_000;
const MAX_SHOWN: usize = 10;

pub(in crate::console) async fn overview(user: User) -> PageResult {
    let request = pb::ListQueuesRequest { page_size: MAX_READ, page_token: String::new() };
    let listed = user.calls().topology().list_queues(request).await?.into_inner();
    let is_cut = !listed.next_page_token.is_empty();
    let figures = |entry: &pb::QueueEntry| entry.status.unwrap_or_default();
    let sum = |of: fn(&pb::QueueStatus) -> u64| listed.queues.iter().map(|entry| of(&figures(entry))).sum::<u64>();
    let (ready, unsettled) = (sum(|status| status.messages_ready), sum(|status| status.messages_unacknowledged));
    let consumers = sum(|status| status.consumers.into());
    let mut largest: Vec<_> = listed.queues.iter().collect();
    largest.sort_by_key(|entry| std::cmp::Reverse(figures(entry).messages_ready));
    let content = html! {
        @if !user.observes() { section {
            h2 { "Queues that this client may see" }
            dl.figures {
                div { dt { "Queues" } dd { a href="/queues" { (count(listed.queues.len() as u64)) @if is_cut { " or more" } } } }
                div { dt { "Ready" } dd { (count(ready)) } }
                div { dt { "Unsettled" } dd { (count(unsettled)) } }
                div { dt { "Consumers" } dd { (count(consumers)) } }
            }
        } }
        @if user.observes() { (parts::traffic("/live")) }
        section {
            h2 { "Most messages" }
            @if largest.is_empty() {
                (parts::empty("There are no queues yet.", html! { p { a href="/queues" { "Declare one" } ", then publish a test message to it." } }))
            } @else {
                div.scroll { table {
                    thead { (queues::head()) }
                    tbody { @for entry in largest.into_iter().take(MAX_SHOWN) { (queues::row(entry)) } }
                } }
            }
        }
        section {
            h2 { "What this client may do" }
            (grants(&user.grants()))
        }
    };
    Ok(layout::page(&user, "Overview", content))
}

fn grants(grants: &pb::Grants) -> Markup {
    let none = html! { span.quiet { "nothing" } };
    let list = |patterns: &[String]| {
        html! {
            @if patterns.is_empty() { (none) }
            @for pattern in patterns { code { (pattern) } " " }
        }
    };
    html! {
        table.facts {
            tr { th { "Publish to" } td {
                @if grants.publish.is_empty() { (none) }
                @for grant in &grants.publish { code { (grant.exchange) " " (grant.routing_key) } " " }
            } }
            tr { th { "Subscribe to" } td { (list(&grants.subscribe)) } }
            tr { th { "Configure" } td { (list(&grants.configure)) } }
            tr { th { "Administer" } td { @if grants.administer { "the clients of this tenant" } @else { (none) } } }
            tr { th { "Observe" } td { @if grants.observe { "usage, audit, live figures, streams" } @else { (none) } } }
        }
    }
}
