//! The pages of a tenant's clients.

mod bindings;
mod consumers;
mod dead_letters;
mod exchanges;
mod live;
mod message;
mod overview;
mod peek;
mod publish;
mod queue;
mod queues;
mod redrive;
mod streams;
mod topology;
mod usage;

use axum::{
    Router,
    routing::{get, post},
};

pub(super) use self::overview::overview;
use super::{Console, error::PageError, form::EDITED_LETTER, user::User};

pub(super) fn routes() -> Router<Console> {
    Router::new()
        .route("/queues", get(queues::list).post(queues::declare))
        .route("/queues/{queue}", get(queue::page))
        .route("/queues/{queue}/peek", post(peek::peek))
        .route("/queues/{queue}/purge", post(queue::purge))
        .route("/queues/{queue}/delete", post(queue::delete))
        .route("/exchanges", get(exchanges::list).post(exchanges::declare))
        .route("/exchanges/{exchange}", get(exchanges::page))
        .route("/exchanges/{exchange}/delete", post(exchanges::delete))
        .route("/bindings", post(bindings::create))
        .route("/bindings/remove", post(bindings::remove))
        .route("/publish", post(publish::submit))
        .route("/topology", get(topology::page))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/letter", get(dead_letters::letter))
        .route("/dead-letters/redrive", post(dead_letters::redrive))
        .route(EDITED_LETTER, post(dead_letters::edited))
        .route("/dead-letters/purge", post(dead_letters::purge))
        .route("/live", get(live::events))
        .route("/usage", get(usage::page))
        .route("/streams", get(streams::list))
        .route("/streams/close", post(streams::close))
}

/// Only helps people: a platform administrator's token has no tenant, and the services refuse it.
fn tenant_only(user: &User) -> Result<(), PageError> {
    match user.is_platform() {
        false => Ok(()),
        true => Err(PageError::not_found("this page is for a tenant's clients: sign in as one of them")),
    }
}
