//! The demonstrations, as a newcomer runs them: each ends by itself, says what there was to notice, and leaves nothing.

use crate::harness::{
    Tenant,
    command::{json, ok, warrengate},
};

/// Runs one for a fresh tenant; it fails by itself when something that it claims is not so.
async fn plays(name: &str, said: &[&str]) {
    let tenant = Tenant::fresh().await;
    let app = || warrengate(&tenant.client_id, &tenant.secret);
    let out = ok(app(), &["demo", name]).await;
    let (_, noticed) = out.split_once("What to notice:").unwrap_or_else(|| panic!("{out}"));
    assert!(noticed.matches("\n  * ").count() >= 3, "{out}");
    for words in said {
        assert!(out.contains(words), "{words:?} is not in:\n{out}");
    }
    for kind in ["queue", "exchange"] {
        let left = json(app(), &[kind, "list"]).await.to_string();
        assert!(!left.contains("demo-"), "left behind: {left}");
    }
}

#[tokio::test]
async fn the_work_queue_is_shared_by_workers_of_unequal_speed() {
    plays("work-queue", &["quick (", "slow  ("]).await;
}

#[tokio::test]
async fn orders_are_tried_again_given_up_and_sent_again() {
    plays("orders", &["lamp  attempt 2: shipped", "after 3 attempts: no such address", "piano attempt 1: shipped"])
        .await;
}

#[tokio::test]
async fn logs_find_their_readers_by_topic() {
    plays("logs", &["on-call (*.error) reads:\n  the till is stuck\n  the safe does not open\n"]).await;
}

#[tokio::test]
async fn alerts_find_their_readers_by_headers() {
    plays("alerts", &["nobody asked   unroutable", "pager shows: disk full\n"]).await;
}

#[tokio::test]
async fn fan_out_gives_everybody_a_copy() {
    plays("fan-out", &["billing   got anna, ben, carla, dora", "fraud     got dora"]).await;
}

#[tokio::test]
async fn sensors_are_read_again_from_a_time() {
    plays("sensors", &["from the time we noted       2.60 m, 3.40 m, 4.10 m"]).await;
}

#[tokio::test]
async fn a_spike_waits_for_a_slow_consumer() {
    plays("spike", &["all 600 are confirmed", "0 wait"]).await;
}

#[tokio::test]
async fn a_request_finds_its_reply() {
    plays("request-reply", &["answered q-3: a piano costs 8400.00"]).await;
}

#[tokio::test]
async fn demonstrations_are_listed_and_told_as_json() {
    let tenant = Tenant::fresh().await;
    let app = || warrengate(&tenant.client_id, &tenant.secret);
    let all = json(app(), &["demo"]).await;
    assert_eq!(all.as_array().unwrap().len(), 8, "{all}");
    let told = json(app(), &["demo", "fan-out"]).await;
    assert!(told["noticed"].as_array().unwrap().len() >= 3, "{told}");
}
