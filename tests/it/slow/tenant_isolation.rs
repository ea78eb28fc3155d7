//! A tenant that misbehaves does not block another tenant.

use std::time::{Duration, Instant};

use warrengate::pb::{Outcome, SubscribeStart};

use crate::harness::{
    Tenant,
    consumer::{RawSubscription, start},
    to_queue,
};

const MESSAGES: usize = 1_000;

async fn fill(tenant: &Tenant) {
    let all = (0..MESSAGES).map(|n| to_queue("jobs", n.to_string())).collect();
    assert_eq!(tenant.outcomes(all).await, vec![Outcome::Confirmed; MESSAGES]);
}

/// The time to publish and consume a thousand messages.
async fn round(tenant: &Tenant) -> Duration {
    let began = Instant::now();
    fill(tenant).await;
    tenant.take("jobs", MESSAGES).await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_never_acknowledges_does_not_block_another_tenant() {
    let (stubborn, other) = (Tenant::fresh().await, Tenant::fresh().await);
    for tenant in [&stubborn, &other] {
        tenant.queue("jobs").await;
    }
    fill(&stubborn).await;
    round(&other).await;
    let (mut alone, mut shared) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        alone.push(round(&other).await);
        let mut holds = Vec::new();
        for _ in 0..5 {
            let window = SubscribeStart { max_outstanding_messages: 200, ..start("jobs") };
            let mut consumer = RawSubscription::open(&stubborn.client, window).await;
            assert_eq!(consumer.take(200).await.len(), 200);
            holds.push(consumer);
        }
        shared.push(round(&other).await);
        for consumer in holds {
            consumer.close().await;
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (alone, shared) = (median(&mut alone), median(&mut shared));
    let ratio = shared.as_secs_f64() / alone.as_secs_f64();
    eprintln!("measured: 1,000 messages both ways in {alone:?} alone, {shared:?} shared: a ratio of {ratio:.2}");
    // A shared machine makes the ratio noisy; `warrengate-bench --scenario slow-consumer` measures it. A blocked tenant
    // would receive nothing at all.
    assert!(ratio < 5.0, "{ratio}");
}
