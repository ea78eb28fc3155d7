//! Clients and their grants: of a tenant, for its own administrator and for platform administrators, and those of the
//! platform. A secret is shown once, on the page that answers the form.

mod grants;

use axum::{
    Router,
    extract::Path,
    response::Redirect,
    routing::{get, post},
};
use maud::{Markup, html};

use self::grants::{fields, from_form, summary};
use super::{
    Console,
    error::PageError,
    form::Form,
    layout,
    parts::{self, Html, PageResult, Query, badge, param},
    user::User,
};
use crate::pb;

const PAGE: i32 = 100;

pub(super) fn routes() -> Router<Console> {
    Router::new()
        .route("/clients", get(list).post(create))
        .route("/clients/{client}", get(page).post(change))
        .route("/clients/{client}/rotate", post(rotate))
        .route("/clients/{client}/revoke", post(revoke))
        .route("/clients/{client}/delete", post(delete))
}

/// The tenant whose clients are shown: for a tenant's user always its own tenant.
fn tenant_of(user: &User, query: &Query) -> String {
    if user.is_platform() { param(query, "tenant").to_owned() } else { user.tenant().to_owned() }
}

async fn list(user: User, query: Query) -> PageResult {
    let tenant = tenant_of(&user, &query);
    let request = pb::ListClientsRequest {
        tenant: tenant.clone(),
        page_size: PAGE,
        page_token: param(&query, "page").to_owned(),
    };
    let listed = user.calls().admin().list_clients(request).await?.into_inner();
    let content = html! {
        (parts::notice(&query))
        section {
            (table(&user, &listed.clients))
            (parts::next_page("/clients", &query, &listed.next_page_token))
        }
        section {
            h2 { "Create a client" }
            form method="post" action="/clients" {
                (user.csrf())
                input type="hidden" name="tenant" value=(tenant);
                div.fields {
                    label { "Name" small { "2 to 40 of a-z, 0-9 and \"-\"" @if !tenant.is_empty() { "; the id is " (tenant) ".name" } }
                        input name="name" required maxlength="40" autocomplete="off"; }
                    label { "For people" small { "empty: the id" } input name="display_name" maxlength="200"; }
                }
                @if tenant.is_empty() {
                    p.quiet { "The client is a platform administrator: it may manage every tenant." }
                } @else { (fields(&pb::Grants::default())) }
                button.primary { "Create" }
            }
        }
    };
    let title = match (user.is_platform(), tenant.as_str()) {
        (true, "") => "Platform administrators".to_owned(),
        (true, tenant) => format!("Clients of {tenant}"),
        (false, _) => "Clients".to_owned(),
    };
    Ok(layout::page(&user, &title, content))
}

/// Clients as rows.
pub(super) fn table(user: &User, clients: &[pb::Client]) -> Markup {
    if clients.is_empty() {
        let next =
            html! { p { "An application needs a client to connect: create one with the grants that it needs." } };
        return parts::empty("There are no clients.", next);
    }
    html! {
        div.scroll { table {
            thead { tr { th { "Client" } th { "Name" } th { "State" } th { "Grants" } th { "Created" } } }
            tbody { @for client in clients { tr {
                td {
                    a href={ "/clients/" (parts::segment(&client.client_id)) } { (client.client_id) }
                    @if client.client_id == user.client_id() { " " span.quiet { "(you)" } }
                }
                td { (client.display_name) }
                td { (state(client)) }
                td { (summary(client.grants.as_ref())) }
                td { (parts::time(client.created.as_ref())) }
            } } }
        } }
    }
}

fn state(client: &pb::Client) -> Markup {
    match client.revoked {
        true => badge("bad", "revoked"),
        false if !client.issuer.is_empty() => badge("", "external issuer"),
        false => badge("good", "active"),
    }
}

/// The client with this id. The API has no call for a single client, only a list.
async fn find(user: &User, client_id: &str) -> Result<pb::Client, PageError> {
    let tenant = client_id.split_once('.').map_or("", |(tenant, _)| tenant);
    let mut request = pb::ListClientsRequest { tenant: tenant.to_owned(), page_size: 1_000, page_token: String::new() };
    let mut admin = user.calls().admin();
    loop {
        let page = admin.list_clients(request.clone()).await?.into_inner();
        if let Some(client) = page.clients.into_iter().find(|client| client.client_id == client_id) {
            return Ok(client);
        }
        if page.next_page_token.is_empty() {
            return Err(PageError::not_found("this client does not exist"));
        }
        request.page_token = page.next_page_token;
    }
}

