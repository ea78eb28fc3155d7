//! Three broker nodes: replicated quorum queues, and nodes killed under load.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use warrengate::pb::{Outcome, subscribe_response::Event};

use crate::harness::{
    Tenant,
    consumer::{RawSubscription, ids, start},
    dedicated::DedicatedStack,
    publisher::RawPublisher,
    to_queue,
    wait::{until, within},
};

/// The outcomes of a stream of publications.
#[derive(Default)]
struct Outcomes {
    confirmed: BTreeSet<bytes::Bytes>,
    other: Vec<Outcome>,
    last: Option<Instant>,
    longest_gap: Duration,
}

impl Outcomes {
    fn record(&mut self, body: String, outcome: Outcome) {
        if outcome != Outcome::Confirmed {
            return self.other.push(outcome);
        }
        let now = Instant::now();
        self.longest_gap = self.longest_gap.max(self.last.map_or(Duration::ZERO, |last| now - last));
        self.last = Some(now);
        self.confirmed.insert(body.into());
    }
}

/// Publishes and consumes until it is stopped.
struct Load {
    outcomes: Arc<Mutex<Outcomes>>,
    received: Arc<Mutex<BTreeSet<bytes::Bytes>>>,
    stop: CancellationToken,
    publishing: tokio::task::JoinHandle<()>,
    consuming: tokio::task::JoinHandle<()>,
}

impl Load {
    async fn on(tenant: &Tenant) -> Self {
        let outcomes: Arc<Mutex<Outcomes>> = Arc::default();
        let received: Arc<Mutex<BTreeSet<bytes::Bytes>>> = Arc::default();
        let stop = CancellationToken::new();
        let mut publisher = RawPublisher::open(&tenant.client).await;
        let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
        let publishing = tokio::spawn({
            let (outcomes, stop) = (Arc::clone(&outcomes), stop.clone());
            async move {
                let mut next = 0;
                while !stop.is_cancelled() {
                    let bodies: Vec<_> = (next..next + 10).map(|n: u32| n.to_string()).collect();
                    next += 10;
                    publisher.send(bodies.iter().map(|body| to_queue("jobs", body.clone())).collect()).await;
                    let results = publisher.results(10).await;
                    for result in results {
                        let body = (result.sequence as u32).to_string();
                        outcomes.lock().unwrap().record(body, result.outcome());
                    }
                }
            }
        });
        let consuming = tokio::spawn({
            let (received, stop) = (Arc::clone(&received), stop.clone());
            async move {
                loop {
                    let event = tokio::select! {
                        event = consumer.event() => event.unwrap(),
                        () = stop.cancelled() => return,
                    };
                    if let Some(Event::Deliveries(frame)) = event {
                        consumer.ack(&ids(&frame.deliveries)).await;
                        let bodies = frame.deliveries.into_iter().map(|delivery| delivery.message.unwrap().body);
                        received.lock().unwrap().extend(bodies);
                    }
                }
            }
        });
        Self { outcomes, received, stop, publishing, consuming }
    }

    fn confirmed(&self) -> usize {
        self.outcomes.lock().unwrap().confirmed.len()
    }

    fn others(&self) -> Vec<Outcome> {
        self.outcomes.lock().unwrap().other.clone()
    }

    /// Waits until `more` further messages are confirmed.
    async fn confirms(&self, more: usize) {
        let from = self.confirmed();
        until("more confirms", async || (self.confirmed() >= from + more).then_some(())).await;
    }

    /// The longest time between two confirms since the last call.
    fn longest_gap(&self) -> Duration {
        std::mem::take(&mut self.outcomes.lock().unwrap().longest_gap)
    }
}

async fn leader<'a>(dedicated: &'a DedicatedStack, vhost: &str) -> &'a warrengate_testkit::node::Node {
    let cluster = dedicated.stack.cluster().unwrap();
    until("a leader", async || cluster.leader_of(vhost, "jobs").await.ok().flatten().filter(|node| node.is_running()))
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_confirmed_message_is_lost_when_leaders_are_killed_under_load() {
    let dedicated = DedicatedStack::with_nodes(3, "cluster", &[("WARRENGATE_BROKER__PUBLISH_DEADLINE", "20s")]).await;
    let cluster = dedicated.stack.cluster().unwrap();
    let tenant = dedicated.tenant().await;
    let vhost = format!("wg.{}", tenant.id);
    tenant.queue("jobs").await;
    let arguments = ["-q", "-p", &vhost, "list_queues", "name", "members", "--formatter", "json"];
    let queues = cluster.nodes()[0].control(&arguments).await.unwrap();
    let queues: serde_json::Value = serde_json::from_str(&queues).unwrap();
    let jobs = queues.as_array().unwrap().iter().find(|queue| queue["name"] == "jobs").unwrap();
    assert_eq!(jobs["members"].as_array().unwrap().len(), 3, "{queues}");

    let load = Load::on(&tenant).await;
    load.confirms(200).await;
    load.longest_gap();
    for round in ["first", "second"] {
        let killed = leader(&dedicated, &vhost).await;
        killed.kill().unwrap();
        load.confirms(200).await;
        let gap = load.longest_gap();
        eprintln!("measured: {round} leader killed, longest time without a confirm {gap:?}");
        assert!(gap < Duration::from_secs(5), "{gap:?}");
        killed.restart().await.unwrap();
        load.confirms(200).await;
    }
    // RabbitMQ 3.10 refuses messages of a new channel until it has recorded the new leader: they are rejected and not
    // stored.
    let others = load.others();
    assert!(others.iter().all(|outcome| *outcome == Outcome::Rejected), "{others:?}");
    eprintln!("measured: {} rejected while a new leader was not known", others.len());

    // Without a majority nothing is confirmed, and the outcomes report it.
    let (first, second) = (&cluster.nodes()[0], &cluster.nodes()[1]);
    first.kill().unwrap();
    second.kill().unwrap();
    let is_honest = |outcome: &Outcome| matches!(outcome, Outcome::Unknown | Outcome::Rejected);
    until("outcomes without a majority", async || (load.others().len() > others.len()).then_some(())).await;
    assert!(load.others().iter().all(is_honest), "{:?}", load.others());
    let (one, two) = tokio::join!(first.restart(), second.restart());
    one.and(two).unwrap();
    load.confirms(200).await;

    load.stop.cancel();
    within("the last outcomes", load.publishing).await.unwrap();
    let confirmed = std::mem::take(&mut load.outcomes.lock().unwrap().confirmed);
    within("the consumer's end", load.consuming).await.unwrap();
    let mut received = std::mem::take(&mut *load.received.lock().unwrap());
    let mut rest = RawSubscription::open(&tenant.client, start("jobs")).await;
    within("all that was confirmed", async {
        while !confirmed.is_subset(&received) {
            if let Some(Event::Deliveries(frame)) = rest.event().await.unwrap() {
                rest.ack(&ids(&frame.deliveries)).await;
                received.extend(frame.deliveries.into_iter().map(|delivery| delivery.message.unwrap().body));
            }
        }
    })
    .await;
    eprintln!(
        "measured: {} confirmed, {} others, none lost",
        confirmed.len(),
        load.outcomes.lock().unwrap().other.len()
    );
    dedicated.stack.stop().await.unwrap();
}
