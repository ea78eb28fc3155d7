//! A broker that crashes and restarts under open streams.

use std::{collections::BTreeSet, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use warrengate::{
    client::SubscribeOptions,
    pb::{
        self, Outcome, Publications, PublishRequest, QueueType, publish_request, publish_response,
        subscribe_response::Event,
    },
};

use crate::harness::{
    consumer::{RawSubscription, ids, start},
    dedicated::DedicatedStack,
    to_queue,
    wait::{until, within},
};

const MESSAGES: u64 = 5_000;
const FRAME: u64 = 50;

/// Publishes all messages on one raw stream and reports each confirm; every message gets exactly one outcome.
async fn publish(client: warrengate::client::Client, confirmed: mpsc::UnboundedSender<u64>) {
    let (frames, requests) = mpsc::channel(1);
    let mut messaging = client.raw_messaging();
    let mut responses = messaging.publish(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let writing = async move {
        for first in (0..MESSAGES).step_by(FRAME as usize) {
            let publications = (first..first + FRAME)
                .map(|sequence| pb::Publication { sequence, ..to_queue("jobs", sequence.to_string()) })
                .collect();
            let frame = Some(publish_request::Frame::Publications(Publications { publications }));
            within("capacity for a frame", frames.send(PublishRequest { frame })).await.unwrap();
        }
    };
    let reading = async {
        let mut answered = BTreeSet::new();
        while let Some(response) = within("outcomes", responses.message()).await.unwrap() {
            let Some(publish_response::Event::Results(results)) = response.event else { panic!("{response:?}") };
            for result in results.results {
                assert_eq!(result.outcome(), Outcome::Confirmed, "{result:?}");
                assert!(answered.insert(result.sequence), "{} has two outcomes", result.sequence);
                confirmed.send(result.sequence).unwrap();
            }
        }
        answered.len() as u64
    };
    let ((), answered) = tokio::join!(writing, reading);
    assert_eq!(answered, MESSAGES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_survive_a_killed_broker_and_no_confirmed_message_is_lost() {
    let dedicated = DedicatedStack::start("killed", &[]).await;
    let tenant = dedicated.tenant().await;
    tenant.queue("jobs").await;
    dedicated.queue_is_on_disk(&tenant, "jobs").await;
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    let (confirmed, mut confirms) = mpsc::unbounded_channel();
    let publishing = tokio::spawn(publish(tenant.client.clone(), confirmed));
    // In the middle of both streams.
    let mut received = BTreeSet::new();
    for _ in 0..MESSAGES / 10 {
        within("a confirm", confirms.recv()).await.unwrap();
    }
    let outstanding = consumer.take(10).await;
    dedicated.stack.node().kill().unwrap();
    let restarting = dedicated.stack.node().restart();
    let consuming = async {
        let (mut interrupted, mut resumed, mut last_id) = (0, 0, 0);
        while received.len() < MESSAGES as usize || resumed == 0 {
            match consumer.event().await.unwrap() {
                Some(Event::Deliveries(frame)) => {
                    assert_eq!(interrupted, resumed, "a delivery while interrupted");
                    let ids = ids(&frame.deliveries);
                    assert!(ids[0] > last_id, "ids increase across a restart");
                    last_id = ids[ids.len() - 1];
                    consumer.ack(&ids).await;
                    received.extend(frame.deliveries.into_iter().map(|delivery| delivery.message.unwrap().body));
                }
                Some(Event::Interrupted(_)) => {
                    interrupted += 1;
                    // The old delivery ids are no longer valid.
                    consumer.ack(&ids(&outstanding)).await;
                }
                Some(Event::Resumed(_)) => resumed += 1,
                Some(Event::Settled(report)) => assert!(report.expired_delivery_ids.is_empty(), "{report:?}"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(interrupted, resumed);
    };
    let (restarted, ()) = tokio::join!(restarting, consuming);
    restarted.unwrap();
    publishing.await.unwrap();
    let expected: BTreeSet<bytes::Bytes> = (0..MESSAGES).map(|n| n.to_string().into()).collect();
    assert_eq!(received, expected, "each confirmed message was received");
    consumer.close().await;
    dedicated.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_tenants_queues_and_messages() {
    let dedicated = DedicatedStack::start("restarted", &[]).await;
    let tenant = dedicated.tenant().await;
    let kinds = [("quorum", QueueType::Quorum), ("classic", QueueType::Classic), ("stream", QueueType::Stream)];
    for (name, kind) in kinds {
        tenant.queue_typed(name, kind).await;
        let all = (0..100).map(|n: u32| to_queue(name, n.to_string())).collect();
        assert_eq!(tenant.outcomes(all).await, [Outcome::Confirmed; 100]);
    }
    dedicated.stack.node().restart().await.unwrap();
    let expected: Vec<_> = (0..100).map(|n: u32| n.to_string()).collect();
    for (name, kind) in kinds {
        let first = pb::stream_position::Position::First(pb::StreamFirst {});
        let position = (kind == QueueType::Stream).then_some(pb::StreamPosition { position: Some(first) });
        let asked = pb::SubscribeStart { position, ..start(name) };
        // The broker accepts connections shortly before all queues are available.
        let mut consumer =
            until("a subscription", async || RawSubscription::try_open(&tenant.client, asked.clone()).await.ok()).await;
        let outstanding = consumer.take(100).await;
        assert_eq!(crate::harness::consumer::bodies(&outstanding), expected, "{name}");
        consumer.ack(&ids(&outstanding)).await;
        consumer.close().await;
    }
    dedicated.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_an_unavailable_broker_have_an_outcome_with_the_reason() {
    let dedicated = DedicatedStack::start("away", &[("WARRENGATE_BROKER__PUBLISH_DEADLINE", "3s")]).await;
    let tenant = dedicated.tenant().await;
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "before").await;
    dedicated.queue_is_on_disk(&tenant, "jobs").await;
    dedicated.stack.node().kill().unwrap();
    let began = std::time::Instant::now();
    let results = within("outcomes", tenant.client.publish_batch(vec![to_queue("jobs", "lost")])).await.unwrap();
    let result = &results[0];
    // Never sent, so certainly not stored.
    assert_eq!(result.outcome(), Outcome::Rejected, "{result:?}");
    assert!(result.reason.starts_with("BROKER_UNREACHABLE: "), "{}", result.reason);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(20), "{took:?}");
    dedicated.stack.node().restart().await.unwrap();
    let again = until("a publish that succeeds", async || {
        let outcomes = tenant.outcomes(vec![to_queue("jobs", "after")]).await;
        (outcomes[0] == Outcome::Confirmed).then_some(())
    });
    again.await;
    assert_eq!(tenant.take("jobs", 2).await, ["before", "after"]);
    dedicated.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_is_opened_while_the_broker_is_away_starts_when_it_is_back() {
    let dedicated = DedicatedStack::start("away-subscribe", &[]).await;
    let tenant = dedicated.tenant().await;
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "before").await;
    dedicated.queue_is_on_disk(&tenant, "jobs").await;
    dedicated.stack.node().kill().unwrap();
    let (refused, is_refused) = tokio::sync::oneshot::channel();
    let restarting = async {
        within("a refusal", is_refused).await.unwrap();
        dedicated.stack.node().restart().await.unwrap();
    };
    let opening = async {
        // The gateway refuses subscriptions now, so the next one begins with a refusal, too.
        assert!(RawSubscription::try_open(&tenant.client, start("jobs")).await.is_err());
        refused.send(()).unwrap();
        within("a subscription", tenant.client.subscribe(SubscribeOptions::queue("jobs"))).await
    };
    let (subscription, ()) = tokio::join!(opening, restarting);
    let delivery = within("a delivery", subscription.unwrap().next()).await.unwrap().expect("a delivery");
    assert_eq!(delivery.body(), "before");
    dedicated.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_never_confirms_does_not_block_messages_to_others() {
    let settings = [("WARRENGATE_BROKER__PUBLISH_DEADLINE", "6s"), ("WARRENGATE_BROKER__CONNECT_TIMEOUT", "1s")];
    let dedicated = DedicatedStack::start("leaderless", &settings).await;
    let tenant = dedicated.tenant().await;
    tenant.queue_typed("fine", QueueType::Classic).await;
    tenant.queue("leaderless").await;
    // As a queue that RabbitMQ 3.10 or 4.0 lost in a crash: it has a name and never confirms a message.
    let suspended = format!("sys:suspend(list_to_atom(\"wg.{}_leaderless\")).", tenant.id);
    assert_eq!(dedicated.stack.node().control(&["eval", &suspended]).await.unwrap().trim(), "ok");
    let (frames, requests) = mpsc::channel(1);
    let mut messaging = tenant.client.raw_messaging();
    let mut responses = messaging.publish(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let mut ask = async |queue: &str, count: u64| {
        let publications = (0..count).map(|n| pb::Publication { sequence: n, ..to_queue(queue, "x") }).collect();
        let frame = Some(publish_request::Frame::Publications(Publications { publications }));
        within("capacity for a frame", frames.send(PublishRequest { frame })).await.unwrap();
        let mut outcomes = Vec::new();
        while outcomes.len() < count as usize {
            let response = within("outcomes", responses.message()).await.unwrap().expect("the stream continues");
            let Some(publish_response::Event::Results(results)) = response.event else { panic!("{response:?}") };
            outcomes.extend(results.results);
        }
        outcomes
    };
    for _ in 0..2 {
        let outcomes = ask("leaderless", 900).await;
        // The others are not sent while these are unanswered, so they are certainly not stored.
        let (unknown, unsent): (Vec<_>, Vec<_>) = outcomes.iter().partition(|o| o.outcome() == Outcome::Unknown);
        assert!(!unknown.is_empty());
        for result in unsent {
            assert_eq!(result.outcome(), Outcome::Rejected, "{result:?}");
            assert!(result.reason.contains("not sent within"), "{result:?}");
        }
    }
    let other = ask("fine", 100).await.into_iter().find(|o| o.outcome() != Outcome::Confirmed);
    assert!(other.is_none(), "{other:?}");
    // An orderly stop would wait for the queue.
    dedicated.stack.node().kill().unwrap();
}
