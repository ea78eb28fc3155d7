//! The state of this gateway and of those that share the store, the broker's nodes, the store, and certificates.

use std::time::Duration;

use maud::{Markup, html};

use super::{gateways, platform_only};
use crate::{
    console::{
        layout,
        parts::{self, PageResult, badge, count},
        user::User,
    },
    pb,
    units::format_duration,
};

pub(super) async fn page(user: User) -> PageResult {
    platform_only(&user)?;
    let status = user.calls().admin().get_status(pb::GetStatusRequest {}).await?.into_inner();
    let (broker, store) = (status.broker.clone().unwrap_or_default(), status.store.clone().unwrap_or_default());
    let content = html! {
        div.grid {
            section {
                h2 { "This gateway" }
                table.facts {
                    tr { th { "State" } td {
                        @if status.draining { (badge("warn", "draining")) }
                        @else if status.ready { (badge("good", "ready")) }
                        @else { (badge("bad", "not ready")) " waiting for " (status.not_ready.join(", ")) }
                    } }
                    tr { th { "Id" } td { code { (status.gateway) } } }
                    tr { th { "Version" } td { (status.version) } }
                    tr { th { "Started" } td { (parts::time(status.started.as_ref())) } }
                    tr { th { "Open streams" } td { (count(status.open_streams.into())) } }
                }
            }
            section {
                h2 { "Store" }
                table.facts {
                    tr { th { "State" } td { (reachable(store.reachable, &store.failure)) } }
                    tr { th { "Kind" } td { (store.kind) } }
                    tr { th { "Answered in" } td { (time(store.latency)) } }
                }
            }
        }
        (gateways::table(&status))
        section {
            h2 { "Broker" }
            table.facts {
                tr { th { "Management API" } td { (reachable(broker.reachable, &broker.failure)) } }
                @if broker.reachable {
                    tr { th { "Version" } td { "RabbitMQ " (broker.version) ", Erlang " (broker.erlang_version) } }
                    tr { th { "Cluster" } td { (broker.cluster_name) } }
                    tr { th { "Statistics" } td { @if broker.collects_statistics { "collected" } @else { (badge("warn", "not collected")) " rates are not known" } } }
                }
            }
            @if !broker.nodes.is_empty() { (nodes(&broker.nodes)) }
        }
        (certificates(&status))
    };
    Ok(layout::page(&user, "Health", content))
}

fn nodes(nodes: &[pb::BrokerNode]) -> Markup {
    html! {
        div.scroll { table {
            thead { tr { th { "Node" } th { "State" } th.number { "Memory" } th.number { "Free disk" } th { "Runs for" } } }
            tbody { @for node in nodes { tr {
                td { (node.name) }
                td {
                    @if node.running { (badge("good", "running")) } @else { (badge("bad", "down")) }
                    @if node.memory_alarm { " " (badge("bad", "memory alarm: publishers are blocked")) }
                    @if node.disk_alarm { " " (badge("bad", "disk alarm: publishers are blocked")) }
                    @if !node.partitions.is_empty() { " " (badge("bad", "partitioned")) " from " (node.partitions.join(", ")) }
                }
                td.number { (parts::size(node.memory_used_bytes)) " of " (parts::size(node.memory_limit_bytes)) }
                td.number { (parts::size(node.disk_free_bytes)) ", at least " (parts::size(node.disk_free_limit_bytes)) }
                td { (time(node.uptime)) }
            } } }
        } }
    }
}

/// The certificates and when they expire.
pub(super) fn certificates(status: &pb::GetStatusResponse) -> Markup {
    html! {
        section {
            h2 { "Certificates" }
            @if status.certificates.is_empty() { p.quiet { "No certificate is known." } }
            table.facts { @for certificate in &status.certificates {
                tr { th { (certificate.r#use) } td { "until " (parts::time(certificate.expires.as_ref())) } }
            } }
            p.quiet { "Changed files are loaded without a restart; tenants' certificates renew themselves." }
        }
    }
}

fn reachable(is_reachable: bool, failure: &str) -> Markup {
    html! { @if is_reachable { (badge("good", "reachable")) } @else { (badge("bad", "not reachable")) " " (failure) } }
}

/// A duration in the largest unit of which it has at least two.
fn time(duration: Option<prost_types::Duration>) -> String {
    let whole = |duration: Duration| {
        let unit = match duration.as_secs() {
            0 => return duration,
            1..120 => 1,
            120..7_200 => 60,
            7_200..172_800 => 3_600,
            _ => 86_400,
        };
        Duration::from_secs(duration.as_secs() / unit * unit)
    };
    let duration: Option<Duration> = duration.and_then(|duration| duration.try_into().ok());
    match duration {
        None => String::new(),
        Some(duration) if duration.as_millis() == 0 => "under 1ms".to_owned(),
        Some(duration) => format_duration(whole(duration)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_unit() {
        let shown =
            [1, 119, 3_723, 100_000, 1_000_000].map(|seconds| time(Some(prost_types::Duration { seconds, nanos: 0 })));
        assert_eq!(shown, ["1s", "119s", "62m", "27h", "11d"]);
        let shown = [800, 13_500_000].map(|nanos| time(Some(prost_types::Duration { seconds: 0, nanos })));
        assert_eq!(shown, ["under 1ms", "13ms"]);
    }
}
