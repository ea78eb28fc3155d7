//! Acknowledgements, negative acknowledgements and lease extensions, and their effects.

use std::time::{Duration, Instant};

use prost::Message as _;
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;
use warrengate::{
    client::{Event, SubscribeOptions},
    pb::{self, Ack, ExtendLease, NackAction, QueueType, SubscribeStart, subscribe_request::Frame},
};

use crate::harness::{
    SharedStack, Tenant,
    consumer::{RawSubscription, bodies, ids, start},
    plans::OwnPlan,
    proxy::Proxy,
    raw::tls_to,
    wait::within,
};

/// A tenant with a queue of `messages` messages, numbered from 0.
async fn jobs(kind: QueueType, messages: usize) -> Tenant {
    let tenant = Tenant::fresh().await;
    tenant.queue_typed("jobs", kind).await;
    let all: Vec<_> = (0..messages).map(|n| crate::harness::to_queue("jobs", n.to_string())).collect();
    if !all.is_empty() {
        assert_eq!(tenant.outcomes(all).await, vec![pb::Outcome::Confirmed; messages]);
    }
    tenant
}

#[tokio::test]
async fn id_lists_and_through_settle_in_any_order() {
    for kind in [QueueType::Quorum, QueueType::Classic] {
        let tenant = jobs(kind, 10).await;
        let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
        let outstanding = ids(&consumer.take(10).await);
        consumer.ack(&[outstanding[7], outstanding[2]]).await;
        consumer.ack_through(outstanding[3]).await;
        consumer.ack(&[outstanding[9]]).await;
        consumer.send(Frame::Ack(Ack { delivery_ids: vec![outstanding[8]], through: outstanding[4] })).await;
        // All of these are unknown now, and nothing else was settled.
        consumer.ack(&[outstanding[0], outstanding[9], outstanding[4], outstanding[7]]).await;
        assert_eq!(
            consumer.settled().await.unknown_delivery_ids,
            [outstanding[0], outstanding[9], outstanding[4], outstanding[7]]
        );
        consumer.close().await;
        tenant.holds("jobs", &["5", "6"]).await;
    }
}

/// HTTP/2 frames (RFC 9113, section 6) as far as one call needs them.
fn http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal header that is not in a table (RFC 7541, section 6.2.2).
fn http2_header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| match text.len() {
        short @ ..127 => [&[u8::try_from(short).unwrap()][..], text.as_bytes()].concat(),
        long => {
            let rest = long - 127;
            let length = [127, u8::try_from(rest % 128).unwrap() | 128, u8::try_from(rest / 128).unwrap()];
            [&length[..], text.as_bytes()].concat()
        }
    };
    [vec![0], text(name), text(value)].concat()
}

/// Subscribes, receives one delivery, and cancels like a gRPC library: RST_STREAM with CANCEL, without closing the
/// sending side. The connection stays open.
async fn take_one_and_cancel(token: &str) -> (u32, impl Sized) {
    let shared = SharedStack::get();
    let mut connection =
        tls_to(shared.stack.endpoint().trim_start_matches("https://").parse().unwrap(), &shared.stack.gateway_ca())
            .await;
    let authorization = format!("Bearer {token}");
    let headers = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/warrengate.v1.Messaging/Subscribe"),
        (":authority", "gateway"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", authorization.as_str()),
    ];
    let headers: Vec<u8> = headers.iter().flat_map(|(name, value)| http2_header(name, value)).collect();
    let request = pb::SubscribeRequest { frame: Some(Frame::Start(start("jobs"))) }.encode_to_vec();
    let length = u32::try_from(request.len()).unwrap().to_be_bytes();
    let message = [&[0][..], &length[..], &request[..]].concat();
    let (data, headers_frame, reset, settings, end_headers) = (0, 1, 3, 4, 4);
    let call = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        http2_frame(settings, 0, 0, &[]),
        http2_frame(headers_frame, end_headers, 1, &headers),
        http2_frame(data, 0, 1, &message),
    ];
    connection.write_all(&call.concat()).await.unwrap();
    let attempt = within("a delivery", async {
        let mut received = Vec::new();
        loop {
            let mut head = [0; 9];
            connection.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
            connection.read_exact(&mut payload).await.unwrap();
            if head[3] == data {
                received.extend(payload);
            }
            while let Some(length) = received.get(1..5).map(|length| u32::from_be_bytes(length.try_into().unwrap()))
                && received.len() >= 5 + length as usize
            {
                let message: Vec<_> = received.drain(..5 + length as usize).skip(5).collect();
                let response = pb::SubscribeResponse::decode(&message[..]).unwrap();
                if let Some(pb::subscribe_response::Event::Deliveries(frame)) = response.event {
                    return frame.deliveries[0].attempt;
                }
            }
        }
    })
    .await;
    connection.write_all(&http2_frame(reset, 0, 1, &8_u32.to_be_bytes())).await.unwrap();
    (attempt, connection)
}

