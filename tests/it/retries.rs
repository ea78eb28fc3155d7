//! Retries: timing, number of attempts, durability, and what does not count as an attempt.

use std::time::{Duration, Instant};

use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use warrengate::{
    client::{Client, ClientOptions, Credentials},
    pb::{self, ExchangeType, NackAction, Outcome, QueueType, SubscribeStart, subscribe_response::Event},
};

use crate::harness::{
    SharedStack, Tenant,
    broker::{Login, amqp, certificate_of, tls},
    consumer::{RawSubscription, bodies, ids, start},
    dead_letters::these,
    dedicated::DedicatedStack,
    proxy::Proxy,
    to_queue,
    values::{headers, text, to_exchange},
    wait::{until, within},
};

/// The delay that a busy machine may add.
const SLACK: Duration = Duration::from_secs(1);

fn policy(min_ms: u64, max_ms: u64, multiplier: f64) -> pb::RetryPolicy {
    pb::RetryPolicy {
        min_backoff: Some(Duration::from_millis(min_ms).try_into().unwrap()),
        max_backoff: Some(Duration::from_millis(max_ms).try_into().unwrap()),
        multiplier: Some(multiplier),
        jitter: Some(0.0),
    }
}

fn queue(name: &str, kind: QueueType, attempts: u32, retry_policy: pb::RetryPolicy) -> pb::Queue {
    pb::Queue {
        name: name.into(),
        r#type: kind.into(),
        max_delivery_attempts: attempts,
        retry_policy: Some(retry_policy),
        ..pb::Queue::default()
    }
}

/// Nacks a delivery; returns the next one and the time until it arrived.
async fn next_attempt(consumer: &mut RawSubscription, id: u64) -> (Duration, pb::Delivery) {
    consumer.nack_with_reason(&[id], NackAction::Retry, "not yet").await;
    let nacked = Instant::now();
    let next = consumer.one().await;
    (nacked.elapsed(), next)
}

#[tokio::test]
async fn a_message_that_is_always_nacked_is_dead_lettered_once_after_all_attempts_and_can_be_redriven() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for kind in [QueueType::Quorum, QueueType::Classic] {
        let tenant = Tenant::fresh().await;
        tenant.queue_of(queue("brittle", kind, 4, policy(500, 10_000, 2.0))).await;
        tenant.queue("other").await;
        tenant.exchange("events", ExchangeType::Topic).await;
        for queue in ["brittle", "other"] {
            tenant.bind("events", queue, "order.*").await;
        }
        let mut poison = to_exchange("events", "order.new", "poison");
        let message = poison.message.as_mut().unwrap();
        message.headers = headers([("traceparent", text(TRACE)), ("mine", text("kept"))]);
        message.message_id = "the-same".into();
        let begun = std::time::SystemTime::now();
        tenant.publish(poison).await;

        let mut consumer = RawSubscription::open(&tenant.client, start("brittle")).await;
        let mut delivery = consumer.one().await;
        for (attempt, expected) in [(2, 500), (3, 1_000), (4, 2_000)] {
            let expected = Duration::from_millis(expected);
            let (took, next) = next_attempt(&mut consumer, delivery.delivery_id).await;
            assert!(took >= expected.mul_f64(0.8), "attempt {attempt} after {took:?} instead of {expected:?}");
            assert!(took <= expected.mul_f64(1.2) + SLACK, "attempt {attempt} after {took:?} instead of {expected:?}");
            eprintln!("{kind:?}: attempt {attempt} came after {took:?}; expected {expected:?}");
            assert_eq!((next.attempt, next.redelivered), (attempt, true));
            assert_eq!((next.exchange.as_str(), next.routing_key.as_str()), ("events", "order.new"));
            let message = next.message.as_ref().unwrap();
            assert_eq!((message.message_id.as_str(), &message.headers["mine"]), ("the-same", &text("kept")));
            let hidden = message.headers.keys().find(|name| name.starts_with("wg.") || name.starts_with("x-"));
            assert_eq!(hidden, None);
            delivery = next;
        }
        consumer.nack_with_reason(&[delivery.delivery_id], NackAction::Retry, "never").await;
        let dead = tenant.dead_letter().await;
        assert_eq!(
            (dead.queue.as_str(), dead.code.as_str(), dead.reason.as_str()),
            ("brittle", "delivery_limit", "never")
        );
        assert_eq!((dead.attempts, dead.redrives), (4, 0));
        assert_eq!((dead.exchange.as_str(), dead.routing_key.as_str()), ("events", "order.new"));
        let message = dead.message.as_ref().unwrap();
        assert_eq!((message.message_id.as_str(), message.body.as_ref()), ("the-same", b"poison".as_slice()));
        // As the producer wrote it; spans of the gateway keep the trace.
        let Some(pb::value::Kind::StringValue(trace)) = &message.headers["traceparent"].kind else {
            panic!("{message:?}")
        };
        assert_eq!(trace[..36], TRACE[..36], "{trace}");
        let time = |time: Option<prost_types::Timestamp>| std::time::SystemTime::try_from(time.unwrap()).unwrap();
        let (first, last, died) = (time(dead.first_failure), time(dead.last_failure), time(dead.died));
        assert!(begun <= first + Duration::from_millis(1) && last == died, "{first:?} {last:?} {died:?}");
        assert!(last.duration_since(first).unwrap() >= Duration::from_millis(3_500), "{first:?} {last:?}");

        // Returned to its queue only, as a first attempt.
        assert_eq!(tenant.redrive(these([&dead])).await.redriven, 1);
        let again = consumer.one().await;
        assert_eq!((again.attempt, bodies(std::slice::from_ref(&again))[0].as_str()), (1, "poison"));
        assert_eq!((again.exchange.as_str(), again.routing_key.as_str()), ("events", "order.new"));
        consumer.ack(&[again.delivery_id]).await;
        consumer.is_quiet().await;
        consumer.close().await;
        assert_eq!(tenant.dead_letters().await, []);
        assert_eq!((tenant.depth("brittle").await, tenant.depth("other").await), (0, 1));
    }
}

