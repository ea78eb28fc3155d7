//! The list of tenants, and creating one.

use axum::response::Redirect;
use futures_util::StreamExt as _;
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
/// How many tenants' usage is read at the same time.
const AT_ONCE: usize = 8;

pub(super) async fn list(user: User, query: Query) -> PageResult {
    platform_only(&user)?;
    let request = pb::ListTenantsRequest { page_size: PAGE, page_token: param(&query, "page").to_owned() };
    let tenants = user.calls().admin().list_tenants(request).await?.into_inner();
    // Each needs calls of the broker's management API, so the list is shown without them at first.
    let with_usage = query.contains_key("usage");
    let usage = if with_usage { usage(&user, &tenants.tenants).await } else { Vec::new() };
    let content = html! {
        (parts::notice(&query))
        section {
            @if tenants.tenants.is_empty() {
                (parts::empty("There are no tenants.", html! { p { "Create the first one below, and give it a client." } }))
            } @else {
                div.scroll { table {
                    thead { tr { th { "Tenant" } th { "Name" } th { "State" } th { "Plan" }
                        @if with_usage { th { "Fullest meter" } th.number { "Published / s" } }
                        th { "Created" }
                    } }
                    tbody {
                        @for (at, tenant) in tenants.tenants.iter().enumerate() {
                            tr {
                                td { a href={ "/tenants/" (parts::segment(&tenant.id)) } { (tenant.id) } }
                                td { (tenant.display_name) }
                                td { (state(tenant.state())) }
                                td { a href={ "/plans/" (parts::segment(&tenant.plan)) } { (tenant.plan) } }
                                @if let Some(usage) = usage.get(at) { (usage) }
                                td { (parts::time(tenant.created.as_ref())) }
                            }
                        }
                    }
                } }
                (parts::next_page("/tenants", &query, &tenants.next_page_token))
                @if !with_usage {
                    @let page = param(&query, "page");
                    @let address = parts::address("/tenants", &[("usage", "yes"), ("page", page)][..if page.is_empty() { 1 } else { 2 }]);
                    p { a href=(address) { "Show how full each tenant is" } }
                }
            }
        }
        (creation(&user))
    };
    Ok(layout::page(&user, "Tenants", content))
}

/// The cells with the fullest meter and the rate of each tenant, in the order of the list.
async fn usage(user: &User, tenants: &[pb::Tenant]) -> Vec<Markup> {
    let of = |tenant: &pb::Tenant| {
        let (mut admin, request) = (user.calls().admin(), pb::GetTenantUsageRequest { tenant: tenant.id.clone() });
        async move { admin.get_tenant_usage(request).await.map(tonic::Response::into_inner).map_err(PageError::from) }
    };
    let asked: Vec<_> = tenants.iter().map(of).collect();
    futures_util::stream::iter(asked).buffered(AT_ONCE).map(|usage| usage_cells(&usage)).collect().await
}

fn usage_cells(usage: &Result<pb::GetTenantUsageResponse, PageError>) -> Markup {
    let usage = match usage {
        Ok(usage) => usage,
        Err(error) => return html! { td colspan="2" { code { (error.code()) } } },
    };
    let share = |meter: &&pb::UsageMeter| meter.used.saturating_mul(1_000_000) / meter.allowed.max(1);
    let fullest = usage.meters.iter().filter(|meter| meter.allowed > 0).max_by_key(share);
    let rate = usage.meters.iter().find(|meter| meter.limit == "max_publish_messages_per_second");
    html! {
        td { @match fullest {
            Some(meter) => { (parts::meter(&meter.limit, &meter.limit, meter.used, meter.allowed)) " " span.quiet { (meter.limit) } }
            None => { span.quiet { "no limits" } }
        } }
        td.number { (parts::count(rate.map_or(0, |meter| meter.used))) }
    }
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
