//! Peeking: the first messages of a queue are returned and stay there, with their order and attempts.

use tonic::{Code, Status};
use warrengate::pb::{self, NackAction, QueueType};

use crate::harness::{
    SharedStack, Tenant,
    consumer::{RawSubscription, ids, start},
    raw::{field, reason},
    tenant::all_grants,
    to_queue,
    wait::within,
};

async fn peek(tenant: &Tenant, request: pb::PeekMessagesRequest) -> Result<pb::PeekMessagesResponse, Status> {
    Ok(within("a peek", tenant.client.topology().peek_messages(request)).await?.into_inner())
}

fn first(queue: &str, max_messages: i32) -> pb::PeekMessagesRequest {
    pb::PeekMessagesRequest { queue: queue.into(), max_messages, ..Default::default() }
}

fn bodies(peeked: &pb::PeekMessagesResponse) -> Vec<String> {
    let body = |m: &pb::PeekedMessage| String::from_utf8(m.message.clone().unwrap().body.to_vec()).unwrap();
    peeked.messages.iter().map(body).collect()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

async fn publish_numbers(tenant: &Tenant, queue: &str, count: usize) {
    let all: Vec<_> = numbers(0..count).into_iter().map(|n| to_queue(queue, n)).collect();
    let outcomes = tenant.outcomes(all).await;
    assert!(outcomes.iter().all(|outcome| *outcome == pb::Outcome::Confirmed), "{outcomes:?}");
}

#[tokio::test]
async fn peeked_messages_stay_in_their_queue_in_the_same_order() {
    let tenant = Tenant::fresh().await;
    for (name, kind) in [("quorum", QueueType::Quorum), ("classic", QueueType::Classic)] {
        tenant.queue_typed(name, kind).await;
        publish_numbers(&tenant, name, 120).await;
        for round in 0..3 {
            let peeked = peek(&tenant, first(name, 100)).await.unwrap();
            assert_eq!(bodies(&peeked), numbers(0..100), "{name}, round {round}");
            assert!(peeked.has_more);
            assert!(peeked.messages.iter().all(|m| m.attempt == 1 && m.stream_offset.is_none()));
            assert!(peeked.messages.iter().all(|m| m.redelivered == (round > 0)), "{name}, round {round}");
            assert_eq!(peeked.messages[0].routing_key, name);
        }
        tenant.has_depth(name, 120).await;
        let taken = tenant.take(name, 120).await;
        assert_eq!(taken, numbers(0..120), "in queue {name}");
        let peeked = peek(&tenant, first(name, 0)).await.unwrap();
        assert!(peeked.messages.is_empty() && !peeked.has_more);
    }
}

#[tokio::test]
async fn peeking_uses_up_no_attempt_and_shows_the_attempts_of_others() {
    let tenant = Tenant::fresh().await;
    tenant.queue_of(pb::Queue { name: "jobs".into(), max_delivery_attempts: 2, ..Default::default() }).await;
    tenant.publish_to("jobs", "work").await;
    for _ in 0..5 {
        // The broker counts a message that was returned as ready a moment later.
        tenant.has_depth("jobs", 1).await;
        assert_eq!(peek(&tenant, first("jobs", 1)).await.unwrap().messages[0].attempt, 1);
    }
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    let delivery = consumer.take(1).await.remove(0);
    assert_eq!(delivery.attempt, 1);
    consumer.nack(&[delivery.delivery_id], NackAction::Retry).await;
    consumer.close().await;
    tenant.has_depth("jobs", 1).await;
    let peeked = peek(&tenant, first("jobs", 1)).await.unwrap().messages.remove(0);
    assert_eq!((peeked.attempt, peeked.routing_key.as_str(), peeked.exchange.as_str()), (2, "jobs", ""));
    // The second attempt is the last one: a peek that counted would have moved the message to the dead letters.
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    let delivery = consumer.take(1).await;
    assert_eq!(delivery[0].attempt, 2);
    consumer.ack(&ids(&delivery)).await;
    consumer.close().await;
}

#[tokio::test]
async fn a_stream_queue_is_read_from_its_first_message_or_an_offset() {
    let tenant = Tenant::fresh().await;
    tenant.queue_typed("log", QueueType::Stream).await;
    assert!(peek(&tenant, first("log", 10)).await.unwrap().messages.is_empty());
    publish_numbers(&tenant, "log", 30).await;
    let peeked = peek(&tenant, first("log", 5)).await.unwrap();
    assert_eq!(bodies(&peeked), numbers(0..5));
    assert!(peeked.has_more && peeked.messages[4].stream_offset == Some(4));
    let later = pb::PeekMessagesRequest { stream_offset: Some(27), ..first("log", 100) };
    let peeked = peek(&tenant, later).await.unwrap();
    assert_eq!(bodies(&peeked), numbers(27..30));
    assert!(!peeked.has_more);
}

#[tokio::test]
async fn a_page_of_large_messages_fits_into_an_answer_and_bodies_can_be_truncated() {
    let tenant = Tenant::fresh().await;
    tenant.queue("large").await;
    let publications = (0..4).map(|_| to_queue("large", vec![b'x'; 1_500_000])).collect();
    tenant.outcomes(publications).await;
    let peeked = peek(&tenant, first("large", 10)).await.unwrap();
    assert_eq!((peeked.messages.len(), peeked.has_more), (2, true));
    let short = pb::PeekMessagesRequest { max_body_bytes: 100, ..first("large", 10) };
    let peeked = peek(&tenant, short).await.unwrap();
    assert_eq!((peeked.messages.len(), peeked.has_more), (4, false));
    for message in peeked.messages {
        assert_eq!((message.message.unwrap().body.len(), message.body_bytes), (100, 1_500_000));
    }
    tenant.has_depth("large", 4).await;
}

#[tokio::test]
async fn a_peek_without_the_grant_or_of_a_queue_that_does_not_support_it_is_refused() {
    let (tenant, world) = (Tenant::fresh().await, SharedStack::get());
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "work").await;
    let single = pb::Queue { name: "single".into(), single_active_consumer: true, ..Default::default() };
    tenant.queue_of(single).await;
    let grants = pb::Grants { subscribe: vec!["mine".into()], ..all_grants() };
    let (id, secret) = Tenant::add_client(&world.admin().await, &tenant.id, "narrow", grants).await;
    let narrow = world.client(&id, &secret).await;
    let denied = narrow.topology().peek_messages(first("jobs", 1)).await.expect_err("not granted");
    assert_eq!((denied.code(), reason(&denied).as_str()), (Code::PermissionDenied, "SUBSCRIBE_NOT_GRANTED"));
    tenant.publish_to("single", "work").await;
    assert_eq!(bodies(&peek(&tenant, first("single", 1)).await.unwrap()), ["work"], "it has no consumer");
    let consumer = RawSubscription::open(&tenant.client, start("single")).await;
    let refused = peek(&tenant, first("single", 1)).await.expect_err("it has a consumer");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "EXCLUSIVE_CONSUMER"));
    consumer.close().await;
    let missing = peek(&tenant, first("missing", 1)).await.expect_err("missing");
    assert_eq!((missing.code(), reason(&missing).as_str()), (Code::NotFound, "QUEUE_NOT_FOUND"));
    for (request, named) in [
        (first("jobs", 101), "max_messages"),
        (first("jobs", -1), "max_messages"),
        (pb::PeekMessagesRequest { stream_offset: Some(1), ..first("jobs", 1) }, "stream_offset"),
        (first("wg.dead-letters", 1), "queue"),
    ] {
        let refused = peek(&tenant, request).await.expect_err(named);
        assert_eq!((refused.code(), field(&refused).as_str()), (Code::InvalidArgument, named));
    }
    // Another tenant's queue of the same name is another queue.
    let other = Tenant::fresh().await;
    other.queue("jobs").await;
    assert!(peek(&other, first("jobs", 1)).await.unwrap().messages.is_empty());
}