#[tokio::test]
async fn a_long_delay_does_not_block_a_short_one() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    for body in ["slow", "quick"] {
        tenant.publish_to("jobs", body).await;
    }
    let outstanding = ids(&consumer.take(2).await);
    let nacked = Instant::now();
    consumer.retry(&[outstanding[0]], Duration::from_secs(5)).await;
    consumer.retry(&[outstanding[1]], Duration::from_millis(200)).await;
    let first = consumer.one().await;
    let quick = nacked.elapsed();
    let second = consumer.one().await;
    let slow = nacked.elapsed();
    assert_eq!(bodies(&[first, second]), ["quick", "slow"]);
    eprintln!("200 ms took {quick:?}, 5 s took {slow:?}");
    assert!(quick >= Duration::from_millis(200) && quick < Duration::from_secs(4), "{quick:?}");
    assert!(slow >= Duration::from_secs(5) && slow < Duration::from_secs(9), "{slow:?}");
}

#[tokio::test]
async fn nacks_expired_leases_and_disconnects_count_as_attempts_at_every_gateway() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "one").await;
    let shared = SharedStack::get();
    let second = shared.stack.another_gateway().await.unwrap();
    let there = tenant.client_at(&format!("https://{}", second.grpc_address())).await;
    let proxy = Proxy::to(second.grpc_address().port()).await;

    let mut here = RawSubscription::open(&tenant.client, start("jobs")).await;
    let delivery = here.one().await;
    assert_eq!(delivery.attempt, 1);
    here.retry(&[delivery.delivery_id], Duration::from_millis(100)).await;
    // It may be delivered here or, once this stream is closed, there; in both cases it is the second attempt.
    here.close().await;
    let mut cut_off = RawSubscription::open(&tenant.client_through(&proxy).await, start("jobs")).await;
    assert_eq!(cut_off.one().await.attempt, 2);
    proxy.cut();
    let leased = SubscribeStart { ack_deadline: Some(Duration::from_secs(10).try_into().unwrap()), ..start("jobs") };
    let mut slow = RawSubscription::open(&tenant.client, leased).await;
    assert_eq!(slow.one().await.attempt, 3);
    let mut quick = RawSubscription::open(&there, start("jobs")).await;
    let delivery = match slow.event().await.unwrap() {
        // The lease expired, and the message was delivered at one of the gateways.
        Some(Event::Deliveries(frame)) => frame.deliveries[0].clone(),
        Some(Event::Settled(report)) => {
            assert_eq!(report.expired_delivery_ids.len(), 1);
            tokio::select! {
                delivery = quick.one() => delivery,
                delivery = slow.one() => delivery,
            }
        }
        other => panic!("{other:?}"),
    };
    assert_eq!((delivery.attempt, delivery.redelivered), (4, true));
    drop((slow, quick));
    second.shutdown().await;
}

