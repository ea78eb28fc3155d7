//! The gateways that share the store.

use maud::{Markup, html};

use crate::{
    console::parts::{self, badge},
    pb,
};

/// The gateways, with their versions and when they were last seen; nothing while the store does not answer.
pub(super) fn table(status: &pb::GetStatusResponse) -> Markup {
    html! {
        @if !status.gateways.is_empty() {
            section id="gateways" {
                h2 { "Gateways" }
                div.scroll { table {
                    thead { tr { th { "Gateway" } th { "Host" } th { "gRPC" } th { "Version" } th { "Started" } th { "State" } } }
                    tbody { @for gateway in &status.gateways { tr {
                        td { code { (gateway.gateway) } @if gateway.gateway == status.gateway { " " span.quiet { "this one" } } }
                        td { (gateway.host) }
                        td { (gateway.grpc_address) }
                        td { (gateway.version) @if gateway.version_differs { " " (badge("warn", "differs")) } }
                        td { (parts::time(gateway.started.as_ref())) }
                        td {
                            @if gateway.not_seen { (badge("bad", "not seen")) " since " (parts::time(gateway.last_seen.as_ref())) }
                            @else { (badge("good", "running")) }
                        }
                    } } }
                } }
            }
        }
    }
}

/// What needs attention about them, each with the next step.
pub(super) fn findings(gateways: &[pb::GatewayStatus]) -> Vec<(String, Markup)> {
    let mut findings = Vec::new();
    let unseen = gateways.iter().filter(|gateway| gateway.not_seen).count();
    if unseen > 0 {
        let what = parts::plural(unseen as u64, "gateway was not seen lately.", "gateways were not seen lately.");
        let next = "It was killed, is stuck, or cannot reach the store: see its log. It is listed for an hour.";
        findings.push((what, html! { (next) }));
    }
    if gateways.iter().any(|gateway| gateway.version_differs && !gateway.not_seen) {
        findings.push(("Gateways have different versions.".to_owned(), html! { "Finish the upgrade." }));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_is_not_seen_or_has_another_version_is_shown_and_needs_attention() {
        let own = pb::GatewayStatus { gateway: "one".into(), version: "2.0.0".into(), ..Default::default() };
        let old = pb::GatewayStatus {
            gateway: "two".into(),
            version: "1.0.0".into(),
            version_differs: true,
            host: "<b>".into(),
            ..Default::default()
        };
        let killed = pb::GatewayStatus { gateway: "three".into(), not_seen: true, ..old.clone() };
        let shown = |gateways: &[pb::GatewayStatus]| {
            let status =
                pb::GetStatusResponse { gateway: "one".into(), gateways: gateways.to_vec(), ..Default::default() };
            (table(&status).into_string(), findings(gateways).len())
        };
        let (page, found) = shown(std::slice::from_ref(&own));
        assert!(page.contains("this one") && !page.contains("not seen") && !page.contains("differs"), "{page}");
        assert_eq!((found, shown(&[own.clone(), old.clone()]).1, shown(&[own.clone(), killed.clone()]).1), (0, 1, 1));
        let (page, found) = shown(&[own, old, killed]);
        assert_eq!((page.matches(">differs<").count(), page.matches(">not seen<").count(), found), (2, 1, 2), "{page}");
        assert!(!page.contains("<b>"), "{page}");
        assert_eq!(shown(&[]), (String::new(), 0));
    }
}
