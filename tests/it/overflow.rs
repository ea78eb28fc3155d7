//! Refused messages: full queues, missing or internal exchanges, missing grants, sizes.

use warrengate::{
    client::PublisherOptions,
    pb::{self, ExchangeType, Grants, Outcome, PublishGrant, PublishResult, QueueType},
};

use crate::harness::{SharedStack, Tenant, tenant::all_grants, to_queue, values::to_exchange, wait::within};

async fn batch(tenant: &Tenant, publications: Vec<pb::Publication>) -> Vec<PublishResult> {
    within("a batch", tenant.client.publish_batch(publications)).await.unwrap()
}

#[tokio::test]
async fn a_full_queue_rejects_messages_and_contains_exactly_the_confirmed_ones() {
    const LIMIT: u64 = 10;
    const WINDOW: u64 = 100;
    for kind in [QueueType::Quorum, QueueType::Classic] {
        let tenant = Tenant::fresh().await;
        let queue = pb::Queue { name: "small".into(), r#type: kind.into(), max_length: LIMIT, ..pb::Queue::default() };
        tenant.queue_of(queue).await;
        let options = PublisherOptions::default().max_in_flight_messages(WINDOW as usize);
        let publisher = tenant.client.publisher_with(options);
        let mut receipts = Vec::new();
        for n in 0..3_000 {
            receipts.push(publisher.send(to_queue("small", n.to_string())).await.unwrap());
        }
        publisher.close().await.unwrap();
        let mut confirmed = 0;
        for receipt in receipts {
            let result: PublishResult = within("an outcome", receipt).await;
            match result.outcome() {
                Outcome::Confirmed => confirmed += 1,
                Outcome::Rejected => {
                    assert!(result.reason.starts_with("BROKER_REJECTED: "), "{}", result.reason);
                    assert!(result.reason.contains("a queue is at its limit"), "{}", result.reason);
                }
                other => panic!("{other:?}: {result:?}"),
            }
        }
        // The broker reports a full queue to publishers with a delay, so it may still accept messages in flight.
        assert!((LIMIT..=LIMIT + WINDOW).contains(&confirmed), "{confirmed} were confirmed");
        tenant.has_depth("small", confirmed).await;
        // The queue has capacity again.
        assert_eq!(tenant.purge("small").await, confirmed);
        tenant.publish_to("small", "again").await;
    }
}

#[tokio::test]
async fn a_missing_exchange_rejects_its_own_messages_only() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.exchange("there", ExchangeType::Fanout).await;
    tenant.bind("there", "jobs", "").await;
    let all = (0..300).map(|n: u32| match n % 3 {
        0 => to_exchange("there", "", n.to_string()),
        1 => to_exchange("missing", "", n.to_string()),
        _ => to_queue("jobs", n.to_string()),
    });
    let results = batch(&tenant, all.collect()).await;
    for (n, result) in results.iter().enumerate() {
        match n % 3 {
            1 => {
                assert_eq!(result.outcome(), Outcome::Rejected, "{result:?}");
                assert!(result.reason.starts_with("EXCHANGE_NOT_FOUND: "), "{}", result.reason);
                assert!(result.reason.contains("\"missing\""), "{}", result.reason);
            }
            _ => assert_eq!(result.outcome(), Outcome::Confirmed, "{result:?}"),
        }
    }
    tenant.has_depth("jobs", 200).await;
}

#[tokio::test]
async fn a_stream_notices_that_an_exchange_was_deleted_and_declared_again() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let publisher = tenant.client.publisher();
    let send = async |body: &'static str| {
        let receipt = publisher.send(to_exchange("mine", "", body)).await.unwrap();
        within("an outcome", receipt).await.outcome()
    };
    assert_eq!(send("before").await, Outcome::Rejected);
    for body in ["one", "two"] {
        tenant.exchange("mine", ExchangeType::Fanout).await;
        tenant.bind("mine", "jobs", "").await;
        assert_eq!(send(body).await, Outcome::Confirmed);
        let request = pb::DeleteExchangeRequest { name: "mine".into(), if_unused: false };
        tenant.client.topology().delete_exchange(request).await.unwrap();
        assert_eq!(send("lost").await, Outcome::Rejected);
    }
    tenant.holds("jobs", &["one", "two"]).await;
}

