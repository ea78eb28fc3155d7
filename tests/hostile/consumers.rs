//! A consumer with the default window settles nothing, while another consumer uses the same queue.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use warrengate::pb;

use crate::{
    Scale,
    consumer::{RawSubscription, start},
    environment::Environment,
    report::Report,
};

const ATTACK: &str = "consumer that settles nothing";
const BODY: usize = 2_000_000;
/// The number of messages that fit into 16 MiB.
const WINDOW: usize = 8;

pub async fn settles_nothing(environment: &Arc<Environment>, scale: Scale, report: &mut Report) {
    let count = scale.large_messages;
    let tenant = environment.tenant().await;
    tenant.queue("jobs", pb::QueueType::Quorum).await;
    tenant.fill("jobs", count, pb::Message { body: vec![1; BODY].into(), ..Default::default() }).await;
    let mut slow = RawSubscription::open(&tenant.client, start("jobs")).await;
    let unsettled = slow.take(WINDOW).await;
    let began = Instant::now();
    let mut quick = RawSubscription::open(&tenant.client, start("jobs")).await;
    let first = quick.one().await;
    let first_after = began.elapsed();
    quick.ack(&[first.delivery_id]).await;
    for _ in 1..count - WINDOW {
        let next = quick.one().await;
        quick.ack(&[next.delivery_id]).await;
    }
    let all_after = began.elapsed();
    let text = format!("{} of {count} beside {} unsettled", count - WINDOW, unsettled.len());
    report.must(ATTACK, "another gets all beyond its window", text, true);
    let bound = "the first within 1 s";
    report.time(ATTACK, bound, format!("{first_after:.1?}"), first_after <= Duration::from_secs(1));
    report.time(ATTACK, "all within 5 s", format!("{all_after:.1?}"), all_after <= Duration::from_secs(5));
    slow.close().await;
    quick.close().await;
}