async fn page(user: User, Path(id): Path<String>, query: Query) -> PageResult {
    let client = find(&user, &id).await?;
    let path = format!("/clients/{}", parts::segment(&id));
    let at = |act: &str| format!("{path}/{act}");
    let content = html! {
        (parts::notice(&query))
        div.grid {
            section {
                h2 { "Client" }
                table.facts {
                    tr { th { "State" } td { (state(&client)) } }
                    tr { th { "Created" } td { (parts::time(client.created.as_ref())) } }
                    @if !client.issuer.is_empty() {
                        tr { th { "Issuer" } td { (client.issuer) } }
                        tr { th { "Id there" } td { (client.external_id) } }
                    }
                    tr { th { "Events" } td { a href=(parts::address("/audit", &[("client", &id)])) { "Audit trail" } } }
                }
                div.tools {
                    @if !client.revoked && client.issuer.is_empty() {
                        @let question = html! {
                            label { "The old secret stays valid for"
                                small { "such as 1h or 7d, at most 30 days; empty: it ends now, with its tokens and streams" }
                                input name="overlap" value="1h" autocomplete="off"; }
                        };
                        (parts::confirmed_form(&user, &at("rotate"), "Rotate the secret", question, None, &[]))
                    }
                    @if !client.revoked {
                        @let question = html! { p { "Its secret and tokens are refused, and its open streams end. A revoked client cannot be used again." } };
                        (parts::confirmed_form(&user, &at("revoke"), "Revoke", question, None, &[]))
                    }
                    @let question = html! { p { "Its id can then be used for another client." } };
                    (parts::confirmed_form(&user, &at("delete"), "Delete", question, Some(&id), &[]))
                }
            }
            section {
                h2 { "Name and grants" }
                form method="post" action=(path) {
                    (user.csrf())
                    label { "For people" input name="display_name" value=(client.display_name) maxlength="200"; }
                    (fields(&client.grants.clone().unwrap_or_default()))
                    p.quiet { "A grant that is taken away is refused within a second; a new one is in tokens issued from now on." }
                    button.primary { "Change" }
                }
            }
        }
    };
    Ok(layout::page(&user, &id, content))
}

async fn create(form: Form) -> PageResult {
    let (tenant, name) = (form.text("tenant"), form.text("name"));
    let client_id = if tenant.is_empty() { name.to_owned() } else { format!("{tenant}.{name}") };
    let grants = match tenant.is_empty() {
        true => pb::Grants { administer: true, ..pb::Grants::default() },
        false => from_form(&form)?,
    };
    let client = pb::Client {
        client_id: client_id.clone(),
        display_name: form.text("display_name").to_owned(),
        grants: Some(grants),
        ..pb::Client::default()
    };
    let request = pb::CreateClientRequest { client: Some(client), ..pb::CreateClientRequest::default() };
    let created = form.user.calls().admin().create_client(request).await?.into_inner();
    Ok(secret(&form.user, &client_id, &created.client_secret, None))
}

/// Shows a new secret. Browsers must not store the page; this is set for all pages of the console.
fn secret(user: &User, client_id: &str, secret: &str, previous_expires: Option<&prost_types::Timestamp>) -> Html {
    let content = html! {
        section {
            p.notice role="status" { "Copy the secret now: it cannot be shown again." }
            table.facts {
                tr { th { "Client id" } td { code.secret { (client_id) } } }
                tr { th { "Secret" } td { code.secret #secret { (secret) } } }
                @if previous_expires.is_some() {
                    tr { th { "Old secret" } td { "valid until " (parts::time(previous_expires)) } }
                }
            }
            p { a href={ "/clients/" (parts::segment(client_id)) } { "Continue to the client" } }
        }
    };
    layout::page(user, &format!("Secret of {client_id}"), content)
}

async fn change(Path(id): Path<String>, form: Form) -> Result<Redirect, PageError> {
    let client = pb::Client {
        client_id: id.clone(),
        display_name: form.text("display_name").to_owned(),
        grants: Some(from_form(&form)?),
        ..pb::Client::default()
    };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["display_name".to_owned(), "grants".to_owned()] });
    let request = pb::UpdateClientRequest { client: Some(client), update_mask, validate_only: false };
    form.user.calls().admin().update_client(request).await?;
    Ok(Redirect::to(&format!("/clients/{}?done=changed", parts::segment(&id))))
}

async fn rotate(Path(id): Path<String>, form: Form) -> PageResult {
    let request = pb::RotateClientSecretRequest { client_id: id.clone(), overlap: form.duration("overlap")? };
    let rotated = form.user.calls().admin().rotate_client_secret(request).await?.into_inner();
    Ok(secret(&form.user, &id, &rotated.client_secret, rotated.previous_expires.as_ref()))
}

async fn revoke(Path(id): Path<String>, form: Form) -> Result<Redirect, PageError> {
    form.user.calls().admin().revoke_client(pb::RevokeClientRequest { client_id: id.clone() }).await?;
    Ok(Redirect::to(&format!("/clients/{}?done=revoked", parts::segment(&id))))
}

async fn delete(Path(id): Path<String>, form: Form) -> Result<Redirect, PageError> {
    form.confirmed(&id)?;
    form.user.calls().admin().delete_client(pb::DeleteClientRequest { client_id: id.clone() }).await?;
    let tenant = id.split_once('.').map_or("", |(tenant, _)| tenant);
    let query = [("tenant", tenant), ("done", "deleted")];
    let query = if form.user.is_platform() && !tenant.is_empty() { &query[..] } else { &query[1..] };
    Ok(Redirect::to(&parts::address("/clients", query)))
}
