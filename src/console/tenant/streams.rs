//! Open streams of a tenant, and closing a stream.

use std::collections::HashMap;

use axum::response::Redirect;
use maud::html;

use crate::{
    console::{
        error::PageError,
        form::Form,
        layout,
        parts::{self, PageResult, Query, count, param},
        user::User,
    },
    pb::{self, StreamKind},
};

const PAGE: i32 = 100;

/// The tenant of a request: the user's, or the tenant that a platform administrator names.
fn tenant(user: &User, query: &HashMap<String, String>) -> String {
    if user.is_platform() { param(query, "tenant").to_owned() } else { String::new() }
}

pub(in crate::console) async fn list(user: User, query: Query) -> PageResult {
    let tenant = tenant(&user, &query);
    let request = pb::ListStreamsRequest {
        tenant: tenant.clone(),
        client_id: param(&query, "client").to_owned(),
        page_size: PAGE,
        page_token: param(&query, "page").to_owned(),
        ..pb::ListStreamsRequest::default()
    };
    let listed = user.calls().admin().list_streams(request).await?.into_inner();
    let content = html! {
        (parts::notice(&query))
        section {
            p.quiet { "Open streams on this gateway (" code { (listed.gateway) } "). " @if user.is_platform() { a href="/health#gateways" { "Other gateways" } } @else { "Other gateways" } " have their own." }
            @if listed.streams.is_empty() {
                (parts::empty("No stream is open.", html! { p { "A stream appears here while a client publishes or subscribes." } }))
            } @else {
                div.scroll { table {
                    thead { tr {
                        th { "Client" } th { "Kind" } th { "Queue" } th { "Address" } th { "Since" }
                        th.number { "In flight" } th.number { "Bytes" } th.number { "Messages" } th.number { "/ s" } th { span.hidden { "Close" } }
                    } }
                    tbody { @for stream in &listed.streams { tr {
                        td { (stream.client_id) }
                        td { (kind(stream.kind())) }
                        td { (stream.queue) }
                        td { (stream.peer_address) }
                        td { (parts::time(stream.since.as_ref())) }
                        td.number { (count(stream.in_flight_messages)) }
                        td.number { (parts::size(stream.in_flight_bytes)) }
                        td.number { (count(stream.messages)) }
                        td.number { (count(stream.messages_per_second)) }
                        td { @if user.administers() {
                            @let question = html! { p { "It ends with ABORTED. The client may open another one at once; to prevent that, revoke the client." } };
                            (parts::confirmed_form(&user, "/streams/close", "Close", question, None, &[("stream", &stream.stream_id), ("tenant", &tenant)]))
                        } }
                    } } }
                } }
                (parts::next_page("/streams", &query, &listed.next_page_token))
            }
        }
    };
    let title = if tenant.is_empty() { "Streams".to_owned() } else { format!("Streams of {tenant}") };
    Ok(layout::page(&user, &title, content))
}

fn kind(kind: StreamKind) -> &'static str {
    match kind {
        StreamKind::Unspecified => "",
        StreamKind::Publish => "publish",
        StreamKind::Subscribe => "subscribe",
        StreamKind::Redrive => "redrive",
    }
}

pub(in crate::console) async fn close(form: Form) -> Result<Redirect, PageError> {
    let tenant = form.text("tenant").to_owned();
    let request = pb::CloseStreamRequest { tenant: tenant.clone(), stream_id: form.text("stream").to_owned() };
    form.user.calls().admin().close_stream(request).await?;
    let query = [("tenant", tenant.as_str()), ("done", "closed")];
    Ok(Redirect::to(&parts::address("/streams", if tenant.is_empty() { &query[1..] } else { &query })))
}