#[tokio::test]
async fn messages_returned_in_order_keep_their_attempt_number() {
    let tenant = Tenant::fresh().await;
    tenant.queue_of(queue("jobs", QueueType::Quorum, 3, policy(100, 100, 1.0))).await;
    tenant.publish_to("jobs", "one").await;
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    let first = consumer.one().await;
    let (_, second) = next_attempt(&mut consumer, first.delivery_id).await;
    assert_eq!(second.attempt, 2);
    consumer.close().await;
    for _ in 0..30 {
        let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
        assert_eq!(consumer.one().await.attempt, 2);
        consumer.close().await;
    }
    assert_eq!(tenant.dead_letters().await, []);
}

#[tokio::test]
async fn missing_delay_queues_and_exchanges_are_declared_again() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "one").await;
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    let mut outstanding = consumer.one().await;
    let vhost = format!("wg.{}", tenant.id);
    let node = SharedStack::get().stack.node();
    let exchange = |name: &str| {
        let name = format!("rabbit_misc:r(<<\"{vhost}\">>, exchange, <<\"{name}\">>)");
        format!("ok = rabbit_exchange:delete({name}, false, <<\"test\">>).")
    };
    let broken: [&[&str]; 3] = [
        &["delete_queue", "-p", &vhost, "wg.delay.100"],
        &["eval", &exchange("wg.delay")],
        &["eval", &exchange("wg.return")],
    ];
    for (attempt, missing) in (2..).zip(broken) {
        consumer.retry(&[outstanding.delivery_id], Duration::from_millis(100)).await;
        outstanding = consumer.one().await;
        assert_eq!(outstanding.attempt, attempt);
        node.control(missing).await.unwrap();
    }
    // By another stream, which finds the return exchange missing.
    consumer.close().await;
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    let outstanding = consumer.one().await;
    consumer.retry(&[outstanding.delivery_id], Duration::from_millis(100)).await;
    assert_eq!(consumer.one().await.attempt, 5);
}

#[tokio::test]
async fn a_tenant_cannot_see_the_objects_of_retries() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "one").await;
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    let outstanding = consumer.one().await;
    let (_, again) = next_attempt(&mut consumer, outstanding.delivery_id).await;
    assert_eq!(again.attempt, 2);
    let mut topology = tenant.client.topology();
    let queues = topology.list_queues(pb::ListQueuesRequest::default()).await.unwrap().into_inner().queues;
    let queues: Vec<_> = queues.into_iter().map(|entry| entry.queue.unwrap().name).collect();
    assert_eq!(queues, ["jobs"]);
    let exchanges = topology.list_exchanges(pb::ListExchangesRequest::default()).await.unwrap().into_inner().exchanges;
    assert_eq!(exchanges, []);
    let bindings = topology.list_bindings(pb::ListBindingsRequest::default()).await.unwrap().into_inner().bindings;
    assert_eq!(bindings, []);
    for name in ["wg.delay.1000", "wg.dead-letters"] {
        let status = RawSubscription::try_open(&tenant.client, start(name)).await.err().expect("refused");
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
        assert_eq!(tenant.outcomes(vec![to_queue(name, "x")]).await, [Outcome::Rejected]);
        assert_eq!(tenant.outcomes(vec![to_exchange(name, "jobs", "x")]).await, [Outcome::Rejected]);
    }
}

