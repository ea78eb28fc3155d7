//! The page of one tenant for a platform administrator.

use axum::{extract::Path, response::Redirect};
use maud::{Markup, html};

use super::{platform_only, tenants};
use crate::{
    console::{
        clients,
        error::PageError,
        form::Form,
        layout,
        parts::{self, PageResult, Query, badge},
        user::User,
    },
    pb::{self, TenantState},
};

pub(super) async fn page(user: User, Path(id): Path<String>, query: Query) -> PageResult {
    platform_only(&user)?;
    let mut admin = user.calls().admin();
    let tenant = admin.get_tenant(pb::GetTenantRequest { tenant: id.clone() }).await?.into_inner();
    let tenant = tenant.tenant.unwrap_or_default();
    // The rest of the page must be shown even if the broker is unreachable.
    let usage = admin.get_tenant_usage(pb::GetTenantUsageRequest { tenant: id.clone() }).await;
    let usage = usage.map(tonic::Response::into_inner).map_err(PageError::from);
    let list = pb::ListClientsRequest { tenant: id.clone(), page_size: 100, page_token: String::new() };
    let listed = admin.list_clients(list).await?.into_inner();
    let at = |act: &str| format!("/tenants/{}/{act}", parts::segment(&id));
    let content = html! {
        (parts::notice(&query))
        div.grid {
            section {
                h2 { "Tenant" }
                table.facts {
                    tr { th { "State" } td { (tenants::state(tenant.state())) } }
                    tr { th { "Plan" } td { a href={ "/plans/" (parts::segment(&tenant.plan)) } { (tenant.plan) } } }
                    tr { th { "Created" } td { (parts::time(tenant.created.as_ref())) } }
                    tr { th { "Streams" } td { a href=(parts::address("/streams", &[("tenant", &id)])) { "Open streams" } } }
                    tr { th { "Events" } td { a href=(parts::address("/audit", &[("tenant", &id)])) { "Audit trail" } } }
                }
                (settings(&user, &tenant))
                (actions(&user, &tenant, &at))
            }
            section {
                h2 { "Usage" }
                (meters(&usage))
            }
        }
        (parts::traffic(&parts::address("/live", &[("tenant", &id)])))
        section {
            h2 { "Clients" }
            (clients::table(&user, &listed.clients))
            @if !listed.next_page_token.is_empty() {
                p { a href=(parts::address("/clients", &[("tenant", &id)])) { "All clients" } }
            }
            p { a href=(parts::address("/clients", &[("tenant", &id)])) { "Create a client" } }
        }
        section {
            h2 { "Checks" }
            p.quiet {
                "A comparison finds differences between the tenant and its vhost, user, limits and policies at the broker. The "
                "isolation check tries to reach another tenant with this tenant's real credentials."
            }
            div.tools {
                (parts::action_form(&user, &at("reconcile"), "Compare with the broker", &[("dry_run", "yes")]))
                form.inline.tools method="post" action=(at("isolation")) {
                    (user.csrf())
                    label { "Other tenant" input name="other_tenant" required maxlength="40" autocomplete="off"; }
                    button { "Verify isolation" }
                }
            }
        }
    };
    let title = if tenant.display_name == id { id } else { format!("{} ({id})", tenant.display_name) };
    Ok(layout::page(&user, &title, content))
}

/// The meters of a tenant's plan.
pub(in crate::console) fn meters(usage: &Result<pb::GetTenantUsageResponse, PageError>) -> Markup {
    let usage = match usage {
        Ok(usage) => usage,
        Err(error) => return error.note(),
    };
    html! {
        div.scroll tabindex="0" role="region" aria-label="Meters" { table.facts.meters {
            @for meter in &usage.meters {
                tr {
                    th { (meter.limit) }
                    td { (parts::meter(&meter.limit, &meter.limit, meter.used, meter.allowed)) @if meter.of_this_gateway { span.quiet { " *" } } }
                }
            }
        } }
        @if usage.meters.iter().any(|meter| meter.of_this_gateway) { p.quiet { "* on this gateway; each gateway allows as much." } }
    }
}

fn settings(user: &User, tenant: &pb::Tenant) -> Markup {
    html! {
        details {
            summary { "Change name or plan" }
            form method="post" action={ "/tenants/" (parts::segment(&tenant.id)) } {
                (user.csrf())
                div.fields {
                    label { "Name" input name="display_name" value=(tenant.display_name) maxlength="200"; }
                    label { "Plan" input name="plan" value=(tenant.plan) maxlength="40" required; }
                }
                button { "Change" }
            }
        }
    }
}

fn actions(user: &User, tenant: &pb::Tenant, at: &dyn Fn(&str) -> String) -> Markup {
    html! {
        div.tools {
            @if tenant.state() == TenantState::Suspended {
                (parts::action_form(user, &at("resume"), "Resume", &[]))
            } @else {
                @let question = html! { p { "Its tokens are refused and its open streams end. Its messages are kept." } };
                (parts::confirmed_form(user, &at("suspend"), "Suspend", question, None, &[]))
            }
            @let question = html! { p { "This deletes the tenant with its queues, messages, clients and broker user. It cannot be undone." } };
            (parts::confirmed_form(user, &at("delete"), "Delete", question, Some(&tenant.id), &[]))
        }
    }
}

