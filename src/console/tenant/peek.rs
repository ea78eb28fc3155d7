//! The first messages of a queue, without removing them.

use axum::extract::Path;
use maud::html;

use super::message;
use crate::{
    console::{
        form::Form,
        layout,
        parts::{self, PageResult},
    },
    pb,
};

/// How many messages are shown, and how many bytes of each body.
const MAX_MESSAGES: i32 = 20;
const MAX_BODY: u32 = 64 * 1024;

pub(super) async fn peek(Path(name): Path<String>, form: Form) -> PageResult {
    let offset = form.text("offset");
    let request = pb::PeekMessagesRequest {
        queue: name.clone(),
        max_messages: MAX_MESSAGES,
        max_body_bytes: MAX_BODY,
        stream_offset: if offset.is_empty() { None } else { Some(form.number("offset")?) },
    };
    let peeked = form.user.calls().topology().peek_messages(request).await?.into_inner();
    let path = format!("/queues/{}", parts::segment(&name));
    let content = html! {
        p {
            a href=(path) { "Back to the queue" }
            @if peeked.has_more { " · The queue has more messages than these." }
        }
        @if peeked.messages.is_empty() { section { (parts::empty("No message is ready.", html! { p { "Messages that consumers have not settled yet are not shown." } })) } }
        @for (at, peeked) in peeked.messages.iter().enumerate() {
            @let message = peeked.message.clone().unwrap_or_default();
            section {
                h2 { "Message " (at + 1) }
                table.facts {
                    tr { th { "Published to" } td {
                        @if peeked.exchange.is_empty() { span.quiet { "default exchange" } } @else { (peeked.exchange) }
                        " " code { (peeked.routing_key) }
                    } }
                    @if let Some(offset) = peeked.stream_offset { tr { th { "Offset" } td { (offset) } } }
                    @else { tr { th { "Next attempt" } td { (peeked.attempt) } } }
                    @if let Some(trace) = message::trace_of(&message) { tr { th { "Trace" } td { (parts::trace(Some(&form.user), &trace)) } } }
                }
                (message::properties(&message))
                (message::body(&message.body, peeked.body_bytes))
            }
        }
    };
    Ok(layout::page(&form.user, &format!("First messages of {name}"), content))
}
