//! The list of tenants, and creating one.

use axum::response::Redirect;
use maud::{Markup, html};

use super::platform_only;
use crate::{
    console::{
        error::PageError,
        form::Form,
        layout,
        parts::{self, PageResult, Query, badge, param},
        user::User,
    },
    pb::{self, TenantState},
};

const PAGE: i32 = 50;

pub(super) async fn list(user: User, query: Query) -> PageResult {
    platform_only(&user)?;
    let request = pb::ListTenantsRequest { page_size: PAGE, page_token: param(&query, "page").to_owned() };
    let tenants = user.calls().admin().list_tenants(request).await?.into_inner();
    let content = html! {
        (parts::notice(&query))
        section {
            @if tenants.tenants.is_empty() {
                (parts::empty("There are no tenants.", html! { p { "Create the first one below, and give it a client." } }))
            } @else {
                div.scroll { table {
                    thead { tr { th { "Tenant" } th { "Name" } th { "State" } th { "Plan" } th { "Created" } } }
                    tbody {
                        @for tenant in &tenants.tenants {
                            tr {
                                td { a href={ "/tenants/" (parts::segment(&tenant.id)) } { (tenant.id) } }
                                td { (tenant.display_name) }
                                td { (state(tenant.state())) }
                                td { a href={ "/plans/" (parts::segment(&tenant.plan)) } { (tenant.plan) } }
                                td { (parts::time(tenant.created.as_ref())) }
                            }
                        }
                    }
                } }
                (parts::next_page("/tenants", &query, &tenants.next_page_token))
            }
        }
        (creation(&user))
    };
    Ok(layout::page(&user, "Tenants", content))
}

pub(super) fn state(state: TenantState) -> Markup {
    match state {
        TenantState::Active => badge("good", "active"),
        TenantState::Suspended => badge("warn", "suspended"),
        TenantState::Unspecified => badge("", "unknown"),
    }
}

fn creation(user: &User) -> Markup {
    html! {
        section {
            h2 { "Create a tenant" }
            form method="post" action="/tenants" {
                (user.csrf())
                div.fields {
                    label { "Id" small { "2 to 40 of a-z, 0-9 and \"-\"; never changes" }
                        input name="id" required maxlength="40" pattern="[a-z][a-z0-9\\-]*[a-z0-9]" autocomplete="off"; }
                    label { "Name" small { "for people; empty: the id" } input name="display_name" maxlength="200"; }
                    label { "Plan" small { "empty: standard" } input name="plan" maxlength="40" autocomplete="off"; }
                }
                button.primary { "Create" }
            }
        }
    }
}

pub(super) async fn create(form: Form) -> Result<Redirect, PageError> {
    let tenant = pb::Tenant {
        id: form.text("id").to_owned(),
        display_name: form.text("display_name").to_owned(),
        plan: form.text("plan").to_owned(),
        ..pb::Tenant::default()
    };
    let request = pb::CreateTenantRequest { tenant: Some(tenant), ..pb::CreateTenantRequest::default() };
    let created = form.user.calls().admin().create_tenant(request).await?.into_inner();
    let id = created.tenant.map(|tenant| tenant.id).unwrap_or_default();
    Ok(Redirect::to(&format!("/tenants/{}?done=created", parts::segment(&id))))
}
