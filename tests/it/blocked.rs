//! A broker that blocks publishers (memory alarm): publishing waits, the client is slowed down instead of filling the
//! gateway's memory, and consuming continues.

use std::time::{Duration, Instant};

use warrengate::pb::{Outcome, PublishResult, SubscribeStart};

use crate::harness::{
    Tenant,
    consumer::{RawSubscription, ids, start},
    dedicated::DedicatedStack,
    publisher::RawPublisher,
    serve::Serve,
    to_queue,
    wait::until,
};

const BODY: usize = 512 * 1024;
const FRAME: usize = 4;
/// The window of a publish stream (32 MiB), what HTTP/2 holds before it, and what the allocator keeps.
const MEMORY: u64 = 128 * 1024 * 1024;

async fn alarm(dedicated: &DedicatedStack, on: bool) {
    let node = dedicated.stack.node();
    node.control(&["set_vm_memory_high_watermark", if on { "0.0001" } else { "0.8" }]).await.unwrap();
    until("the alarm's state", async || {
        let alarms = node.control(&["eval", "rabbit_alarm:get_alarms()."]).await.unwrap();
        (alarms.contains("memory") == on).then_some(())
    })
    .await;
}

struct Blocked {
    dedicated: DedicatedStack,
    gateway: Serve,
    tenant: Tenant,
    publisher: RawPublisher,
}

impl Blocked {
    /// A gateway with a stream that has published, and then a memory alarm.
    async fn begin(name: &str, deadline: &str) -> Self {
        let dedicated = DedicatedStack::start(name, &[]).await;
        let gateway = Serve::start(&dedicated, &[("WARRENGATE_BROKER__PUBLISH_DEADLINE", deadline)]).await;
        let tenant = dedicated.tenant().await;
        tenant.queue("jobs").await;
        let client = gateway.client(&dedicated, &tenant).await;
        let mut publisher = RawPublisher::open(&client).await;
        publisher.send(vec![to_queue("jobs", "first")]).await;
        assert_eq!(publisher.results(1).await[0].outcome(), Outcome::Confirmed);
        Self { dedicated, gateway, tenant, publisher }
    }

    /// Sends until no frame can be sent for a while, and returns the number of messages sent.
    async fn fill(&mut self) -> usize {
        let mut sent = 0;
        let large = || (0..FRAME).map(|_| to_queue("jobs", vec![b'x'; BODY])).collect();
        // The shortest deadline in this file is ten times as long: expired messages would free capacity.
        while self.publisher.send_within(Duration::from_secs(1), large()).await {
            sent += FRAME;
            assert!(sent * BODY < MEMORY as usize, "nothing slows the client down");
        }
        sent
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_broker_slows_publishers_while_consuming_continues_and_all_is_confirmed_afterwards() {
    let mut blocked = Blocked::begin("blocked", "5m").await;
    for n in 0..20 {
        blocked.tenant.publish_to("jobs", n.to_string()).await;
    }
    let client = blocked.gateway.client(&blocked.dedicated, &blocked.tenant).await;
    let window = SubscribeStart { max_outstanding_messages: 2, ..start("jobs") };
    let mut consumer = RawSubscription::open(&client, window).await;
    alarm(&blocked.dedicated, true).await;
    let before = blocked.gateway.resident();
    let sent = blocked.fill().await;
    // Consuming continues: settlements reach the broker, and it sends more messages.
    for _ in 0..10 {
        let outstanding = consumer.take(2).await;
        consumer.ack(&ids(&outstanding)).await;
    }
    let grown = blocked.gateway.resident().saturating_sub(before);
    eprintln!("measured: {sent} messages of 512 KiB before the client had to wait, memory grew by {} MiB", grown >> 20);
    assert!(grown < MEMORY, "grew by {grown} bytes");
    drop(consumer);
    let began = Instant::now();
    alarm(&blocked.dedicated, false).await;
    let results = blocked.publisher.results(sent).await;
    eprintln!("measured: all confirmed {:?} after the request to end the alarm", began.elapsed());
    assert!(results.iter().all(|result| result.outcome() == Outcome::Confirmed), "{results:?}");
    blocked.dedicated.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_past_their_deadline_at_a_blocked_broker_have_an_unknown_or_rejected_outcome() {
    let mut blocked = Blocked::begin("blocked-long", "10s").await;
    alarm(&blocked.dedicated, true).await;
    let before = blocked.gateway.resident();
    // Several windows one after the other for a minute: messages past their deadline must not accumulate.
    let (mut unknown, mut rejected) = (0, 0);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        let sent = blocked.fill().await;
        let results = blocked.publisher.results(sent).await;
        let count = |of: fn(&PublishResult) -> bool| results.iter().filter(|result| of(result)).count();
        let say =
            |result: &PublishResult, outcome, reason| result.outcome() == outcome && result.reason.starts_with(reason);
        assert!(
            results.iter().all(|result| say(result, Outcome::Unknown, "PUBLISH_DEADLINE: ")
                || say(result, Outcome::Rejected, "BROKER_UNREACHABLE: ")),
            "{:?}",
            results[0]
        );
        unknown += count(|result| result.outcome() == Outcome::Unknown);
        rejected += count(|result| result.outcome() == Outcome::Rejected);
    }
    let grown = blocked.gateway.resident().saturating_sub(before);
    eprintln!("measured: {unknown} unknown, {rejected} rejected, memory grew by {} MiB", grown >> 20);
    assert!(grown < MEMORY, "grew by {grown} bytes");
    alarm(&blocked.dedicated, false).await;
    until("a confirm", async || {
        blocked.publisher.send(vec![to_queue("jobs", "after")]).await;
        (blocked.publisher.results(1).await[0].outcome() == Outcome::Confirmed).then_some(())
    })
    .await;
    // A rejected message is not stored; one with an unknown outcome may be.
    let depth = blocked.tenant.depth("jobs").await;
    assert!(depth >= 2 && depth <= 2 + unknown as u64, "{depth} of {unknown} unknown and {rejected} rejected");
    blocked.dedicated.stack.stop().await.unwrap();
}
