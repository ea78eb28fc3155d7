//! Many messages, many streams, many tenants.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::join_all;
use tokio::sync::Barrier;
use tokio_util::sync::CancellationToken;
use warrengate::{
    client::{Client, Receipt, SubscribeOptions},
    pb::{Outcome, Publication},
};

use crate::harness::{
    Tenant,
    consumer::{RawSubscription, start},
    to_queue,
    wait::within,
};

fn numbered(queue: &str, sequence: u64) -> Publication {
    // 256 bytes, of which the first 8 are the number.
    let mut body = vec![b'x'; 256];
    body[..8].copy_from_slice(&sequence.to_be_bytes());
    Publication { sequence, ..to_queue(queue, body) }
}

#[tokio::test]
async fn a_hundred_thousand_messages_are_each_confirmed_once_and_received_once() {
    const MESSAGES: u64 = 100_000;
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let client = tenant.client.clone();
    let publishing = tokio::spawn(async move {
        let publisher = client.publisher();
        let (receipts, mut waiting) = tokio::sync::mpsc::channel::<Receipt>(2_000);
        let reading = tokio::spawn(async move {
            let mut confirmed = BTreeSet::new();
            while let Some(receipt) = waiting.recv().await {
                let result = within("an outcome", receipt).await;
                assert_eq!(result.outcome(), Outcome::Confirmed, "{result:?}");
                assert!(confirmed.insert(result.sequence), "{} is confirmed twice", result.sequence);
            }
            confirmed.len() as u64
        });
        for sequence in 0..MESSAGES {
            let receipt = within("capacity", publisher.send(numbered("jobs", sequence))).await.unwrap();
            receipts.send(receipt).await.unwrap();
        }
        drop(receipts);
        publisher.close().await.unwrap();
        reading.await.unwrap()
    });
    let mut subscription = tenant.subscribe("jobs").await;
    let mut seen = vec![false; MESSAGES as usize];
    for _ in 0..MESSAGES {
        let delivery = within("a delivery", subscription.next()).await.unwrap().unwrap();
        assert_eq!(delivery.body().len(), 256);
        let sequence = u64::from_be_bytes(delivery.body()[..8].try_into().unwrap());
        let before = std::mem::replace(&mut seen[sequence as usize], true);
        assert!(!before, "{sequence} was received twice");
        subscription.ack(&delivery).unwrap();
    }
    subscription.close().await.unwrap();
    assert_eq!(publishing.await.unwrap(), MESSAGES);
    assert_eq!(tenant.depth("jobs").await, 0);
}

/// Publishes and waits for every confirm.
async fn publish_all(client: Client, bodies: Vec<String>, begin: Arc<Barrier>) {
    let publisher = client.publisher();
    begin.wait().await;
    let mut receipts = Vec::new();
    for body in bodies {
        receipts.push(publisher.send(to_queue("jobs", body)).await.unwrap());
    }
    for receipt in receipts {
        assert_eq!(within("an outcome", receipt).await.outcome(), Outcome::Confirmed);
    }
    publisher.close().await.unwrap();
}

/// Consumes until the tenant's consumers have received all messages.
async fn take_all(client: Client, left: Arc<AtomicUsize>, done: CancellationToken, begin: Arc<Barrier>) -> Vec<String> {
    let mut subscription = client.subscribe(SubscribeOptions::queue("jobs")).await.unwrap();
    begin.wait().await;
    let mut bodies = Vec::new();
    loop {
        let delivery = tokio::select! {
            delivery = within("a delivery", subscription.next()) => delivery.unwrap().unwrap(),
            () = done.cancelled() => break,
        };
        bodies.push(String::from_utf8(delivery.body().to_vec()).unwrap());
        subscription.ack(&delivery).unwrap();
        if left.fetch_sub(1, Ordering::Relaxed) == 1 {
            done.cancel();
        }
    }
    subscription.close().await.unwrap();
    bodies
}

