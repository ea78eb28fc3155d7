//! Message priorities, which each RabbitMQ version treats differently on quorum queues, and retries of messages with
//! different priorities.

use std::time::{Duration, Instant};

use warrengate::pb;

use crate::harness::{
    Tenant, broker,
    consumer::{RawSubscription, ids, start},
    to_queue,
    wait::within,
};

fn with_priority(queue: &str, priority: u32, body: String) -> pb::Publication {
    let mut publication = to_queue(queue, body);
    publication.message.as_mut().unwrap().priority = priority;
    publication
}

#[tokio::test]
async fn quorum_queues_order_priorities_as_documented_and_zero_is_the_lowest() {
    let tenant = Tenant::fresh().await;
    tenant.queue("q").await;
    for priority in [0, 9, 3, 31] {
        tenant.publish(with_priority("q", priority, priority.to_string())).await;
    }
    tenant.has_depth("q", 4).await;
    let expected = match broker::version().await {
        (..=3, _) => ["0", "9", "3", "31"],
        // Two levels: 5 and more is high. Two of these for one of the others.
        (4, ..=2) => ["9", "31", "0", "3"],
        _ => ["31", "9", "3", "0"],
    };
    assert_eq!(tenant.take("q", 4).await, expected);
}

#[tokio::test]
async fn retries_of_low_priority_do_not_starve_when_there_are_retries_of_high_priority() {
    const LOW: usize = 40;
    const DELAY: Duration = Duration::from_secs(2);
    let tenant = Tenant::fresh().await;
    for queue in ["low", "high"] {
        tenant.queue(queue).await;
    }
    tenant.outcomes((0..LOW).map(|n| with_priority("low", 0, n.to_string())).collect()).await;
    let mut low = RawSubscription::open(&tenant.client, start("low")).await;
    let mut high = RawSubscription::open(&tenant.client, start("high")).await;
    let taken = ids(&low.take(LOW).await);
    low.retry(&taken, DELAY).await;
    let nacked = Instant::now();
    // The delay queues hold messages of high priority all the time until the last one of low priority is back.
    let keep_retrying = async {
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        loop {
            pace.tick().await;
            tenant.publish(with_priority("high", 9, "high".into())).await;
            let delivery = high.one().await;
            high.retry(&[delivery.delivery_id], DELAY).await;
        }
    };
    let back = async { low.take(LOW).await };
    tokio::select! {
        _ = keep_retrying => unreachable!(),
        _ = within("all of low priority are back", back) => {}
    }
    let late = nacked.elapsed().saturating_sub(DELAY);
    assert!(late < Duration::from_secs(8), "the last one was {late:?} late");
}
