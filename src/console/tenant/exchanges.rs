//! Exchanges: the list, a single exchange, declaring and deleting.

use axum::{extract::Path, response::Redirect};
use maud::html;

use super::{bindings, publish};
use crate::{
    console::{
        error::PageError,
        form::Form,
        layout,
        parts::{self, PageResult, Query, param},
        user::User,
    },
    pb::{self, ExchangeType},
};

const PAGE: i32 = 100;

pub(super) async fn list(user: User, query: Query) -> PageResult {
    super::tenant_only(&user)?;
    let request = pb::ListExchangesRequest { page_size: PAGE, page_token: param(&query, "page").to_owned() };
    let listed = user.calls().topology().list_exchanges(request).await?.into_inner();
    let content = html! {
        (parts::notice(&query))
        section {
            @if listed.exchanges.is_empty() {
                @let next = html! { p { "Messages can go to a queue directly. Declare an exchange to route by key, pattern or headers." } };
                (parts::empty("There are no exchanges that this client may see.", next))
            } @else {
                div.scroll { table {
                    thead { tr { th { "Exchange" } th { "Type" } th { "Alternate exchange" } th { span.hidden { "More" } } } }
                    tbody { @for exchange in &listed.exchanges { tr {
                        td { a href={ "/exchanges/" (parts::segment(&exchange.name)) } { (parts::visible(&exchange.name)) } }
                        td { (kind(exchange.r#type())) }
                        td { (parts::visible(&exchange.alternate_exchange)) }
                        td.quiet {
                            @if exchange.auto_delete { "deleted with its last binding " }
                            @if exchange.internal { "for exchanges only" }
                        }
                    } } }
                } }
                (parts::next_page("/exchanges", &query, &listed.next_page_token))
            }
        }
        section {
            h2 { "Declare an exchange" }
            form method="post" action="/exchanges" {
                (user.csrf())
                div.fields {
                    label { "Name" input name="name" required maxlength="200" pattern="[A-Za-z0-9._:\\-]+" autocomplete="off"; }
                    label { "Type" select name="type" {
                        option value="topic" { "topic (by pattern)" }
                        option value="direct" { "direct (by key)" }
                        option value="fanout" { "fanout (to all)" }
                        option value="headers" { "headers (by headers)" }
                    } }
                    label { "Alternate exchange" small { "for what is not routed; empty: none" } input name="alternate" maxlength="200"; }
                }
                button.primary { "Declare" }
            }
        }
    };
    Ok(layout::page(&user, "Exchanges", content))
}

fn kind(kind: ExchangeType) -> &'static str {
    match kind {
        ExchangeType::Unspecified => "",
        ExchangeType::Direct => "direct",
        ExchangeType::Topic => "topic",
        ExchangeType::Fanout => "fanout",
        ExchangeType::Headers => "headers",
    }
}

pub(super) async fn declare(form: Form) -> Result<Redirect, PageError> {
    let kind = match form.text("type") {
        "direct" => ExchangeType::Direct,
        "fanout" => ExchangeType::Fanout,
        "headers" => ExchangeType::Headers,
        _ => ExchangeType::Topic,
    };
    let exchange = pb::Exchange {
        name: form.text("name").to_owned(),
        r#type: kind.into(),
        alternate_exchange: form.text("alternate").to_owned(),
        ..pb::Exchange::default()
    };
    let name = exchange.name.clone();
    let request = pb::DeclareExchangeRequest { exchange: Some(exchange), validate_only: false };
    form.user.calls().topology().declare_exchange(request).await?;
    Ok(Redirect::to(&format!("/exchanges/{}?done=created", parts::segment(&name))))
}

pub(super) async fn page(user: User, Path(name): Path<String>, query: Query) -> PageResult {
    super::tenant_only(&user)?;
    let mut topology = user.calls().topology();
    // The broker's own exchanges can be bound, but the API does not return them.
    let exchange = match name.starts_with("amq.") {
        true => None,
        false => topology.get_exchange(pb::GetExchangeRequest { name: name.clone() }).await?.into_inner().exchange,
    };
    let request =
        pb::ListBindingsRequest { source: name.clone(), page_size: bindings::MAX_SHOWN, ..Default::default() };
    let bound = topology.list_bindings(request).await?.into_inner();
    let path = format!("/exchanges/{}", parts::segment(&name));
    let content = html! {
        (parts::notice(&query))
        @if let Some(exchange) = &exchange {
            section {
                table.facts {
                    tr { th { "Type" } td { (kind(exchange.r#type())) } }
                    @if !exchange.alternate_exchange.is_empty() { tr { th { "Alternate exchange" } td { (parts::visible(&exchange.alternate_exchange)) } } }
                    @if exchange.internal { tr { th { "Accepts" } td { "messages from other exchanges only" } } }
                }
                div.tools {
                    @let question = html! { p { "Its bindings are removed with it. Messages in queues stay." } };
                    (parts::confirmed_form(&user, &format!("{path}/delete"), "Delete", question, Some(&name), &[]))
                }
            }
        }
        section {
            h2 { "Bindings" }
            @if bound.bindings.is_empty() { p.quiet { "Nothing is bound: a message to it is UNROUTABLE." } }
            @else { (bindings::table(&user, &bound.bindings, &path)) }
            @if !bound.next_page_token.is_empty() { p.quiet { "The first " (bindings::MAX_SHOWN) " are shown." } }
            h3 { "Bind" }
            (bindings::creation(&user, &name, "", &path))
        }
        (publish::form(&user, &name, "", &path))
    };
    Ok(layout::page(&user, &format!("Exchange {name}"), content))
}

pub(super) async fn delete(Path(name): Path<String>, form: Form) -> Result<Redirect, PageError> {
    form.confirmed(&name)?;
    form.user.calls().topology().delete_exchange(pb::DeleteExchangeRequest { name, if_unused: false }).await?;
    Ok(Redirect::to("/exchanges?done=deleted"))
}
