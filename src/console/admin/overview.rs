//! The first page of a platform administrator: tenants, and the last events of the audit trail.

use maud::html;

use crate::{
    console::{
        layout,
        parts::{PageResult, count, plural},
        trail,
        user::User,
    },
    pb::{self, TenantState},
};

/// How many tenants are counted.
const MAX_COUNTED: i32 = 1_000;

pub(in crate::console) async fn overview(user: User) -> PageResult {
    let mut admin = user.calls().admin();
    let tenants = pb::ListTenantsRequest { page_size: MAX_COUNTED, page_token: String::new() };
    let tenants = admin.list_tenants(tenants).await?.into_inner();
    let plans = pb::ListPlansRequest { page_size: MAX_COUNTED, page_token: String::new() };
    let plans = admin.list_plans(plans).await?.into_inner();
    let of_outcome = |outcome: &str| pb::ListAuditEventsRequest {
        page_size: 8,
        outcome: outcome.to_owned(),
        ..pb::ListAuditEventsRequest::default()
    };
    let recent = admin.list_audit_events(of_outcome("")).await?.into_inner();
    let failed = admin.list_audit_events(of_outcome("failed")).await?.into_inner();
    let suspended = tenants.tenants.iter().filter(|tenant| tenant.state() == TenantState::Suspended).count();
    let more = if tenants.next_page_token.is_empty() { "" } else { " or more" };
    let content = html! {
        section {
            h2 { "Platform" }
            dl.figures {
                div { dt { "Tenants" } dd { a href="/tenants" { (count(tenants.tenants.len() as u64)) (more) } } }
                div { dt { "Suspended" } dd { (count(suspended as u64)) } }
                div { dt { "Plans" } dd { a href="/plans" { (count(plans.plans.len() as u64)) } } }
            }
        }
        @if !failed.events.is_empty() {
            section {
                h2 { "Failed operations" }
                p {
                    "The last " (plural(failed.events.len() as u64, "operation that failed", "operations that failed"))
                    ". Each can be repeated safely; " a href="/audit?outcome=failed" { "the audit trail" } " has all of them."
                }
                (trail::table(&user, &failed.events))
            }
        }
        section {
            h2 { "Last events" }
            (trail::table(&user, &recent.events))
            p { a href="/audit" { "All events" } }
        }
    };
    Ok(layout::page(&user, "Overview", content))
}