#[tokio::test]
async fn a_cancelled_call_counts_as_an_attempt_and_a_half_close_does_not() {
    let tenant = jobs(QueueType::Quorum, 1).await;
    let token = tenant.client.token().await.unwrap().unwrap();
    let mut connections = Vec::new();
    for expected in 1..=6 {
        let (attempt, connection) = take_one_and_cancel(token.secret().expose_secret()).await;
        connections.push(connection);
        assert_eq!(attempt, expected);
    }
    for _ in 0..3 {
        let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
        assert_eq!(consumer.one().await.attempt, 7);
        consumer.close().await;
    }
}

#[tokio::test]
async fn retries_count_towards_the_rates_of_the_plan() {
    let limits = pb::Plan { max_publish_messages_per_second: 20, publish_messages_burst: 20, ..Default::default() };
    let tenant = OwnPlan::of(limits).await.tenant().await;
    tenant.queue_of(pb::Queue { name: "jobs".into(), max_delivery_attempts: 100, ..Default::default() }).await;
    tenant.publish_to("jobs", "again").await;
    let (begun, mut attempts) = (Instant::now(), 0);
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    while attempts < 60 {
        let delivery = consumer.one().await;
        attempts = delivery.attempt;
        consumer.retry(&[delivery.delivery_id], Duration::ZERO).await;
    }
    // The burst allows 19 in addition to the first publication.
    assert!(begun.elapsed() >= Duration::from_millis(1_900), "59 retries at 20 a second took {:?}", begun.elapsed());
}

#[tokio::test]
async fn acknowledging_through_a_delivery_reports_no_unknown_ids() {
    let tenant = jobs(QueueType::Quorum, 3).await;
    let mut subscription = tenant.client.subscribe(SubscribeOptions::queue("jobs")).await.unwrap();
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(within("a delivery", subscription.next()).await.unwrap().unwrap());
    }
    subscription.settler().ack_through(&taken[2]).unwrap();
    // This one is reported: the delivery does not exist any more.
    subscription.extend(&taken[0], None).unwrap();
    match within("a report", subscription.next_event()).await.unwrap().unwrap() {
        Event::Settled(settled) => assert_eq!(settled.unknown_delivery_ids, [taken[0].id()]),
        other => panic!("{other:?}"),
    }
    subscription.close().await.unwrap();
    assert_eq!(tenant.depth("jobs").await, 0);
}

#[tokio::test]
async fn unknown_ids_are_reported_and_have_no_effect() {
    let tenant = jobs(QueueType::Quorum, 1).await;
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    let outstanding = consumer.one().await.delivery_id;
    consumer.ack(&[outstanding + 1, 0, u64::MAX]).await;
    assert_eq!(consumer.settled().await.unknown_delivery_ids, [outstanding + 1, 0, u64::MAX]);
    consumer.ack_through(outstanding + 1).await;
    assert_eq!(consumer.settled().await.unknown_delivery_ids, [outstanding + 1]);
    consumer.nack(&[77], NackAction::DeadLetter).await;
    assert_eq!(consumer.settled().await.unknown_delivery_ids, [77]);
    consumer.send(Frame::ExtendLease(ExtendLease { delivery_ids: vec![78], ack_deadline: None })).await;
    assert_eq!(consumer.settled().await.unknown_delivery_ids, [78]);
    consumer.ack(&[outstanding, outstanding]).await;
    assert_eq!(consumer.settled().await.unknown_delivery_ids, [outstanding]);
    consumer.close().await;
    assert_eq!(tenant.depth("jobs").await, 0);
}

#[tokio::test]
async fn ids_of_another_stream_have_no_effect() {
    let tenant = jobs(QueueType::Quorum, 2).await;
    let window = || SubscribeStart { max_outstanding_messages: 1, ..start("jobs") };
    let mut one = RawSubscription::open(&tenant.client, window()).await;
    let mut other = RawSubscription::open(&tenant.client, window()).await;
    let (mine, theirs) = (one.one().await, other.one().await);
    // Both streams number from 1, so the id means this stream's own delivery.
    assert_eq!((mine.delivery_id, theirs.delivery_id), (1, 1));
    one.ack(&[1]).await;
    one.ack(&[2]).await;
    assert_eq!(one.settled().await.unknown_delivery_ids, [2]);
    other.close().await;
    one.close().await;
    tenant.holds("jobs", &[&bodies(&[theirs])[0]]).await;
}