#[tokio::test]
async fn a_retry_policy_is_returned_and_cannot_be_changed_by_a_declaration() {
    let tenant = Tenant::fresh().await;
    let given = queue("jobs", QueueType::Quorum, 7, policy(200, 5_000, 1.5));
    tenant.queue_of(given.clone()).await;
    tenant.queue_of(given.clone()).await;
    let request = pb::GetQueueRequest { name: "jobs".into() };
    let found = tenant.client.topology().get_queue(request).await.unwrap().into_inner().queue.unwrap();
    assert_eq!((found.max_delivery_attempts, found.retry_policy), (7, given.retry_policy));
    let others = [
        ("max_delivery_attempts", pb::Queue { max_delivery_attempts: 8, ..given.clone() }),
        ("retry_policy.min_backoff", pb::Queue { retry_policy: Some(policy(300, 5_000, 1.5)), ..given.clone() }),
        ("retry_policy.multiplier", pb::Queue { retry_policy: Some(policy(200, 5_000, 2.0)), ..given }),
    ];
    for (argument, queue) in others {
        let request = pb::DeclareQueueRequest { queue: Some(queue), validate_only: false };
        let status = tenant.client.topology().declare_queue(request).await.expect_err(argument);
        assert_eq!(crate::harness::raw::reason(&status), "EXISTS_WITH_OTHER_ARGUMENTS", "{status}");
        assert!(status.message().contains(argument), "{status}");
    }
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    tenant.publish_to("jobs", "one").await;
    let outstanding = consumer.one().await;
    consumer.retry(&[outstanding.delivery_id], Duration::from_secs(24 * 3_600 + 1)).await;
    let status = consumer.failure().await;
    assert_eq!(crate::harness::raw::field(&status), "nack.delay", "{status}");
}

