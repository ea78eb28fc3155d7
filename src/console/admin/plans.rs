//! Plans: compare, create, change, delete.

use axum::{extract::Path, response::Redirect};
use maud::{Markup, html};

use super::platform_only;
use crate::{
    console::{
        error::PageError,
        form::Form,
        layout,
        parts::{self, PageResult, Query, param},
        user::User,
    },
    pb,
    units::{format_duration, format_size, parse_duration, parse_size},
};

const PAGE: i32 = 20;
/// How many tenants are read to find those of a plan.
const MAX_READ: i32 = 1_000;

/// A limit of a plan as a row of a table and as a field of a form.
struct Limit {
    /// Its name in the API.
    field: &'static str,
    label: &'static str,
    /// As shown and entered; empty for unlimited.
    get: fn(&pb::Plan) -> String,
    /// Parses entered text; `None` when it is invalid.
    set: fn(&mut pb::Plan, &str) -> Option<()>,
}

macro_rules! limit {
    (number $field:ident $label:literal) => {
        limit!($field $label, number, |text: &str| if text.is_empty() { Some(0) } else { text.parse().ok() })
    };
    (bytes $field:ident $label:literal) => {
        limit!($field $label,
            |value| if value == 0 { String::new() } else { format_size(value) },
            |text: &str| if text.is_empty() { Some(0) } else { parse_size(text) })
    };
    (time $field:ident $label:literal) => {
        limit!($field $label,
            |value: Option<prost_types::Duration>| {
                value.and_then(|value| value.try_into().ok()).map(format_duration).unwrap_or_default()
            },
            |text: &str| if text.is_empty() { Some(None) } else { Some(Some(parse_duration(text)?.try_into().ok()?)) })
    };
    ($field:ident $label:literal, $show:expr, $parse:expr) => {
        Limit {
            field: stringify!($field),
            label: $label,
            get: |plan| ($show)(plan.$field),
            set: |plan, text| {
                plan.$field = ($parse)(text)?;
                Some(())
            },
        }
    };
}

fn number(value: impl Into<u64>) -> String {
    Some(value.into()).filter(|value| *value != 0).map(|value: u64| value.to_string()).unwrap_or_default()
}

const LIMITS: &[Limit] = &[
    limit!(number max_connections "Broker connections"),
    limit!(number max_queues "Queues"),
    limit!(number max_exchanges "Exchanges"),
    limit!(number max_bindings "Bindings"),
    limit!(number max_clients "Clients"),
    limit!(number max_streams "Open streams on one gateway"),
    limit!(bytes max_message_bytes "Largest message"),
    limit!(number max_in_flight_messages "Messages in flight on one gateway"),
    limit!(bytes max_in_flight_bytes "Bytes in flight on one gateway"),
    limit!(number max_publish_messages_per_second "Messages per second on one gateway"),
    limit!(number publish_messages_burst "Burst of messages"),
    limit!(bytes max_publish_bytes_per_second "Bytes per second on one gateway"),
    limit!(bytes publish_bytes_burst "Burst of bytes"),
    limit!(number max_stored_messages "Stored messages"),
    limit!(bytes max_stored_bytes "Stored bytes"),
    limit!(time max_message_ttl "Longest time in a queue"),
    limit!(time queue_expires "Unused queues are deleted after"),
];

pub(super) async fn list(user: User, query: Query) -> PageResult {
    platform_only(&user)?;
    let request = pb::ListPlansRequest { page_size: PAGE, page_token: param(&query, "page").to_owned() };
    let plans = user.calls().admin().list_plans(request).await?.into_inner();
    let content = html! {
        (parts::notice(&query))
        section {
            @if plans.plans.is_empty() {
                (parts::empty("There are no plans.", html! { p { "Create one below; tenants without a plan have “standard”." } }))
            } @else {
                div.scroll { table {
                    thead { tr { th { "Limit" }
                        @for plan in &plans.plans {
                            th { a href={ "/plans/" (parts::segment(&plan.name)) } { (plan.name) } }
                        }
                    } }
                    tbody {
                        @for limit in LIMITS {
                            tr {
                                th { (limit.label) }
                                @for plan in &plans.plans { td { (shown(limit, plan)) } }
                            }
                        }
                    }
                } }
                (parts::next_page("/plans", &query, &plans.next_page_token))
            }
        }
        section {
            h2 { "Create a plan" }
            form method="post" action="/plans" {
                (user.csrf())
                label { "Name" small { "2 to 40 of a-z, 0-9 and \"-\"" }
                    input name="name" required maxlength="40" autocomplete="off"; }
                (fields(&pb::Plan::default()))
                button.primary { "Create" }
            }
        }
    };
    Ok(layout::page(&user, "Plans", content))
}

