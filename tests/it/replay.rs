//! Stream queues: reading from any position, repeatedly.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tonic::Code;
use warrengate::pb::{
    self, NackAction, QueueType, StreamFirst, StreamLast, StreamNext, StreamPosition, SubscribeStart,
    stream_position::Position,
};

use crate::harness::{
    Tenant,
    consumer::{RawSubscription, bodies, ids, start},
    wait::until,
};

fn from(position: Position) -> SubscribeStart {
    SubscribeStart { position: Some(StreamPosition { position: Some(position) }), ..start("log") }
}

/// A tenant with a stream queue of this many messages, each in a separate chunk, since each was confirmed before the
/// next.
async fn log_of(messages: usize) -> Tenant {
    let tenant = Tenant::fresh().await;
    tenant.queue_typed("log", QueueType::Stream).await;
    for n in 0..messages {
        tenant.publish_to("log", n.to_string()).await;
    }
    tenant
}

/// Reads this many messages from a position; returns their offsets and bodies.
async fn read(tenant: &Tenant, position: Position, count: usize) -> Vec<(u64, String)> {
    let mut reader = RawSubscription::open(&tenant.client, from(position)).await;
    let read = reader.take(count).await;
    reader.is_quiet().await;
    reader.close().await;
    let offsets = read.iter().map(|delivery| delivery.stream_offset.expect("a stream has offsets"));
    offsets.zip(bodies(&read)).collect()
}

fn numbers(range: std::ops::Range<u64>) -> Vec<(u64, String)> {
    range.map(|n| (n, n.to_string())).collect()
}

#[tokio::test]
async fn a_stream_is_read_from_the_first_message_again_and_again() {
    let tenant = log_of(20).await;
    for _ in 0..2 {
        assert_eq!(read(&tenant, Position::First(StreamFirst {}), 20).await, numbers(0..20));
    }
}

#[tokio::test]
async fn a_stream_is_read_from_an_offset() {
    let tenant = log_of(20).await;
    assert_eq!(read(&tenant, Position::Offset(15), 5).await, numbers(15..20));
}

#[tokio::test]
async fn a_stream_is_read_from_an_offset_in_the_middle_of_a_chunk() {
    let tenant = log_of(0).await;
    let all = (0..100).map(|n: u64| crate::harness::to_queue("log", n.to_string())).collect();
    assert_eq!(tenant.outcomes(all).await, [pb::Outcome::Confirmed; 100]);
    assert_eq!(read(&tenant, Position::Offset(42), 58).await, numbers(42..100));
}

#[tokio::test]
async fn a_stream_is_read_from_its_last_chunk() {
    let tenant = log_of(20).await;
    assert_eq!(read(&tenant, Position::Last(StreamLast {}), 1).await, numbers(19..20));
}

#[tokio::test]
async fn a_stream_is_read_from_now_on() {
    let tenant = log_of(3).await;
    // The default is the same.
    let mut next = RawSubscription::open(&tenant.client, from(Position::Next(StreamNext {}))).await;
    let mut default = RawSubscription::open(&tenant.client, start("log")).await;
    tenant.publish_to("log", "3").await;
    for reader in [&mut next, &mut default] {
        let delivery = reader.one().await;
        assert_eq!(delivery.stream_offset, Some(3));
        assert_eq!(bodies(&[delivery]), ["3"]);
    }
}

#[tokio::test]
async fn a_stream_is_read_from_a_time() {
    let tenant = log_of(3).await;
    // A later second of the clock: what was written before it is not read.
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let later = now().as_secs() + 1;
    until("the clock's next second", async || (now() > Duration::from_secs(later)).then_some(())).await;
    for n in 3..6 {
        tenant.publish_to("log", n.to_string()).await;
    }
    let time = |seconds: u64| Position::Timestamp(prost_types::Timestamp { seconds: seconds as i64, nanos: 0 });
    assert_eq!(read(&tenant, time(later), 3).await, numbers(3..6));
    assert_eq!(read(&tenant, time(0), 6).await, numbers(0..6));
}

