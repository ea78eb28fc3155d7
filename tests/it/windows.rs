//! Windows and leases of a subscriber.

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime},
};

use warrengate::pb::{
    self, DeleteQueueRequest, ExtendLease, Outcome, QueueType, SubscribeStart, subscribe_request::Frame,
};

use crate::harness::{
    Tenant,
    consumer::{RawSubscription, bodies, ids, start},
    to_queue,
};

/// The shortest lease.
const LEASE: Duration = Duration::from_secs(10);

fn leased(max_outstanding_messages: u32) -> SubscribeStart {
    let ack_deadline = Some(LEASE.try_into().unwrap());
    SubscribeStart { ack_deadline, max_outstanding_messages, ..start("jobs") }
}

/// A tenant with a queue of messages of these sizes, each filled with its number.
async fn sized(kind: QueueType, sizes: &[usize]) -> Tenant {
    let tenant = Tenant::fresh().await;
    tenant.queue_typed("jobs", kind).await;
    for (number, size) in sizes.iter().enumerate() {
        tenant.publish_to("jobs", vec![b'0' + number as u8; *size]).await;
    }
    tenant
}

#[tokio::test]
async fn the_message_window_is_enforced() {
    for kind in [QueueType::Quorum, QueueType::Classic] {
        let tenant = Tenant::fresh().await;
        tenant.queue_typed("jobs", kind).await;
        let all = (0..30).map(|n: u32| to_queue("jobs", n.to_string())).collect();
        assert_eq!(tenant.outcomes(all).await, [Outcome::Confirmed; 30]);
        let window = SubscribeStart { max_outstanding_messages: 10, ..start("jobs") };
        let mut consumer = RawSubscription::open(&tenant.client, window).await;
        assert_eq!(consumer.started.max_outstanding_messages, 10);
        let outstanding = consumer.take(10).await;
        consumer.is_quiet().await;
        // Capacity for three, and no more.
        consumer.ack(&ids(&outstanding[4..7])).await;
        assert_eq!(bodies(&consumer.take(3).await), ["10", "11", "12"]);
        consumer.is_quiet().await;
        assert_eq!(tenant.depth("jobs").await, 17, "undelivered messages remain in the queue");
    }
}

#[tokio::test]
async fn the_byte_window_is_enforced() {
    let tenant = sized(QueueType::Quorum, &[4_000, 4_000, 4_000, 1_000, 4_000]).await;
    // Properties count, too, with about 100 bytes each.
    let window = SubscribeStart { max_outstanding_bytes: 10_000, ..start("jobs") };
    let mut consumer = RawSubscription::open(&tenant.client, window).await;
    let outstanding = consumer.take(2).await;
    // Less than 2,000 bytes are free. The next message has 4,000, and the one after it does not overtake it.
    consumer.is_quiet().await;
    // Each acknowledgement allows at least one more delivery, in the order of the queue. How many more depends on the
    // prefetch, which is adapted to the sizes of earlier messages.
    consumer.ack(&[outstanding[0].delivery_id]).await;
    let third = consumer.one().await;
    assert_eq!(third.message.as_ref().unwrap().body.len(), 4_000);
    consumer.ack(&[outstanding[1].delivery_id]).await;
    assert_eq!(consumer.one().await.message.unwrap().body.len(), 1_000);
    consumer.ack(&[third.delivery_id]).await;
    assert_eq!(consumer.one().await.message.unwrap().body.len(), 4_000);
}

#[tokio::test]
async fn the_byte_window_counts_headers() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let header = pb::Value { kind: Some(pb::value::Kind::StringValue("x".repeat(4_000))) };
    for body in 0..4 {
        let mut publication = to_queue("jobs", body.to_string());
        publication.message.as_mut().unwrap().headers.insert("large".into(), header.clone());
        tenant.publish(publication).await;
    }
    let window = SubscribeStart { max_outstanding_bytes: 10_000, ..start("jobs") };
    let mut consumer = RawSubscription::open(&tenant.client, window).await;
    let outstanding = consumer.take(2).await;
    consumer.is_quiet().await;
    consumer.ack(&ids(&outstanding)).await;
    assert_eq!(bodies(&consumer.take(2).await), ["2", "3"]);
}

