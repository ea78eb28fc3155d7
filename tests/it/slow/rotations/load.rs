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

/// Does something while one stream publishes and another consumes, both open from before until after it; every message that
/// was confirmed has arrived at the end.
pub async fn under_load(client: &Client, queue: &str, work: impl Future<Output = ()>) {
    let (confirmed, mut seen) = watch::channel(0_u64);
    let (stop, stopped) = watch::channel(false);
    let mut publisher = RawPublish::open(client).await.unwrap();
    let mut subscriber = RawSubscribe::started(client, queue).await;
    let publishing = tokio::spawn({
        let queue = queue.to_owned();
        async move {
            let mut number = 0;
            while !*stopped.borrow() {
                let result = publisher.publish(to_queue(&queue, number.to_string())).await.expect("the stream goes on");
                match result.outcome() {
                    Outcome::Confirmed => number += 1,
                    // May or may not be there: sent again.
                    Outcome::Unknown => {}
                    other => panic!("{other:?}: {}", result.reason),
                }
                confirmed.send_replace(number);
            }
            number
        }
    });
    let (total, told) = watch::channel(u64::MAX);
    let consuming = tokio::spawn(async move {
        let mut bodies = HashSet::new();
        let mut interruptions = 0;
        loop {
            if bodies.len() as u64 >= *told.borrow() {
                return (bodies, interruptions);
            }
            match subscriber.event().await.expect("the stream goes on") {
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
    let more = async |seen: &mut watch::Receiver<u64>| {
        let wanted = *seen.borrow() + 50;
        within("fifty more messages", seen.wait_for(|confirmed| *confirmed >= wanted)).await.unwrap();
    };
    more(&mut seen).await;
    work.await;
    more(&mut seen).await;
    stop.send_replace(true);
    let published = within("the publisher's end", publishing).await.unwrap();
    total.send_replace(published);
    // One more, so that the consumer looks at the total.
    let last = client.publish_batch(vec![to_queue(queue, published.to_string())]).await.unwrap();
    assert_eq!(last[0].outcome(), Outcome::Confirmed);
    let (bodies, interruptions) = within("all messages", consuming).await.unwrap();
    let lost: Vec<_> = (0..published).filter(|number| !bodies.contains(number.to_string().as_bytes())).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    eprintln!("{published} messages, none lost, no stream closed, interrupted {interruptions} times");
}