#[tokio::test]
async fn offsets_are_contiguous_whatever_the_window_and_the_settlements() {
    const MESSAGES: u64 = 1_000;
    let tenant = log_of(0).await;
    let all = (0..MESSAGES).map(|n| crate::harness::to_queue("log", n.to_string())).collect();
    assert_eq!(tenant.outcomes(all).await, [pb::Outcome::Confirmed; MESSAGES as usize]);
    let window = SubscribeStart { max_outstanding_messages: 7, ..from(Position::First(StreamFirst {})) };
    let mut reader = RawSubscription::open(&tenant.client, window).await;
    for expected in 0..MESSAGES {
        let delivery = reader.one().await;
        assert_eq!((delivery.stream_offset, delivery.attempt, delivery.redelivered), (Some(expected), 1, false));
        match expected % 2 {
            0 => reader.ack(&[delivery.delivery_id]).await,
            _ => reader.nack(&[delivery.delivery_id], NackAction::Drop).await,
        }
    }
    reader.is_quiet().await;
}

#[tokio::test]
async fn a_stream_queue_refuses_retries_with_a_reason() {
    let tenant = log_of(1).await;
    for action in [NackAction::Retry, NackAction::DeadLetter] {
        let mut reader = RawSubscription::open(&tenant.client, from(Position::First(StreamFirst {}))).await;
        let delivery = reader.one().await;
        reader.nack(&[delivery.delivery_id], action).await;
        let status = reader.failure().await;
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("a stream queue keeps every message"), "{status}");
    }
    assert_eq!(read(&tenant, Position::First(StreamFirst {}), 1).await, numbers(0..1));
}

#[tokio::test]
async fn a_position_is_refused_for_other_queues() {
    let tenant = Tenant::fresh().await;
    for kind in [QueueType::Quorum, QueueType::Classic] {
        let queue = format!("{kind:?}");
        tenant.queue_typed(&queue, kind).await;
        let asked = SubscribeStart { queue: queue.clone(), ..from(Position::First(StreamFirst {})) };
        let status = RawSubscription::try_open(&tenant.client, asked).await.err().expect("refused");
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("is not a stream queue"), "{status}");
    }
}

#[tokio::test]
async fn closing_a_reader_with_unsettled_messages_does_not_affect_other_readers() {
    let tenant = log_of(50).await;
    tenant.queue("jobs").await;
    let mut other = RawSubscription::open(&tenant.client, start("jobs")).await;
    let first = || from(Position::First(StreamFirst {}));
    for taken in [0, 1, 10] {
        let window = SubscribeStart { max_outstanding_messages: 10, ..first() };
        let mut reader = RawSubscription::open(&tenant.client, window).await;
        reader.take(taken).await;
        reader.close().await;
    }
    // Without a position, the gateway learns only from the broker what type of queue it is.
    let reader = RawSubscription::open(&tenant.client, start("log")).await;
    tenant.publish_to("log", "50").await;
    reader.close().await;
    tenant.publish_to("jobs", "still here").await;
    assert_eq!(bodies(&other.take(1).await), ["still here"]);
}

#[tokio::test]
async fn a_lease_that_expires_in_a_stream_queue_is_reported_and_has_no_other_effect() {
    let tenant = log_of(2).await;
    tenant.queue("jobs").await;
    let mut other = RawSubscription::open(&tenant.client, start("jobs")).await;
    let ack_deadline = Some(Duration::from_secs(10).try_into().unwrap());
    let leased = SubscribeStart { ack_deadline, ..from(Position::First(StreamFirst {})) };
    let mut reader = RawSubscription::open(&tenant.client, leased).await;
    let taken = ids(&reader.take(2).await);
    // Delivered in two batches, they have two leases and two reports.
    let mut expired = Vec::new();
    while expired.len() < taken.len() {
        expired.extend(reader.settled().await.expired_delivery_ids);
    }
    assert_eq!(expired, taken);
    reader.is_quiet().await;
    tenant.publish_to("log", "2").await;
    assert_eq!(bodies(&reader.take(1).await), ["2"]);
    tenant.publish_to("jobs", "still here").await;
    assert_eq!(bodies(&other.take(1).await), ["still here"]);
}
