//! The demonstrations: each ends by itself, explains what it showed, and leaves nothing.

use crate::harness::{
    Tenant,
    command::{json, ok, warrengate},
};

/// Runs a demo for a new tenant; the demo itself fails when one of its statements is wrong.
async fn demonstrates(name: &str, expected: &[&str]) {
    let tenant = Tenant::fresh().await;
    let app = || warrengate(&tenant.client_id, &tenant.secret);
    let out = ok(app(), &["demo", name]).await;
    let (_, noticed) = out.split_once("What to notice:").unwrap_or_else(|| panic!("{out}"));
    assert!(noticed.matches("\n  * ").count() >= 3, "{out}");
    for words in expected {
        assert!(out.contains(words), "{words:?} is not in:\n{out}");
    }
    for kind in ["queue", "exchange"] {
        let left = json(app(), &[kind, "list"]).await.to_string();
        assert!(!left.contains("demo-"), "left behind: {left}");
    }
}

#[tokio::test]
async fn the_work_queue_is_shared_by_workers_of_unequal_speed() {
    demonstrates("work-queue", &["quick (", "slow  ("]).await;
}

#[tokio::test]
async fn orders_are_retried_dead_lettered_and_redriven() {
    demonstrates(
        "orders",
        &["lamp  attempt 2: shipped", "after 3 attempts: no such address", "piano attempt 1: shipped"],
    )
    .await;
}

#[tokio::test]
async fn logs_are_routed_by_topic() {
    demonstrates("logs", &["on-call (*.error) reads:\n  the till is stuck\n  the safe does not open\n"]).await;
}

#[tokio::test]
async fn alerts_are_routed_by_headers() {
    demonstrates("alerts", &["no binding     unroutable", "pager shows: disk full\n"]).await;
}

#[tokio::test]
async fn fan_out_delivers_a_copy_to_every_subscriber() {
    demonstrates("fan-out", &["billing   got anna, ben, carla, dora", "fraud     got dora"]).await;
}

#[tokio::test]
async fn sensor_readings_are_replayed_from_a_time() {
    demonstrates("sensors", &["from the time we noted       2.60 m, 3.40 m, 4.10 m"]).await;
}

#[tokio::test]
async fn a_spike_waits_for_a_slow_consumer() {
    demonstrates("spike", &["all 600 are confirmed", "0 wait"]).await;
}

#[tokio::test]
async fn a_request_receives_its_reply() {
    demonstrates("request-reply", &["answered q-3: a piano costs 8400.00"]).await;
}

#[tokio::test]
async fn demonstrations_are_listed_and_shown_as_json() {
    let tenant = Tenant::fresh().await;
    let app = || warrengate(&tenant.client_id, &tenant.secret);
    let all = json(app(), &["demo"]).await;
    assert_eq!(all.as_array().unwrap().len(), 8, "{all}");
    let shown = json(app(), &["demo", "fan-out"]).await;
    assert!(shown["lessons"].as_array().unwrap().len() >= 3, "{shown}");
}