#[tokio::test]
async fn an_internal_exchange_rejects_clients_and_other_messages_continue() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let internal = pb::Exchange {
        name: "inner".into(),
        r#type: ExchangeType::Fanout.into(),
        internal: true,
        ..pb::Exchange::default()
    };
    tenant.exchange_of(internal).await;
    tenant.bind("inner", "jobs", "").await;
    let all = (0..200).map(|n: u32| match n % 2 {
        0 => to_exchange("inner", "", n.to_string()),
        _ => to_queue("jobs", n.to_string()),
    });
    let results = batch(&tenant, all.collect()).await;
    for (n, result) in results.iter().enumerate() {
        let expected = if n % 2 == 0 { Outcome::Rejected } else { Outcome::Confirmed };
        assert_eq!(result.outcome(), expected, "{result:?}");
    }
    assert!(results[0].reason.starts_with("EXCHANGE_IS_INTERNAL: "), "{}", results[0].reason);
    tenant.has_depth("jobs", 100).await;
}

#[tokio::test]
async fn messages_without_a_grant_are_denied_and_the_others_continue() {
    let tenant = Tenant::fresh().await;
    let shared = SharedStack::get();
    for queue in ["open.one", "closed"] {
        tenant.queue(queue).await;
    }
    tenant.exchange("events", ExchangeType::Topic).await;
    tenant.bind("events", "open.one", "#").await;
    let publish = vec![
        PublishGrant { exchange: "amq.default".into(), routing_key: "open.*".into() },
        PublishGrant { exchange: "events".into(), routing_key: "order.#".into() },
    ];
    let grants = Grants { publish, ..all_grants() };
    let (id, secret) = Tenant::add_client(&shared.admin().await, &tenant.id, "narrow", grants).await;
    let client = shared.client(&id, &secret).await;
    let all = vec![
        to_queue("open.one", "a"),
        to_queue("closed", "b"),
        to_exchange("events", "order.new", "c"),
        to_exchange("events", "invoice.new", "d"),
        to_exchange("missing", "order.new", "e"),
        to_queue("open.one", "f"),
    ];
    let results = within("a batch", client.publish_batch(all)).await.unwrap();
    use Outcome::{Confirmed, Denied};
    let outcomes: Vec<_> = results.iter().map(PublishResult::outcome).collect();
    assert_eq!(outcomes, [Confirmed, Denied, Confirmed, Denied, Denied, Confirmed]);
    assert!(results[3].reason.starts_with("PUBLISH_NOT_GRANTED: "), "{}", results[3].reason);
    tenant.holds("open.one", &["a", "c", "f"]).await;
    tenant.has_depth("closed", 0).await;
}

#[tokio::test]
async fn oversized_or_invalid_messages_are_rejected_with_the_name_of_the_field() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let large = to_queue("jobs", vec![0; 4_000_001]);
    let result = batch(&tenant, vec![large]).await.remove(0);
    assert_eq!(result.outcome(), Outcome::Rejected);
    assert!(result.reason.starts_with("MESSAGE_TOO_LARGE: message.body: "), "{}", result.reason);
    let mut priority = to_queue("jobs", "x");
    priority.message.as_mut().unwrap().priority = 256;
    let mut late = to_queue("jobs", "x");
    late.message.as_mut().unwrap().publish_time = Some(prost_types::Timestamp { seconds: 1_700_000_000_000, nanos: 0 });
    let cases = [
        ("message.publish_time", late),
        ("message.priority", priority),
        ("routing_key", to_exchange("amq.topic", &"k".repeat(256), "x")),
        ("exchange", to_exchange(&"e".repeat(256), "", "x")),
        ("message", pb::Publication { message: None, ..to_queue("jobs", "x") }),
        ("routing_key", to_queue("wg.dead-letters", "x")),
    ];
    for (field, publication) in cases {
        let results = batch(&tenant, vec![publication, to_queue("jobs", "fine")]).await;
        assert_eq!(results[0].outcome(), Outcome::Rejected, "{field}");
        assert!(results[0].reason.contains(&format!(": {field}: ")), "{field}: {}", results[0].reason);
        assert_eq!(results[1].outcome(), Outcome::Confirmed);
    }
    tenant.has_depth("jobs", 6).await;
}