fn shown(limit: &Limit, plan: &pb::Plan) -> Markup {
    let text = (limit.get)(plan);
    html! { @if text.is_empty() { span.quiet { "unlimited" } } @else { (text) } }
}

fn fields(plan: &pb::Plan) -> Markup {
    html! {
        p.quiet { "An empty field means unlimited. Sizes such as 256KiB or 10MB, times such as 30s or 7d." }
        div.fields {
            @for limit in LIMITS {
                label { (limit.label) input name=(limit.field) value=((limit.get)(plan)) autocomplete="off"; }
            }
        }
    }
}

/// The plan that a form describes.
fn plan(form: &Form, name: &str) -> Result<pb::Plan, PageError> {
    let mut plan = pb::Plan { name: name.to_owned(), ..pb::Plan::default() };
    for limit in LIMITS {
        let text = form.text(limit.field);
        let invalid = || PageError::invalid(format!("{}: {text:?} is not a value of this limit", limit.label));
        (limit.set)(&mut plan, text).ok_or_else(invalid)?;
    }
    Ok(plan)
}

pub(super) async fn create(form: Form) -> Result<Redirect, PageError> {
    let plan = Some(plan(&form, form.text("name"))?);
    form.user.calls().admin().create_plan(pb::CreatePlanRequest { plan, ..Default::default() }).await?;
    Ok(Redirect::to("/plans?done=created"))
}

pub(super) async fn page(user: User, Path(name): Path<String>, query: Query) -> PageResult {
    platform_only(&user)?;
    let plan = user.calls().admin().get_plan(pb::GetPlanRequest { name: name.clone() }).await?.into_inner();
    let plan = plan.plan.unwrap_or_default();
    let (tenants, is_complete) = tenants_of(&user, &name).await?;
    let path = format!("/plans/{}", parts::segment(&name));
    let content = html! {
        (parts::notice(&query))
        section {
            form method="post" action=(path) {
                (user.csrf())
                (fields(&plan))
                p.quiet { "A change applies to open streams within a second, and to the broker before this page returns." }
                button.primary { "Change" }
            }
        }
        section {
            h2 { "Tenants that have it" }
            @if tenants.is_empty() { p.quiet { "None." } }
            p { @for tenant in &tenants { a href={ "/tenants/" (parts::segment(tenant)) } { (tenant) } " " } }
            @if !is_complete { p.quiet { "There may be more: the first " (parts::count(MAX_READ as u64)) " tenants were read." } }
        }
        section {
            @let question = html! { p { "A plan can be deleted when no tenant uses it." } };
            (parts::confirmed_form(&user, &format!("{path}/delete"), "Delete", question, None, &[]))
        }
    };
    Ok(layout::page(&user, &format!("Plan {name}"), content))
}

/// The tenants that have a plan, and whether these are all.
async fn tenants_of(user: &User, plan: &str) -> Result<(Vec<String>, bool), PageError> {
    let request = pb::ListTenantsRequest { page_size: MAX_READ, page_token: String::new() };
    let listed = user.calls().admin().list_tenants(request).await?.into_inner();
    let of_plan = listed.tenants.into_iter().filter(|tenant| tenant.plan == plan).map(|tenant| tenant.id);
    Ok((of_plan.collect(), listed.next_page_token.is_empty()))
}

pub(super) async fn change(Path(name): Path<String>, form: Form) -> Result<Redirect, PageError> {
    let plan = Some(plan(&form, &name)?);
    let paths = LIMITS.iter().map(|limit| limit.field.to_owned()).collect();
    let update_mask = Some(prost_types::FieldMask { paths });
    form.user.calls().admin().update_plan(pb::UpdatePlanRequest { plan, update_mask, validate_only: false }).await?;
    Ok(Redirect::to(&format!("/plans/{}?done=changed", parts::segment(&name))))
}

pub(super) async fn delete(Path(name): Path<String>, form: Form) -> Result<Redirect, PageError> {
    form.user.calls().admin().delete_plan(pb::DeletePlanRequest { name }).await?;
    Ok(Redirect::to("/plans?done=deleted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_entered_in_the_form_in_which_it_is_shown() {
        let mut plan = pb::Plan::default();
        for limit in LIMITS {
            assert_eq!((limit.get)(&plan), "", "{}", limit.field);
            let text = ["7KiB", "7s", "7"]
                .into_iter()
                .find(|text| (limit.set)(&mut plan, text).is_some() && (limit.get)(&plan) == *text);
            assert!(text.is_some(), "{}: {}", limit.field, (limit.get)(&plan));
            assert!((limit.set)(&mut plan, "many").is_none(), "{}", limit.field);
        }
        assert_eq!((plan.max_queues, plan.max_message_bytes), (7, 7 << 10));
        assert_eq!(plan.max_message_ttl.map(|ttl| ttl.seconds), Some(7));
    }
}