#[tokio::test]
async fn a_dead_letter_is_kept_and_a_dropped_message_is_not() {
    for kind in [QueueType::Quorum, QueueType::Classic] {
        let tenant = jobs(kind, 3).await;
        let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
        let outstanding = ids(&consumer.take(3).await);
        consumer.nack(&[outstanding[1]], NackAction::Drop).await;
        consumer.nack(&[outstanding[2]], NackAction::DeadLetter).await;
        consumer.retry(&[outstanding[0]], Duration::ZERO).await;
        let dead = tenant.dead_letter().await;
        assert_eq!((dead.queue.as_str(), dead.code.as_str(), dead.attempts), ("jobs", "rejected", 1));
        assert_eq!(dead.message.unwrap().body, "2");
        assert_eq!(bodies(&consumer.take(1).await), ["0"]);
        consumer.is_quiet().await;
        consumer.close().await;
        tenant.holds("jobs", &["0"]).await;
        assert_eq!(tenant.dead_letters().await.len(), 1);
    }
}

#[tokio::test]
async fn closing_returns_the_rest_without_counting_an_attempt() {
    for kind in [QueueType::Quorum, QueueType::Classic] {
        let tenant = jobs(kind, 5).await;
        for _ in 1..=3 {
            let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
            let outstanding = consumer.take(5).await;
            assert!(outstanding.iter().all(|delivery| delivery.attempt == 1), "{outstanding:?}");
            assert_eq!(bodies(&outstanding), ["0", "1", "2", "3", "4"]);
            consumer.close().await;
            tenant.has_depth("jobs", 5).await;
        }
    }
}

#[tokio::test]
async fn messages_of_a_disconnected_client_are_redelivered_as_the_next_attempt() {
    let tenant = jobs(QueueType::Quorum, 5).await;
    let road = Proxy::to(SharedStack::get().stack.gateway().grpc_address().port()).await;
    let client = tenant.client_through(&road).await;
    let mut disconnected = RawSubscription::open(&client, start("jobs")).await;
    assert_eq!(disconnected.take(5).await.len(), 5);
    // Its machine fails, so nothing is sent.
    road.cut();
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    let again = consumer.take(5).await;
    assert!(again.iter().all(|delivery| delivery.attempt == 2 && delivery.redelivered), "{again:?}");
    let mut outstanding = bodies(&again);
    outstanding.sort();
    assert_eq!(outstanding, ["0", "1", "2", "3", "4"]);
}

#[tokio::test]
async fn with_auto_ack_a_delivery_is_settled_when_it_is_sent() {
    let tenant = jobs(QueueType::Quorum, 100).await;
    let automatic = SubscribeStart { auto_ack: true, max_outstanding_messages: 5, ..start("jobs") };
    let mut consumer = RawSubscription::open(&tenant.client, automatic).await;
    let outstanding = consumer.take(100).await;
    assert!(outstanding.iter().all(|delivery| delivery.lease_expires.is_none()));
    let expected: Vec<_> = (0..100).map(|n: i32| n.to_string()).collect();
    assert_eq!(bodies(&outstanding), expected);
    // Nothing is left to settle.
    consumer.ack(&[outstanding[0].delivery_id]).await;
    assert_eq!(consumer.settled().await.unknown_delivery_ids, [outstanding[0].delivery_id]);
    consumer.close().await;
    assert_eq!(tenant.depth("jobs").await, 0);
}

#[tokio::test]
async fn an_exclusive_consumer_is_alone_or_refused() {
    let tenant = jobs(QueueType::Classic, 0).await;
    let alone = || SubscribeStart { exclusive: true, ..start("jobs") };
    let first = RawSubscription::open(&tenant.client, alone()).await;
    for second in [alone(), start("jobs")] {
        let status = RawSubscription::try_open(&tenant.client, second).await.err().expect("refused");
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("exclusive"), "{status}");
    }
    first.close().await;
    let shared = RawSubscription::open(&tenant.client, start("jobs")).await;
    let status = RawSubscription::try_open(&tenant.client, alone()).await.err().expect("refused");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    shared.close().await;
}

#[tokio::test]
async fn an_exclusive_consumer_of_an_unsupported_queue_is_refused() {
    for kind in [QueueType::Quorum, QueueType::Stream] {
        let tenant = jobs(kind, 0).await;
        let alone = SubscribeStart { exclusive: true, ..start("jobs") };
        let status = RawSubscription::try_open(&tenant.client, alone).await.err().expect("refused");
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("single_active_consumer"), "{status}");
    }
}

#[tokio::test]
async fn a_single_active_consumer_gets_all_messages_until_it_leaves() {
    let tenant = jobs(QueueType::Quorum, 0).await;
    let queue = pb::Queue { name: "one-by-one".into(), single_active_consumer: true, ..pb::Queue::default() };
    tenant.queue_of(queue).await;
    let mut active = RawSubscription::open(&tenant.client, start("one-by-one")).await;
    let mut waiting = RawSubscription::open(&tenant.client, start("one-by-one")).await;
    for n in 0..4 {
        tenant.publish_to("one-by-one", n.to_string()).await;
    }
    let outstanding = active.take(4).await;
    waiting.is_quiet().await;
    active.ack_through(outstanding[1].delivery_id).await;
    active.close().await;
    assert_eq!(bodies(&waiting.take(2).await), ["2", "3"]);
}
