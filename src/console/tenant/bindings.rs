//! Bindings as rows, and creating and removing them.

use std::collections::HashMap;

use axum::response::Redirect;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use maud::{Markup, html};
use prost::Message as _;

use crate::{
    console::{error::PageError, form::Form, parts, user::User},
    pb::{self, DestinationType},
};

/// The number of bindings of an exchange or a queue that are shown.
pub(super) const MAX_SHOWN: i32 = 200;

/// Bindings as rows, each with a form that removes it.
pub(super) fn table(user: &User, bindings: &[pb::Binding], back: &str) -> Markup {
    html! {
        div.scroll { table {
            thead { tr { th { "From exchange" } th { "Routing key" } th { "To" } th { span.hidden { "More" } } } }
            tbody { @for binding in bindings { tr {
                td { a href={ "/exchanges/" (parts::segment(&binding.source)) } { (parts::visible(&binding.source)) } }
                td { code { (parts::visible(&binding.routing_key)) } @if !binding.headers.is_empty() { " " (parts::plural(binding.headers.len() as u64, "header", "headers")) } }
                td { (destination(binding)) }
                td { (parts::confirmed_form(user, "/bindings/remove", "Remove", html! { p { "It no longer routes messages." } }, None,
                    &[("binding", &STANDARD.encode(binding.encode_to_vec())), ("back", back)])) }
            } } }
        } }
    }
}

fn destination(binding: &pb::Binding) -> Markup {
    let (path, kind) = match binding.destination_type() {
        DestinationType::Exchange => ("/exchanges/", "exchange"),
        DestinationType::Queue | DestinationType::Unspecified => ("/queues/", "queue"),
    };
    html! { span.quiet { (kind) " " } a href={ (path) (parts::segment(&binding.destination)) } { (parts::visible(&binding.destination)) } }
}

/// The form that creates a binding of the exchange or queue on the page.
pub(super) fn creation(user: &User, source: &str, destination: &str, back: &str) -> Markup {
    html! {
        form method="post" action="/bindings" {
            (user.csrf())
            input type="hidden" name="back" value=(back);
            div.fields {
                label { "From exchange" input name="source" value=(source) required maxlength="200"; }
                label { "Routing key" small { "a pattern for topic exchanges" } input name="routing_key" maxlength="255"; }
                label { "To" input name="destination" value=(destination) required maxlength="200"; }
                label { "which is" select name="destination_type" { option value="queue" { "a queue" } option value="exchange" { "an exchange" } } }
            }
            button { "Bind" }
        }
    }
}

/// The path of the page that contained the form, if it is one of these pages.
fn back(form: &Form, done: &str) -> Redirect {
    let path = form.text("back");
    let is_page = path.strip_prefix("/queues/").or_else(|| path.strip_prefix("/exchanges/"));
    let is_page = is_page.is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '%'));
    Redirect::to(&format!("{}?done={done}", if is_page { path } else { "/exchanges" }))
}

pub(super) async fn create(form: Form) -> Result<Redirect, PageError> {
    let is_exchange = form.text("destination_type") == "exchange";
    let kind = if is_exchange { DestinationType::Exchange } else { DestinationType::Queue };
    let binding = pb::Binding {
        source: form.text("source").to_owned(),
        destination: form.text("destination").to_owned(),
        destination_type: kind.into(),
        routing_key: form.text("routing_key").to_owned(),
        headers: HashMap::default(),
        headers_match: 0,
    };
    form.user.calls().topology().bind(pb::BindRequest { binding: Some(binding) }).await?;
    Ok(back(&form, "bound"))
}

pub(super) async fn remove(form: Form) -> Result<Redirect, PageError> {
    let binding =
        STANDARD.decode(form.text("binding")).ok().and_then(|bytes| pb::Binding::decode(bytes.as_slice()).ok());
    let binding = binding.ok_or_else(|| PageError::invalid("the form names no binding"))?;
    form.user.calls().topology().unbind(pb::UnbindRequest { binding: Some(binding) }).await?;
    Ok(back(&form, "unbound"))
}
