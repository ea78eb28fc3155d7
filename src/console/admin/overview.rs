//! The first page of a platform administrator: what needs attention, tenants, and the last events of the audit trail.

use maud::{Markup, html};

use super::gateways;
use crate::{
    console::{
        error::PageError,
        layout,
        parts::{self, PageResult, badge, count, plural},
        trail,
        user::User,
    },
    pb::{self, TenantState},
};

/// How many tenants are counted.
const MAX_COUNTED: i32 = 1_000;
/// How long before its end a certificate needs attention.
const SOON: std::time::Duration = std::time::Duration::from_secs(14 * 86_400);

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
    let status = admin.get_status(pb::GetStatusRequest {}).await.map(tonic::Response::into_inner);
    let status = status.map_err(PageError::from);
    let suspended = tenants.tenants.iter().filter(|tenant| tenant.state() == TenantState::Suspended).count();
    let more = if tenants.next_page_token.is_empty() { "" } else { " or more" };
    let content = html! {
        (attention(&status))
        section {
            h2 { "Platform" }
            dl.figures {
                @if let Ok(status) = &status {
                    @let broker = status.broker.as_ref();
                    div { dt { "This gateway" } dd { (state(status.ready && !status.draining, "ready", "not ready")) } }
                    div { dt { "Broker" } dd { (state(broker.is_some_and(|broker| broker.reachable), "reachable", "not reachable")) } }
                    div { dt { "Store" } dd { (state(status.store.as_ref().is_some_and(|store| store.reachable), "reachable", "not reachable")) } }
                    div { dt { "Open streams" } dd { (count(status.open_streams.into())) } }
                }
                div { dt { "Tenants" } dd { a href="/tenants" { (count(tenants.tenants.len() as u64)) (more) } } }
                div { dt { "Suspended" } dd { (count(suspended as u64)) } }
                div { dt { "Plans" } dd { a href="/plans" { (count(plans.plans.len() as u64)) } } }
            }
        }
        @if let Ok(status) = &status { (gateways::table(status)) }
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

fn state(is_good: bool, good: &str, bad: &str) -> Markup {
    if is_good { badge("good", good) } else { badge("bad", bad) }
}

/// What an operator should look at, each with the next step; nothing when all is well.
fn attention(status: &Result<pb::GetStatusResponse, PageError>) -> Markup {
    let status = match status {
        Ok(status) => status,
        Err(error) => return error.note(),
    };
    let findings = findings(status);
    html! {
        @if !findings.is_empty() {
            section {
                h2 { "Needs attention" }
                ul.attention { @for (what, next) in &findings { li { b { (what) } " " (next) } } }
                p.quiet { a href="/health" { "Health" } " has all states. The names of runbooks are headings of docs/operations.md." }
            }
        }
    }
}

/// What is wrong, and what to do.
fn findings(status: &pb::GetStatusResponse) -> Vec<(String, Markup)> {
    let (broker, store) = (status.broker.clone().unwrap_or_default(), status.store.clone().unwrap_or_default());
    let runbook = |name: &str| html! { "Runbook: " code { (name) } "." };
    let mut findings = Vec::new();
    if status.draining {
        findings.push(("This gateway is stopping.".into(), html! { "It accepts no new streams." }));
    } else if !status.ready {
        let what = format!("This gateway is not ready: {}.", status.not_ready.join(", "));
        findings.push((what, runbook("WarrengateNotReady")));
    }
    if !broker.reachable {
        findings.push((format!("The broker is not reachable: {}", broker.failure), runbook("WarrengateNotReady")));
    } else if !broker.collects_statistics {
        let next = html! { "Rates and stored bytes are not known. Enable statistics in the broker's configuration." };
        findings.push(("The broker collects no statistics.".into(), next));
    }
    if !store.reachable {
        findings.push((format!("The store is not reachable: {}", store.failure), runbook("WarrengateStoreFailing")));
    }
    findings.extend(gateways::findings(&status.gateways));
    for node in &broker.nodes {
        let mut add = |is_so: bool, what: &str, next: &str| {
            if is_so {
                findings.push((format!("Node {}: {what}.", node.name), html! { (next) }));
            }
        };
        add(
            !node.running,
            "down",
            "Start it, and read its log. Queues with most of their members on other nodes go on.",
        );
        add(node.memory_alarm, "memory alarm", "Publishers are blocked until messages are consumed or purged.");
        add(node.disk_alarm, "disk alarm", "Publishers are blocked until there is free space on its disk.");
        add(!node.partitions.is_empty(), "partitioned", "Repair the network between the nodes.");
    }
    let soon = std::time::SystemTime::now() + SOON;
    for certificate in &status.certificates {
        let ends = certificate.expires.and_then(|time| std::time::SystemTime::try_from(time).ok());
        // Tenants' certificates live shorter, and renew themselves.
        if !certificate.r#use.starts_with("tenants") && ends.is_some_and(|ends| ends < soon) {
            let when = html! { "It ends " (parts::time(certificate.expires.as_ref())) ". " (runbook("WarrengateCertificateExpires")) };
            findings.push((format!("The certificate {} ends soon.", certificate.r#use), when));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_found_with_a_next_step_and_nothing_is_found_otherwise() {
        let at =
            |days: u64| Some((std::time::SystemTime::now() + std::time::Duration::from_secs(days * 86_400)).into());
        let certificate = |r#use: &str, days| pb::CertificateStatus { r#use: r#use.to_owned(), expires: at(days) };
        let node = pb::BrokerNode { name: "rabbit@one".into(), running: true, ..Default::default() };
        let broker = pb::BrokerStatus {
            reachable: true,
            collects_statistics: true,
            nodes: vec![node.clone()],
            ..Default::default()
        };
        let store = pb::StoreStatus { reachable: true, ..Default::default() };
        let good = pb::GetStatusResponse {
            ready: true,
            broker: Some(broker),
            store: Some(store),
            certificates: vec![certificate("gateway", 60), certificate("tenants_earliest", 1)],
            ..Default::default()
        };
        assert!(findings(&good).is_empty(), "{:?}", findings(&good));
        let broker = pb::BrokerStatus { failure: "BROKER_UNAVAILABLE: refused".into(), ..Default::default() };
        let bad = pb::GetStatusResponse {
            not_ready: vec!["broker".into()],
            broker: Some(broker),
            certificates: vec![certificate("gateway", 3)],
            ..Default::default()
        };
        let all = findings(&bad);
        assert_eq!(all.len(), 4, "{all:?}");
        assert!(all.iter().all(|(_, next)| next.0.contains("Runbook")), "{all:?}");
        let node = pb::BrokerNode { running: false, disk_alarm: true, memory_alarm: true, ..node };
        let mut alarms = good;
        alarms.broker.as_mut().expect("a broker").nodes = vec![node];
        assert_eq!(findings(&alarms).len(), 3);
    }
}