/// A client of any gateway of a separate stack.
async fn client_at(dedicated: &DedicatedStack, tenant: &Tenant, endpoint: &str) -> Client {
    let credentials = Credentials::Secret { client_id: tenant.client_id.clone(), secret: tenant.secret.clone() };
    let ca = std::fs::read_to_string(dedicated.stack.gateway_ca()).unwrap();
    Client::connect(ClientOptions::new(endpoint, credentials).ca_certificate(ca)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_survives_the_kill_of_the_broker_and_the_gateway() {
    let dedicated = DedicatedStack::start("delayed", &[]).await;
    let tenant = dedicated.tenant().await;
    tenant.queue("jobs").await;
    dedicated.queue_is_on_disk(&tenant, "jobs").await;
    let second = dedicated.stack.another_gateway().await.unwrap();
    let there = client_at(&dedicated, &tenant, &format!("https://{}", second.grpc_address())).await;
    let mut consumer = RawSubscription::open(&there, start("jobs")).await;
    let all: Vec<_> = (0..20).map(|n: u32| to_queue("jobs", n.to_string())).collect();
    assert_eq!(tenant.outcomes(all).await, [Outcome::Confirmed; 20]);
    let outstanding = ids(&consumer.take(20).await);
    consumer.retry(&outstanding, Duration::from_secs(30)).await;
    let nacked = Instant::now();
    dedicated.queue_is_on_disk(&tenant, "wg.delay.30000").await;
    // All are in the delay queue once the stream has closed in order; then the gateway and the broker are killed.
    consumer.close().await;
    second.shutdown().await;
    dedicated.stack.node().kill().unwrap();
    dedicated.stack.node().restart().await.unwrap();
    let mut consumer =
        until("a subscription", async || RawSubscription::try_open(&tenant.client, start("jobs")).await.ok()).await;
    let again = consumer.take(20).await;
    let took = nacked.elapsed();
    assert!(took >= Duration::from_secs(29), "{took:?}");
    assert!(again.iter().all(|delivery| delivery.attempt == 2), "{again:?}");
    let mut found: Vec<u32> = bodies(&again).iter().map(|body| body.parse().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, (0..20).collect::<Vec<_>>());
    consumer.ack(&ids(&again)).await;
    consumer.is_quiet().await;
    consumer.close().await;
    dedicated.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_and_drains_do_not_count_as_attempts() {
    let dedicated = DedicatedStack::start("restarts", &[("WARRENGATE_LIMITS__DRAIN_DEADLINE", "1s")]).await;
    let tenant = dedicated.tenant().await;
    tenant.queue_of(queue("jobs", QueueType::Quorum, 3, policy(100, 100, 1.0))).await;
    dedicated.queue_is_on_disk(&tenant, "jobs").await;
    let all: Vec<_> = (0..50).map(|n: u32| to_queue("jobs", n.to_string())).collect();
    assert_eq!(tenant.outcomes(all).await, [Outcome::Confirmed; 50]);
    // The broker restarts five times under a stream that has all messages outstanding.
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    let mut outstanding = consumer.take(50).await;
    for round in 0..5 {
        if round % 2 == 0 {
            dedicated.stack.node().kill().unwrap();
        }
        dedicated.stack.node().restart().await.unwrap();
        outstanding = resumed(&mut consumer, 50).await;
        assert!(outstanding.iter().all(|delivery| delivery.attempt == 1), "round {round}: {outstanding:?}");
    }
    drop(outstanding);
    consumer.close().await;
    // A gateway drains ten times, with a client that does not react.
    for round in 0..10 {
        let other = dedicated.stack.another_gateway().await.unwrap();
        let client = client_at(&dedicated, &tenant, &format!("https://{}", other.grpc_address())).await;
        let mut consumer = RawSubscription::open(&client, start("jobs")).await;
        let outstanding = consumer.take(50).await;
        assert!(outstanding.iter().all(|delivery| delivery.attempt == 1), "round {round}: {outstanding:?}");
        other.shutdown().await;
        drop(consumer);
    }
    tenant.has_depth("jobs", 50).await;
    assert_eq!(tenant.dead_letters().await, []);
    dedicated.stack.stop().await.unwrap();
}

/// The next `count` deliveries after an interruption.
async fn resumed(consumer: &mut RawSubscription, count: usize) -> Vec<pb::Delivery> {
    let mut outstanding = Vec::new();
    let mut interrupted = false;
    while outstanding.len() < count {
        match within("an event", consumer.event()).await.unwrap() {
            Some(Event::Interrupted(_)) => {
                interrupted = true;
                outstanding.clear();
            }
            Some(Event::Deliveries(frame)) if interrupted => outstanding.extend(frame.deliveries),
            Some(Event::Resumed(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    outstanding
}

#[tokio::test]
async fn a_message_whose_headers_fill_a_frame_is_dead_lettered_and_disturbs_no_publisher() {
    let tenant = Tenant::fresh().await;
    tenant.queue("large").await;
    tenant.queue("other").await;
    // Published directly to the broker, because the gateway refuses headers over 64 KiB. With the headers that a retry adds,
    // they would exceed a frame.
    let certificate = certificate_of(&tenant.id);
    let broker = amqp(tls(Some(&certificate)), &format!("wg.{}", tenant.id), Login::External).await.unwrap();
    let channel = broker.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let mut headers = FieldTable::default();
    headers.insert("h".into(), AMQPValue::LongString("x".repeat(130_950).into()));
    let properties = BasicProperties::default().with_headers(headers);
    let sent =
        channel.basic_publish("".into(), "large".into(), BasicPublishOptions::default(), b"body", properties).await;
    within("the confirm", sent.unwrap()).await.unwrap();
    let mut consumer = RawSubscription::open(&tenant.client, start("large")).await;
    let delivery = consumer.one().await;
    consumer.nack_with_reason(&[delivery.delivery_id], NackAction::Retry, "not yet").await;
    for number in 0..20 {
        assert_eq!(tenant.outcomes(vec![to_queue("other", number.to_string())]).await, [Outcome::Confirmed]);
    }
    let letters = tenant.has_dead_letters(1).await;
    assert_eq!((letters[0].code.as_str(), letters[0].queue.as_str()), ("headers_too_large", "large"), "{letters:?}");
    // Nothing was published again after a broken connection.
    assert_eq!(tenant.take("other", 20).await, (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
    tenant.has_depth("other", 0).await;
    consumer.close().await;
}
