//! The pages of platform administrators.

mod gateways;
mod health;
mod keys;
mod overview;
mod plans;
mod tenant;
mod tenants;

use axum::{
    Router,
    routing::{get, post},
};

pub(super) use self::{overview::overview, tenant::meters};
use super::{Console, error::PageError, user::User};

pub(super) fn routes() -> Router<Console> {
    Router::new()
        .route("/tenants", get(tenants::list).post(tenants::create))
        .route("/tenants/{tenant}", get(tenant::page).post(tenant::change))
        .route("/tenants/{tenant}/suspend", post(tenant::suspend))
        .route("/tenants/{tenant}/resume", post(tenant::resume))
        .route("/tenants/{tenant}/delete", post(tenant::delete))
        .route("/tenants/{tenant}/reconcile", post(tenant::reconcile))
        .route("/tenants/{tenant}/isolation", post(tenant::verify_isolation))
        .route("/plans", get(plans::list).post(plans::create))
        .route("/plans/{plan}", get(plans::page).post(plans::change))
        .route("/plans/{plan}/delete", post(plans::delete))
        .route("/health", get(health::page))
        .route("/keys", get(keys::page))
        .route("/keys/rotate", post(keys::rotate))
        .route("/keys/revoke", post(keys::revoke))
}

/// Only helps people: the services refuse what a user is not allowed to do.
fn platform_only(user: &User) -> Result<(), PageError> {
    if user.is_platform() { Ok(()) } else { Err(PageError::not_found("this page is for platform administrators")) }
}
