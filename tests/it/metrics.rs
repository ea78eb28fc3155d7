//! `/metrics` of a running gateway after real traffic: correct values, accepted by promtool.

use std::{io::Write as _, process::Stdio};

use reqwest::header::ACCEPT;
use warrengate::pb::{Outcome, Publication};

use crate::harness::{
    SharedStack, Tenant, missing, to_queue,
    wait::{until, within},
    web::{http, ops_get},
};

async fn page() -> String {
    let (status, kind, text) = ops_get("/metrics").await;
    assert_eq!((status.as_u16(), kind.as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    text
}

/// A tenant at the gateway whose metrics are read; there may be a second gateway.
async fn tenant_here() -> Tenant {
    let mut tenant = Tenant::fresh().await;
    tenant.client = tenant.client_at(&SharedStack::get().stack.endpoint()).await;
    tenant
}

/// The value of a sample, by its name and labels in the text format.
fn value(page: &str, sample: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test]
async fn counters_match_the_published_delivered_and_settled_messages() {
    let tenant = tenant_here().await;
    tenant.queue("orders").await;
    let mut batch: Vec<Publication> = (0..7).map(|_| to_queue("orders", "twelve bytes")).collect();
    batch.extend((0..3).map(|_| to_queue("nowhere", "x")));
    batch.push(to_queue("wg.dead-letters", "x"));
    let outcomes = tenant.outcomes(batch).await;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Confirmed).count(), 7);
    assert_eq!(tenant.take("orders", 7).await.len(), 7);

    let id = &tenant.id;
    let expected = [
        (format!(r#"warrengate_published_total{{tenant="{id}",outcome="confirmed"}}"#), 7.0),
        (format!(r#"warrengate_published_total{{tenant="{id}",outcome="unroutable"}}"#), 3.0),
        (format!(r#"warrengate_published_total{{tenant="{id}",outcome="rejected"}}"#), 1.0),
        (format!(r#"warrengate_published_bytes_total{{tenant="{id}"}}"#), 87.0),
        (format!(r#"warrengate_delivered_total{{tenant="{id}"}}"#), 7.0),
        (format!(r#"warrengate_delivered_bytes_total{{tenant="{id}"}}"#), 84.0),
        (format!(r#"warrengate_redelivered_total{{tenant="{id}"}}"#), 0.0),
        (format!(r#"warrengate_settled_total{{tenant="{id}",settlement="ack"}}"#), 7.0),
        (format!(r#"warrengate_confirm_duration_seconds_count{{tenant="{id}"}}"#), 7.0),
        (format!(r#"warrengate_end_to_end_duration_seconds_count{{tenant="{id}"}}"#), 7.0),
        (format!(r#"warrengate_open_streams{{tenant="{id}",kind="subscribe"}}"#), 0.0),
        (format!(r#"warrengate_in_flight_messages{{tenant="{id}",kind="subscribe"}}"#), 0.0),
        (format!(r#"warrengate_in_flight_bytes{{tenant="{id}",kind="publish"}}"#), 0.0),
    ];
    // The last acknowledgement and the end of the stream are counted shortly after the client sees them.
    until("all counts", async || {
        let page = page().await;
        expected.iter().all(|(sample, count)| value(&page, sample) == Some(*count)).then_some(())
    })
    .await;
    let page = page().await;
    let seconds = value(&page, &format!(r#"warrengate_end_to_end_duration_seconds_sum{{tenant="{id}"}}"#)).unwrap();
    assert!(seconds > 0.0 && seconds < 60.0, "{seconds}");
}

#[tokio::test]
async fn an_open_stream_and_its_outstanding_messages_are_counted() {
    let tenant = tenant_here().await;
    tenant.queue("outstanding").await;
    tenant.publish_to("outstanding", "ten  bytes").await;
    let mut subscription = tenant.subscribe("outstanding").await;
    let delivery = within("a delivery", subscription.next()).await.unwrap().expect("the stream continues");
    let id = &tenant.id;
    let samples = |page: &str| {
        ["open_streams", "in_flight_messages", "in_flight_bytes"]
            .map(|name| value(page, &format!(r#"warrengate_{name}{{tenant="{id}",kind="subscribe"}}"#)))
    };
    // The bytes of the body and the properties.
    let is_in_flight = |[streams, messages, bytes]: [Option<f64>; 3]| {
        (streams, messages) == (Some(1.0), Some(1.0)) && bytes.is_some_and(|bytes| bytes > 10.0 && bytes < 300.0)
    };
    until("a message in flight", async || is_in_flight(samples(&page().await)).then_some(())).await;
    subscription.ack(&delivery).unwrap();
    until("the settlement", async || (samples(&page().await) == [Some(1.0), Some(0.0), Some(0.0)]).then_some(())).await;
    subscription.close().await.unwrap();
    until("the end", async || (samples(&page().await)[0] == Some(0.0)).then_some(())).await;
}

#[tokio::test]
async fn calls_tokens_connections_certificates_and_the_store_are_counted() {
    let tenant = tenant_here().await;
    tenant.queue("any").await;
    tenant.publish_to("any", "x").await;
    let samples = [
        r#"warrengate_rpc_total{method="warrengate.v1.Topology/DeclareQueue",code="ok"}"#,
        r#"warrengate_rpc_duration_seconds_count{method="warrengate.v1.Messaging/PublishBatch"}"#,
        r#"warrengate_token_checks_total{result="valid"}"#,
        r#"warrengate_broker_connections{purpose="publish"}"#,
        r#"warrengate_broker_connections_opened_total{purpose="publish"}"#,
        r#"warrengate_certificate_expiry_timestamp_seconds{certificate="gateway"}"#,
        r#"warrengate_certificate_expiry_timestamp_seconds{certificate="broker_ca"}"#,
        r#"warrengate_certificate_expiry_timestamp_seconds{certificate="tenants_earliest"}"#,
        r#"warrengate_store_duration_seconds_count{operation="revision"}"#,
    ];
    // A page may have been rendered for another test a moment ago.
    let page = until("all samples", async || {
        let page = page().await;
        samples.iter().all(|sample| value(&page, sample).is_some_and(|value| value >= 1.0)).then_some(page)
    })
    .await;
    assert!(value(&page, "warrengate_build_info").is_none() && page.contains("warrengate_build_info{version="));
    #[cfg(target_os = "linux")]
    assert!(value(&page, "process_resident_memory_bytes").is_some_and(|bytes| bytes > 1e6));
}

#[tokio::test]
async fn openmetrics_is_served_on_request() {
    let url = format!("http://{}/metrics", SharedStack::get().stack.gateway().ops_address());
    let answer = http().get(url).header(ACCEPT, "application/openmetrics-text;version=1.0.0").send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(answer.text().await.unwrap().ends_with("# EOF\n"));
}

#[tokio::test]
#[allow(clippy::print_stderr, reason = "a skipped check is reported")]
async fn promtool_accepts_the_metrics() {
    let tenant = tenant_here().await;
    tenant.queue("any").await;
    tenant.publish_to("any", "x").await;
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/promtool");
    let promtool = if std::path::Path::new(own).is_file() { own } else { "promtool" };
    let started = std::process::Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut checking) = started else {
        return missing("promtool");
    };
    checking.stdin.take().unwrap().write_all(page().await.as_bytes()).unwrap();
    let checked = checking.wait_with_output().unwrap();
    let output = String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{output}");
}
