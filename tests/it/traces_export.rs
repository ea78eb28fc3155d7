//! Export of spans: the effect of a collector that does not answer, how it is reported, and what a stopping gateway
//! still sends.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};
use warrengate::{client::Credentials, pb::Outcome};

use crate::harness::{
    SharedStack, Tenant, to_queue,
    traced::Traced,
    wait::{until, within},
};

/// Publishes `count` messages, all of which must be confirmed.
async fn publish(client: &warrengate::client::Client, count: usize) {
    let publisher = client.publisher();
    let mut receipts = Vec::new();
    for _ in 0..count {
        receipts.push(publisher.send(to_queue("jobs", "one")).await.unwrap());
    }
    for receipt in receipts {
        assert_eq!(within("an outcome", receipt).await.outcome(), Outcome::Confirmed);
    }
    publisher.close().await.unwrap();
}

#[tokio::test]
async fn a_hanging_collector_loses_spans_but_no_message_and_does_not_delay_shutdown() {
    // It accepts connections and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let traced_gateway = Traced::start_with(|traces| {
        traces.endpoint = Some(endpoint.clone());
        traces.timeout = Duration::from_millis(200);
        traces.queue = 64;
        traces.batch = 32;
    })
    .await;
    let tenant = &traced_gateway.tenant;
    tenant.queue("jobs").await;
    publish(&tenant.client, 2_000).await;
    let traces = traced_gateway.gateway.traces().clone();
    until("most spans are dropped and counted", async || (traces.dropped() > 1_900).then_some(())).await;
    let begun = std::time::Instant::now();
    traced_gateway.gateway.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(25), "the collector delays the shutdown");
    drop(listener);
}

#[tokio::test]
async fn a_hanging_collector_causes_one_log_line() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let shared = SharedStack::get();
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    // A separate process, because the exporter's thread logs directly.
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_warrengate"))
        .arg("serve")
        .envs(shared.stack.settings().iter().cloned())
        .env("WARRENGATE_GRPC__LISTEN", "127.0.0.1:0")
        .env("WARRENGATE_OPS__LISTEN", "127.0.0.1:0")
        .env("WARRENGATE_TELEMETRY__LOG_FORMAT", "json")
        .env("WARRENGATE_TELEMETRY__OTLP_ENDPOINT", format!("http://{}", listener.local_addr().unwrap()))
        .env("WARRENGATE_TELEMETRY__OTLP_TIMEOUT", "100ms")
        .env("WARRENGATE_TELEMETRY__SPAN_QUEUE", "64")
        .env("WARRENGATE_TELEMETRY__SAMPLE_RATIO", "1")
        .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(gateway.stderr.take().unwrap()).lines();
    let next = async |log: &mut tokio::io::Lines<_>| -> Option<Value> {
        let line: Option<String> = within("a line of the log", log.next_line()).await.unwrap();
        line.map(|line| serde_json::from_str(&line).unwrap_or_default())
    };
    let (grpc, ops) = loop {
        let line = next(&mut log).await.expect("the gateway starts");
        if let (Some(grpc), Some(ops)) = (line["grpc"].as_str(), line["ops"].as_str()) {
            break (grpc.to_owned(), ops.to_owned());
        }
    };
    let credentials = Credentials::Secret { client_id: tenant.client_id.clone(), secret: tenant.secret.clone() };
    let client = shared.client_at(&format!("https://{grpc}"), credentials).await;
    // Several exports fail.
    let dropped = async || -> Option<f64> {
        let text = reqwest::get(format!("http://{ops}/metrics")).await.ok()?.text().await.ok()?;
        text.lines().find_map(|line| line.strip_prefix("warrengate_spans_dropped_total "))?.parse().ok()
    };
    let mut before = 0.0;
    for _ in 0..3 {
        publish(&client, 200).await;
        before = until("more spans are dropped", async || dropped().await.filter(|now| *now > before + 100.0)).await;
    }
    let pid = gateway.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    let mut lines = Vec::new();
    while let Some(line) = next(&mut log).await {
        lines.push(line);
    }
    assert!(within("the end", gateway.wait()).await.unwrap().success());
    // Tenants of other tests on the shared broker may cause other lines.
    let of_traces = |line: &&Value| {
        let contains = |name: &str, text: &str| line[name].as_str().is_some_and(|value| value.contains(text));
        contains("message", "traces") || contains("target", "opentelemetry")
    };
    let warnings: Vec<_> = lines.iter().filter(of_traces).collect();
    assert_eq!(warnings.len(), 1, "{lines:#?}");
    assert_eq!(warnings[0]["level"], "WARN");
    assert!(warnings[0]["message"].as_str().unwrap().starts_with("cannot export traces"), "{warnings:?}");
}

#[tokio::test]
async fn a_stopping_gateway_exports_pending_spans() {
    let traced = Traced::start_with(|traces| traces.interval = Duration::from_secs(3_600)).await;
    traced.tenant.queue("jobs").await;
    publish(&traced.tenant.client, 5).await;
    assert_eq!(traced.collector.received(), [], "the export interval of an hour is not over");
    traced.gateway.shutdown().await;
    let is_send = |span: &crate::harness::collector::Span| span.name == "send jobs";
    assert_eq!(traced.collector.spans("the pending spans", is_send, 5).await.len(), 5);
}
