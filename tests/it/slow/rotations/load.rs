//! The load under which secrets change.

use std::collections::HashSet;

use tokio::sync::watch;
use warrengate::{
    client::Client,
    pb::{Outcome, subscribe_response::Event},
};

use crate::harness::{
    raw::{RawPublish, RawSubscribe},
    to_queue,
    wait::within,
};

/// Runs `work` while one stream publishes and another consumes, both open throughout; checks that every confirmed
/// message has arrived at the end.
pub async fn under_load(client: &Client, queue: &str, work: impl Future<Output = ()>) {
    let (confirmed, mut progress) = watch::channel(0_u64);
    let (stop, stopped) = watch::channel(false);
    let mut publisher = RawPublish::open(client).await.unwrap();
    let mut subscriber = RawSubscribe::started(client, queue).await;
    let publishing = tokio::spawn({
        let queue = queue.to_owned();
        async move {
            let mut number = 0;
            while !*stopped.borrow() {
                let result =
                    publisher.publish(to_queue(&queue, number.to_string())).await.expect("the stream continues");
                match result.outcome() {
                    Outcome::Confirmed => number += 1,
                    // It may or may not be stored, so it is sent again.
                    Outcome::Unknown => {}
                    other => panic!("{other:?}: {}", result.reason),
                }
                confirmed.send_replace(number);
            }
            number
        }
    });
    let (total, expected_total) = watch::channel(u64::MAX);
    let consuming = tokio::spawn(async move {
        let mut bodies = HashSet::new();
        let mut interruptions = 0;
        loop {
            if bodies.len() as u64 >= *expected_total.borrow() {
                return (bodies, interruptions);
            }
            match subscriber.event().await.expect("the stream continues") {
                Some(Event::Deliveries(frame)) => {
                    let ids = frame.deliveries.iter().map(|delivery| delivery.delivery_id).collect();
                    bodies.extend(frame.deliveries.into_iter().map(|delivery| delivery.message.unwrap().body));
                    subscriber.ack(ids, 0).await;
                }
                Some(Event::Interrupted(_)) => interruptions += 1,
                Some(_) => {}
                None => panic!("the stream ended"),
            }
        }
    });
    let more = async |progress: &mut watch::Receiver<u64>| {
        let wanted = *progress.borrow() + 50;
        within("fifty more messages", progress.wait_for(|confirmed| *confirmed >= wanted)).await.unwrap();
    };
    more(&mut progress).await;
    work.await;
    more(&mut progress).await;
    stop.send_replace(true);
    let published = within("the publisher's end", publishing).await.unwrap();
    total.send_replace(published);
    // One more message, so that the consumer checks the total.
    let last = client.publish_batch(vec![to_queue(queue, published.to_string())]).await.unwrap();
    assert_eq!(last[0].outcome(), Outcome::Confirmed);
    let (bodies, interruptions) = within("all messages", consuming).await.unwrap();
    let lost: Vec<_> = (0..published).filter(|number| !bodies.contains(number.to_string().as_bytes())).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    eprintln!("{published} messages, none lost, no stream closed, interrupted {interruptions} times");
}
