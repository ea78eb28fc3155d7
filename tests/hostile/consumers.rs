//! A consumer with the default window that settles nothing, beside another consumer of the same queue.

use std::time::{Duration, Instant};

use warrengate::pb;

use crate::{
    Scale,
    consumer::{RawSubscription, start},
    report::Report,
    world::World,
};

const ATTACK: &str = "consumer that settles nothing";
const BODY: usize = 2_000_000;
/// What fits into 16 MiB.
const WINDOW: usize = 8;

pub async fn settles_nothing(world: &World, scale: Scale, report: &mut Report) {
    let count = if scale.judges_time { 60 } else { 30 };
    let tenant = world.tenant().await;
    tenant.queue("jobs", pb::QueueType::Quorum).await;
    tenant.fill("jobs", count, pb::Message { body: vec![1; BODY].into(), ..Default::default() }).await;
    let mut slow = RawSubscription::open(&tenant.client, start("jobs")).await;
    let held = slow.take(WINDOW).await;
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
    let text = format!("{} of {count} beside {} held", count - WINDOW, held.len());
    report.must(ATTACK, "another gets all beyond its window", text, true);
    let bar = "the first within 1 s";
    report.time(ATTACK, bar, format!("{first_after:.1?}"), first_after <= Duration::from_secs(1));
    report.time(ATTACK, "all within 5 s", format!("{all_after:.1?}"), all_after <= Duration::from_secs(5));
    slow.close().await;
    quick.close().await;
}
