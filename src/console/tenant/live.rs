//! Live figures of a tenant's queues, as server-sent events with JSON. A page opens one stream for all its figures.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, future::select};
use http::{StatusCode, header};
use serde_json::json;

use crate::{
    console::{
        error::PageError,
        parts::{Query, param},
        user::User,
    },
    pb,
};

/// The time between two events.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long one stream lasts; browsers then open another one, for which the session is checked again.
const MAX_AGE: Duration = Duration::from_secs(10 * 60);
/// How many queues are in one event: the number that a page shows.
const MAX_QUEUES: u32 = 100;

pub(super) async fn events(user: Option<User>, query: Query) -> Response {
    // A stream of events must not be answered with the sign-in page.
    let Some(user) = user else { return StatusCode::UNAUTHORIZED.into_response() };
    let request = pb::WatchTenantRequest {
        tenant: if user.is_platform() { param(&query, "tenant").to_owned() } else { String::new() },
        interval: INTERVAL.try_into().ok(),
        max_queues: MAX_QUEUES,
        queue: param(&query, "queue").to_owned(),
    };
    let watched = match user.calls().unlimited().admin().watch_tenant(request).await {
        Ok(watched) => watched.into_inner(),
        Err(status) => return PageError::from(status).status.into_response(),
    };
    let console = user.console().clone();
    let end = select(Box::pin(console.stopped()), Box::pin(tokio::time::sleep(MAX_AGE)));
    // A failed watch ends the stream.
    let events = watched.take_while(|figures| std::future::ready(figures.is_ok())).take_until(end);
    // A page that is open elsewhere with the same session gets no figures after the sign-out.
    let events = events.take_while(move |_| {
        let user = user.clone();
        async move { !user.is_signed_out().await }
    });
    let events = events.filter_map(|figures| std::future::ready(figures.ok()));
    let events = events.map(|figures| Ok::<_, Infallible>(format!("data: {}\n\n", event(&figures))));
    let retry = futures_util::stream::iter([Ok("retry: 3000\n\n".to_owned())]);
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(retry.chain(events))).into_response()
}

fn event(figures: &pb::WatchTenantResponse) -> serde_json::Value {
    let totals = figures.totals.unwrap_or_default();
    let queue = |queue: &pb::QueueFigures| {
        json!({
            "name": queue.queue,
            "ready": queue.messages_ready,
            "unsettled": queue.messages_unsettled,
            "consumers": queue.consumers,
            "in": queue.publish_rate,
            "out": queue.deliver_rate,
            "age": seconds(queue.oldest_message_age),
        })
    };
    json!({
        "failure": figures.failure,
        "totals": {
            "queues": totals.queues,
            "ready": totals.messages_ready,
            "unsettled": totals.messages_unsettled,
            "consumers": totals.consumers,
            "in": totals.publish_rate,
            "out": totals.deliver_rate,
            "age": seconds(totals.oldest_message_age),
            "dead": totals.dead_letters,
            "delayed": totals.messages_delayed,
        },
        "queues": figures.queues.iter().map(queue).collect::<Vec<_>>(),
    })
}

fn seconds(duration: Option<prost_types::Duration>) -> Option<i64> {
    duration.map(|duration| duration.seconds)
}