fn back(id: &str, done: &str) -> Redirect {
    Redirect::to(&format!("/tenants/{}?done={done}", parts::segment(id)))
}

pub(super) async fn change(Path(id): Path<String>, form: Form) -> Result<Redirect, PageError> {
    let tenant = pb::Tenant {
        id: id.clone(),
        display_name: form.text("display_name").to_owned(),
        plan: form.text("plan").to_owned(),
        ..pb::Tenant::default()
    };
    let paths = vec!["display_name".to_owned(), "plan".to_owned()];
    let update_mask = Some(prost_types::FieldMask { paths });
    let request = pb::UpdateTenantRequest { tenant: Some(tenant), update_mask, validate_only: false };
    form.user.calls().admin().update_tenant(request).await?;
    Ok(back(&id, "changed"))
}

pub(super) async fn suspend(Path(id): Path<String>, form: Form) -> Result<Redirect, PageError> {
    form.user.calls().admin().suspend_tenant(pb::SuspendTenantRequest { tenant: id.clone() }).await?;
    Ok(back(&id, "suspended"))
}

pub(super) async fn resume(Path(id): Path<String>, form: Form) -> Result<Redirect, PageError> {
    form.user.calls().admin().resume_tenant(pb::ResumeTenantRequest { tenant: id.clone() }).await?;
    Ok(back(&id, "resumed"))
}

pub(super) async fn delete(Path(id): Path<String>, form: Form) -> Result<Redirect, PageError> {
    form.confirmed(&id)?;
    form.user.calls().admin().delete_tenant(pb::DeleteTenantRequest { tenant: id }).await?;
    Ok(Redirect::to("/tenants?done=deleted"))
}

pub(super) async fn reconcile(Path(id): Path<String>, form: Form) -> PageResult {
    let dry_run = form.has("dry_run");
    let request = pb::ReconcileTenantRequest { tenant: id.clone(), dry_run };
    let found = form.user.calls().admin().reconcile_tenant(request).await?.into_inner();
    let changes: Vec<_> = found.reconciliations.iter().flat_map(|found| &found.changes).collect();
    let failures: Vec<_> = found.reconciliations.iter().map(|found| &found.failure).filter(|f| !f.is_empty()).collect();
    let path = format!("/tenants/{}", parts::segment(&id));
    let content = html! {
        section {
            @for failure in &failures { p.error role="alert" { (failure) } }
            @if changes.is_empty() && failures.is_empty() {
                p.notice role="status" { "Nothing differs: the broker has what the tenant should have." }
            }
            @if !changes.is_empty() {
                h2 { @if dry_run { "These differences would be repaired" } @else { "These differences were repaired" } }
                ul { @for change in &changes { li { (change) } } }
                @if dry_run { (parts::action_form(&form.user, &format!("{path}/reconcile"), "Repair them", &[])) }
            }
            p { a href=(path) { "Back to " (id) } }
        }
    };
    Ok(layout::page(&form.user, &format!("{id} at the broker"), content))
}

pub(super) async fn verify_isolation(Path(id): Path<String>, form: Form) -> PageResult {
    let other_tenant = form.text("other_tenant").to_owned();
    let request = pb::VerifyIsolationRequest { tenant: id.clone(), other_tenant: other_tenant.clone() };
    let found = form.user.calls().admin().verify_isolation(request).await?.into_inner();
    let verdict = |probe: &pb::IsolationProbe| match (probe.is_control, probe.refused) {
        (false, true) => badge("good", "refused"),
        (true, false) => badge("good", "allowed"),
        (false, false) if probe.answer.starts_with("inconclusive") => badge("warn", "inconclusive"),
        (false, false) => badge("bad", "allowed"),
        (true, true) => badge("bad", "refused"),
    };
    let content = html! {
        section {
            @if found.isolated {
                p.notice role="status" { b { (id) } " cannot reach " b { (other_tenant) } ": every attempt was refused." }
            } @else {
                p.error role="alert" { "Isolation is not proven: see the attempts that are not green." }
            }
            div.scroll { table {
                thead { tr { th { "Attempt with the credentials of " (id) } th { "Result" } th { "Answer of the broker" } } }
                tbody {
                    @for probe in &found.probes {
                        tr {
                            td { (probe.attempt) @if probe.is_control { " " span.quiet { "(control: must be allowed)" } } }
                            td { (verdict(probe)) }
                            td { (probe.answer) }
                        }
                    }
                }
            } }
            p { a href={ "/tenants/" (parts::segment(&id)) } { "Back to " (id) } }
        }
    };
    Ok(layout::page(&form.user, &format!("Isolation of {id} from {other_tenant}"), content))
}
