//! Tests of metrics: the values on the page, in both formats, and the bound on tenant labels.

use std::{collections::BTreeSet, time::Duration};

use super::*;
use crate::pb::Outcome;

fn tenant(id: &str) -> TenantId {
    TenantId::parse(id).expect("an id")
}

fn text(metrics: &Metrics) -> String {
    metrics.render(MetricsFormat::Prometheus)
}

#[test]
fn a_tenant_has_its_own_label_and_the_gauges_of_a_stream_end_with_it() {
    let metrics = Metrics::default();
    let acme = metrics.tenant(&tenant("acme"));
    acme.published(Outcome::Confirmed, 3);
    acme.published(Outcome::Unspecified, 1);
    acme.settled(Settlement::DeadLetter, 1);
    acme.dead_lettered(DeadLetterReason::DeliveryLimit);
    acme.delivered(2, 20, 1);
    acme.limit(Limit::Streams, 10);
    let mut open = acme.open_stream(StreamKind::Subscribe);
    open.set_in_flight(5, 50);
    open.set_in_flight(2, 20);
    let page = text(&metrics);
    for line in [
        r#"warrengate_published_total{tenant="acme",outcome="confirmed"} 3"#,
        r#"warrengate_settled_total{tenant="acme",settlement="dead_letter"} 1"#,
        r#"warrengate_dead_lettered_total{tenant="acme",reason="delivery_limit"} 1"#,
        r#"warrengate_delivered_total{tenant="acme"} 2"#,
        r#"warrengate_delivered_bytes_total{tenant="acme"} 20"#,
        r#"warrengate_redelivered_total{tenant="acme"} 1"#,
        r#"warrengate_open_streams{tenant="acme",kind="subscribe"} 1"#,
        r#"warrengate_in_flight_messages{tenant="acme",kind="subscribe"} 2"#,
        r#"warrengate_in_flight_bytes{tenant="acme",kind="subscribe"} 20"#,
        r#"warrengate_plan_limit{tenant="acme",limit="streams"} 10"#,
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    assert!(!page.contains(r#"warrengate_plan_limit{tenant="acme",limit="bytes"}"#), "unlimited is not shown\n{page}");
    drop(open);
    let page = text(&metrics);
    for name in ["open_streams", "in_flight_messages", "in_flight_bytes"] {
        let line = format!(r#"warrengate_{name}{{tenant="acme",kind="subscribe"}} 0"#);
        assert!(page.contains(&line), "{line}\n{page}");
    }
}

#[test]
fn tenants_beyond_the_bound_share_a_label_until_another_tenant_is_removed() {
    let metrics = Metrics::default();
    for i in 0..MAX_TENANTS + 5 {
        metrics.tenant(&tenant(&format!("t-{i}"))).delivered(1, 1, 0);
    }
    let page = text(&metrics);
    assert!(page.contains(r#"warrengate_delivered_total{tenant="other"} 5"#));
    assert!(!page.contains("t-1000"));
    assert!(page.contains("warrengate_metrics_tenants 1000.0"), "{page}");
    metrics.retain_tenants(|tenant| tenant.as_str() != "t-7");
    metrics.tenant(&tenant("t-1000")).delivered(1, 1, 0);
    let page = text(&metrics);
    assert!(page.contains(r#"warrengate_delivered_total{tenant="t-1000"} 1"#) && !page.contains("t-7\""));
}

#[test]
fn a_sampled_trace_is_an_exemplar_in_the_format_that_supports_it() {
    let metrics = Metrics::default();
    let acme = metrics.tenant(&tenant("acme"));
    acme.confirmed_after(Duration::from_millis(3), Some("4bf92f3577b34da6a3ce929d0e0e4736".into()));
    acme.confirmed_after(Duration::from_millis(3), None);
    let page = metrics.render(MetricsFormat::OpenMetrics);
    let bucket = r#"warrengate_confirm_duration_seconds_bucket{le="0.005",tenant="acme"} 2 # {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"} 0.003"#;
    assert!(page.contains(bucket), "{page}");
    assert!(page.ends_with("# EOF\n"));
    let page = text(&metrics);
    assert!(!page.contains("trace_id") && !page.contains("EOF"), "{page}");
}

#[test]
fn calls_count_by_known_methods_only() {
    let metrics = Metrics::new(["/a.B/C".to_owned()]);
    metrics.process().rpc("/a.B/C").ended(0, Duration::from_millis(1));
    metrics.process().rpc("/a.B/C").ended(99, Duration::from_millis(1));
    metrics.process().rpc("/x\n\"y").ended(12, Duration::from_millis(1));
    let page = text(&metrics);
    for line in [
        r#"warrengate_rpc_total{method="a.B/C",code="ok"} 1"#,
        r#"warrengate_rpc_total{method="a.B/C",code="unknown"} 1"#,
        r#"warrengate_rpc_total{method="other",code="unimplemented"} 1"#,
        r#"warrengate_rpc_duration_seconds_count{method="a.B/C"} 2"#,
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    assert!(!page.contains("\"y"));
}

#[test]
fn every_metric_is_on_the_page_once_and_no_others() {
    let metrics = Metrics::default();
    metrics.tenant(&tenant("acme"));
    let page = text(&metrics);
    let described: Vec<_> =
        page.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' ')).map(|(name, _)| name).collect();
    let shown: BTreeSet<_> = described.iter().copied().collect();
    assert_eq!(shown.len(), described.len(), "described twice");
    let known: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    let system = |name: &&&str| cfg!(target_os = "linux") || !name.starts_with("process_");
    assert_eq!(shown.iter().collect::<Vec<_>>(), known.iter().filter(system).collect::<Vec<_>>());
}

#[test]
fn a_hook_updates_its_metrics_at_each_scrape() {
    let metrics = Metrics::default();
    metrics.before_each_reading(|metrics| metrics.process().secret_checks(2, 7));
    assert!(text(&metrics).contains("warrengate_secret_checks_waiting 7"));
}
