//! The consumers of a queue: its open subscribe streams on this gateway.

use maud::{Markup, html};

use crate::{
    console::{
        error::PageError,
        parts::{self, count},
        user::User,
    },
    pb::{self, StreamKind},
};

/// How many subscriptions of the tenant are searched, and how many consumers are shown.
const MAX_SEARCHED: i32 = 1_000;
const MAX_SHOWN: usize = 50;

/// The consumers of a queue; nothing for a user who may not see streams.
pub(super) async fn of(user: &User, queue: &str) -> Markup {
    if !user.observes() {
        return html! {};
    }
    let request = pb::ListStreamsRequest {
        kind: StreamKind::Subscribe.into(),
        page_size: MAX_SEARCHED,
        ..pb::ListStreamsRequest::default()
    };
    // The rest of the page is useful without them.
    let listed = user.calls().admin().list_streams(request).await.map(tonic::Response::into_inner);
    let listed = listed.map(|mut listed| {
        listed.streams.retain(|stream| stream.queue == queue);
        listed
    });
    html! {
        section {
            h2 { "Consumers on this gateway" }
            @match listed {
                Ok(listed) => { (table(&listed.streams, !listed.next_page_token.is_empty())) }
                Err(status) => { (PageError::from(status).note()) }
            }
        }
    }
}

/// The first of these consumers; with `more`, there are subscriptions that were not searched.
fn table(consumers: &[pb::OpenStream], more: bool) -> Markup {
    html! {
        @if consumers.is_empty() {
            p.quiet { "No client of this gateway consumes it." }
        } @else {
            div.scroll { table {
                thead { tr { th { "Client" } th { "Address" } th { "Since" } th.number { "Unsettled" } th.number { "/ s" } } }
                tbody { @for consumer in consumers.iter().take(MAX_SHOWN) { tr {
                    td { (consumer.client_id) }
                    td { (consumer.peer_address) }
                    td { (parts::time(consumer.since.as_ref())) }
                    td.number { (count(consumer.in_flight_messages)) }
                    td.number { (count(consumer.messages_per_second)) }
                } } }
            } }
        }
        @if more || consumers.len() > MAX_SHOWN { p.quiet { "There may be more: " a href="/streams" { "all streams" } "." } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_a_number_of_consumers_is_shown_and_the_rest_is_linked() {
        let consumer = |at| pb::OpenStream { client_id: format!("acme.<{at}>"), ..pb::OpenStream::default() };
        let all: Vec<_> = (0..=MAX_SHOWN).map(consumer).collect();
        let shown = table(&all, false).into_string();
        assert_eq!(shown.matches("acme.&lt;").count(), MAX_SHOWN);
        assert!(shown.contains("href=\"/streams\"") && !shown.contains("acme.<"), "{shown}");
        assert!(!table(&all[1..], false).into_string().contains("/streams"));
        assert!(table(&[], true).into_string().contains("/streams"), "those that were not searched");
    }
}