#[tokio::test]
async fn messages_beyond_the_window_of_a_subscriber_go_to_others() {
    for kind in [QueueType::Quorum, QueueType::Classic] {
        let tenant = sized(kind, &[2_000_000; 60]).await;
        let mut slow = RawSubscription::open(&tenant.client, start("jobs")).await;
        // Of 16 MiB.
        let outstanding = slow.take(8).await;
        let second = tokio::time::timeout(Duration::from_secs(60), async {
            let mut quick = RawSubscription::open(&tenant.client, start("jobs")).await;
            let mut got = Vec::new();
            while got.len() < 52 {
                let delivery = quick.one().await;
                quick.ack(&[delivery.delivery_id]).await;
                got.push(delivery.message.unwrap().body[0]);
            }
            (quick, got)
        });
        let (quick, got) = second.await.expect("everything beyond the first subscriber's window");
        assert_eq!(got, (0..52).map(|number| b'0' + 8 + number).collect::<Vec<_>>(), "in the queue's order");
        slow.is_quiet().await;
        slow.ack(&ids(&outstanding)).await;
        slow.close().await;
        quick.close().await;
        assert_eq!(tenant.depth("jobs").await, 0);
    }
}

#[tokio::test]
async fn a_slow_subscriber_gets_all_messages_in_order_within_its_byte_window() {
    for (kind, single) in [(QueueType::Quorum, false), (QueueType::Quorum, true), (QueueType::Stream, false)] {
        let tenant = Tenant::fresh().await;
        let queue = pb::Queue {
            name: "jobs".into(),
            r#type: kind.into(),
            single_active_consumer: single,
            ..Default::default()
        };
        tenant.queue_of(queue).await;
        for number in 0..40_u8 {
            tenant.publish_to("jobs", vec![number; 3_000]).await;
        }
        let position = (kind == QueueType::Stream)
            .then(|| pb::StreamPosition { position: Some(pb::stream_position::Position::First(Default::default())) });
        let window = SubscribeStart { max_outstanding_bytes: 10_000, position, ..start("jobs") };
        let mut consumer = RawSubscription::open(&tenant.client, window).await;
        // It acknowledges one message only when it has three, so it always waits for the third.
        let (mut got, mut outstanding) = (Vec::new(), VecDeque::new());
        while got.len() < 40 {
            let delivery = consumer.one().await;
            got.push(delivery.message.unwrap().body[0]);
            outstanding.push_back(delivery.delivery_id);
            if outstanding.len() == 3 {
                consumer.is_quiet().await;
                consumer.ack(&[outstanding.pop_front().unwrap()]).await;
            }
        }
        assert_eq!(got, (0..40).collect::<Vec<_>>(), "{kind:?} {single}");
        consumer.close().await;
    }
}

#[tokio::test]
async fn small_messages_fill_a_large_message_window() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    for first in [0, 1_000] {
        let batch = (first..first + 1_000).map(|number: u32| to_queue("jobs", number.to_string())).collect();
        assert!(tenant.outcomes(batch).await.iter().all(|outcome| *outcome == Outcome::Confirmed));
    }
    for window in [256, 1_500] {
        let window_of_messages = SubscribeStart { max_outstanding_messages: window, ..start("jobs") };
        let mut consumer = RawSubscription::open(&tenant.client, window_of_messages).await;
        let outstanding = consumer.take(window as usize).await;
        let expected: Vec<_> = (0..window).map(|number| number.to_string()).collect();
        assert_eq!(bodies(&outstanding), expected);
        consumer.is_quiet().await;
        // In order and unsettled, so they are redelivered in order.
        consumer.close().await;
        tenant.has_depth("jobs", 2_000).await;
    }
}

#[tokio::test]
async fn a_message_larger_than_the_byte_window_is_delivered_alone() {
    let tenant = sized(QueueType::Quorum, &[10, 5_000, 10]).await;
    let window = SubscribeStart { max_outstanding_bytes: 1_000, ..start("jobs") };
    let mut consumer = RawSubscription::open(&tenant.client, window).await;
    let small = consumer.one().await;
    consumer.is_quiet().await;
    consumer.ack(&[small.delivery_id]).await;
    let large = consumer.one().await;
    assert_eq!(large.message.unwrap().body.len(), 5_000);
    consumer.is_quiet().await;
    consumer.ack(&[large.delivery_id]).await;
    let last = consumer.one().await;
    assert_eq!(last.message.unwrap().body.len(), 10);
}