#[tokio::test]
async fn fifty_streams_of_ten_tenants_are_isolated() {
    const TENANTS: usize = 10;
    const PUBLISHERS: usize = 2;
    const CONSUMERS: usize = 3;
    const MESSAGES: usize = 200;
    let begin = Arc::new(Barrier::new(TENANTS * (PUBLISHERS + CONSUMERS)));
    // One after the other, because creating tenants is not tested here.
    let mut tenants = Vec::new();
    for _ in 0..TENANTS {
        let tenant = Tenant::fresh().await;
        tenant.queue("jobs").await;
        tenants.push(tenant);
    }
    let running = tenants.iter().map(|tenant| {
        let written: Vec<Vec<String>> = (0..PUBLISHERS)
            .map(|stream| (0..MESSAGES).map(|n| format!("{}/{stream}/{n}", tenant.id)).collect())
            .collect();
        let expected: BTreeSet<String> = written.iter().flatten().cloned().collect();
        let left = Arc::new(AtomicUsize::new(expected.len()));
        let done = CancellationToken::new();
        let publishing: Vec<_> = written
            .into_iter()
            .map(|bodies| tokio::spawn(publish_all(tenant.client.clone(), bodies, Arc::clone(&begin))))
            .collect();
        let taking: Vec<_> = (0..CONSUMERS)
            .map(|_| {
                let (left, done, begin) = (Arc::clone(&left), done.clone(), Arc::clone(&begin));
                tokio::spawn(take_all(tenant.client.clone(), left, done, begin))
            })
            .collect();
        async move {
            for publisher in publishing {
                publisher.await.unwrap();
            }
            let mut got = Vec::new();
            for consumer in taking {
                got.extend(consumer.await.unwrap());
            }
            assert_eq!(got.len(), expected.len(), "each body once");
            assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), expected, "only this tenant's");
        }
    });
    join_all(running).await;
}

#[tokio::test]
async fn consumers_of_equal_speed_share_a_queue_equally() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let all = (0..200).map(|n| to_queue("jobs", n.to_string())).collect();
    assert_eq!(tenant.outcomes(all).await, [Outcome::Confirmed; 200]);
    let window = || warrengate::pb::SubscribeStart { max_outstanding_messages: 10, ..start("jobs") };
    let mut consumers = Vec::new();
    for _ in 0..2 {
        let mut consumer = RawSubscription::open(&tenant.client, window()).await;
        let outstanding = consumer.take(10).await;
        consumer.is_quiet().await;
        consumers.push((consumer, outstanding));
    }
    assert_eq!(tenant.depth("jobs").await, 180, "each has exactly its window outstanding");
    // In turn: a consumer that acknowledges one message gets one more.
    for _ in 0..90 {
        for (consumer, outstanding) in &mut consumers {
            consumer.ack(&[outstanding.remove(0).delivery_id]).await;
            outstanding.push(consumer.one().await);
        }
    }
    assert_eq!(tenant.depth("jobs").await, 0);
    for (mut consumer, outstanding) in consumers {
        assert_eq!(outstanding.len(), 10);
        consumer.ack_through(outstanding[9].delivery_id).await;
        consumer.is_quiet().await;
        consumer.close().await;
    }
    assert_eq!(tenant.depth("jobs").await, 0, "each had a hundred");
}

#[tokio::test]
async fn a_slow_consumer_gets_its_window_and_the_other_one_the_rest() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let window = || warrengate::pb::SubscribeStart { max_outstanding_messages: 10, ..start("jobs") };
    let mut slow = RawSubscription::open(&tenant.client, window()).await;
    let mut quick = RawSubscription::open(&tenant.client, window()).await;
    let all = (0..200).map(|n| to_queue("jobs", n.to_string())).collect();
    assert_eq!(tenant.outcomes(all).await, [Outcome::Confirmed; 200]);
    let outstanding = slow.take(10).await;
    for _ in 0..190 {
        let delivery = quick.one().await;
        quick.ack(&[delivery.delivery_id]).await;
    }
    slow.is_quiet().await;
    quick.is_quiet().await;
    assert_eq!(tenant.depth("jobs").await, 0);
    slow.ack_through(outstanding[9].delivery_id).await;
    slow.close().await;
    quick.close().await;
}