#[tokio::test]
async fn large_messages_within_the_window_are_all_delivered() {
    // Larger than the messages that the gateway puts into one frame.
    let tenant = sized(QueueType::Classic, &[3 << 20, 10, 2 << 20, 2 << 20]).await;
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    let sizes = consumer.take(4).await.into_iter().map(|d| d.message.unwrap().body.len()).collect::<Vec<_>>();
    assert_eq!(sizes, [3 << 20, 10, 2 << 20, 2 << 20]);
}

#[tokio::test]
async fn after_a_lease_expires_the_message_goes_to_another_consumer() {
    let tenant = sized(QueueType::Quorum, &[1, 1]).await;
    let mut slow = RawSubscription::open(&tenant.client, leased(2)).await;
    let begun = Instant::now();
    let outstanding = slow.take(2).await;
    assert!(outstanding.iter().all(|delivery| {
        let expires = SystemTime::try_from(delivery.lease_expires.unwrap()).unwrap();
        let left = expires.duration_since(SystemTime::now()).unwrap();
        left > LEASE / 2 && left <= LEASE
    }));
    let mut quick = RawSubscription::open(&tenant.client, start("jobs")).await;
    slow.ack(&[outstanding[0].delivery_id]).await;
    let again = quick.one().await;
    assert!(begun.elapsed() > LEASE - Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!((again.message.as_ref(), again.attempt), (outstanding[1].message.as_ref(), 2));
    assert_eq!(slow.settled().await.expired_delivery_ids, [outstanding[1].delivery_id]);
    // After the lease has expired.
    slow.ack(&[outstanding[1].delivery_id]).await;
    assert_eq!(slow.settled().await.unknown_delivery_ids, [outstanding[1].delivery_id]);
    quick.ack(&[again.delivery_id]).await;
    quick.close().await;
    slow.close().await;
    assert_eq!(tenant.depth("jobs").await, 0);
}

#[tokio::test]
async fn an_extended_lease_ends_later_than_one_that_was_not_extended() {
    let tenant = sized(QueueType::Quorum, &[1, 1]).await;
    let mut consumer = RawSubscription::open(&tenant.client, leased(2)).await;
    let outstanding = ids(&consumer.take(2).await);
    let ack_deadline = Some(Duration::from_secs(60).try_into().unwrap());
    consumer.send(Frame::ExtendLease(ExtendLease { delivery_ids: vec![outstanding[0]], ack_deadline })).await;
    // The other message is redelivered to the only consumer; the report and the delivery may come in any order.
    let (mut expired, mut again) = (Vec::new(), Vec::new());
    while expired.is_empty() || again.is_empty() {
        match consumer.event().await.unwrap() {
            Some(pb::subscribe_response::Event::Settled(report)) => expired = report.expired_delivery_ids,
            Some(pb::subscribe_response::Event::Deliveries(frame)) => again = frame.deliveries,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(expired, [outstanding[1]]);
    assert_eq!(bodies(&again), ["1"]);
    consumer.ack(&[outstanding[0], again[0].delivery_id]).await;
    consumer.is_quiet().await;
    consumer.close().await;
    assert_eq!(tenant.depth("jobs").await, 0);
}

#[tokio::test]
async fn a_full_window_does_not_hide_that_the_queue_was_deleted() {
    for kind in [QueueType::Quorum, QueueType::Classic] {
        let tenant = sized(kind, &[1, 1, 1]).await;
        let window = SubscribeStart { max_outstanding_messages: 2, ..start("jobs") };
        let mut consumer = RawSubscription::open(&tenant.client, window).await;
        consumer.take(2).await;
        let request = DeleteQueueRequest { name: "jobs".into(), ..DeleteQueueRequest::default() };
        tenant.client.topology().delete_queue(request).await.unwrap();
        let status = consumer.failure().await;
        assert_eq!(status.code(), tonic::Code::NotFound, "{status}");
        assert!(status.message().contains("was deleted"), "{status}");
    }
}
