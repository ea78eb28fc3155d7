//! Retry delays with a problem at their end: the queue was deleted or is full, or the delay queue does not respond. No
//! message is lost or waits forever.

use std::time::{Duration, Instant};

use lapin::{
    options::QueueBindOptions,
    types::{FieldTable, ShortString},
};
use serde_json::Value;
use warrengate::pb::{self, Outcome, SubscribeStart};

use crate::harness::{
    SharedStack, Tenant,
    broker::{Login, Management, amqp, certificate_of, tls},
    consumer::{RawSubscription, bodies, start},
    dead_letters::these,
    to_queue,
    values::to_exchange,
    wait::{until, within},
};

/// Twice the interval of broker-config/advanced.config in which a refused message is offered to a queue again.
const OFFERED_AGAIN: Duration = Duration::from_secs(10);

/// Waits until one of the gateway's own queues has this number of messages. The management API answers at once;
/// `rabbitmqctl` may need longer than a delay.
async fn wait_for_messages(tenant: &Tenant, queue: &str, messages: u64) {
    let (broker, path) =
        (Management::new(), format!("queues/wg.{}?disable_stats=true&enable_queue_totals=true", tenant.id));
    until(&format!("{messages} messages in {queue}"), async || {
        let all = broker.get(&path).await.unwrap();
        let found = all.as_array().unwrap().iter().find(|one| one["name"] == queue);
        (found?["messages"].as_u64() == Some(messages)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_message_is_dead_lettered_when_its_queue_was_deleted_during_the_delay() {
    let tenant = Tenant::fresh().await;
    tenant.queue("passing").await;
    tenant.publish(to_exchange("", "passing", "one")).await;
    let mut consumer = RawSubscription::open(&tenant.client, start("passing")).await;
    let outstanding = consumer.one().await;
    consumer.retry(&[outstanding.delivery_id], Duration::from_secs(20)).await;
    // The delay starts when the stream has closed in order.
    consumer.close().await;
    wait_for_messages(&tenant, "wg.delay.20000", 1).await;
    let request = pb::DeleteQueueRequest { name: "passing".into(), ..Default::default() };
    tenant.client.topology().delete_queue(request).await.unwrap();
    let dead = tenant.dead_letter().await;
    assert_eq!((dead.queue.as_str(), dead.code.as_str(), dead.attempts), ("passing", "queue_deleted", 1));
    assert_eq!((dead.exchange.as_str(), dead.routing_key.as_str()), ("", "passing"));
    // It remains until a queue accepts it.
    let done = tenant.redrive(these([&dead])).await;
    assert_eq!((done.redriven, done.failed, done.remaining), (0, 1, 0));
    assert!(done.failures[0].reason.starts_with("QUEUE_NOT_FOUND: "), "{done:?}");
    tenant.queue("passing").await;
    assert_eq!(tenant.redrive(these([&dead])).await.redriven, 1);
    assert_eq!(tenant.take("passing", 1).await, ["one"]);
    assert_eq!(tenant.dead_letters().await, []);
}

/// A broker that starts restores bindings one by one, while delay queues already return their messages.
#[tokio::test]
async fn a_retry_whose_delay_ends_before_the_broker_has_restored_its_route_is_no_dead_letter() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "one").await;
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    let outstanding = consumer.one().await;
    consumer.retry(&[outstanding.delivery_id], Duration::from_secs(15)).await;
    consumer.close().await;
    wait_for_messages(&tenant, "wg.delay.15000", 1).await;
    let vhost = format!("wg.{}", tenant.id);
    let direct = amqp(tls(Some(&certificate_of(&tenant.id))), &vhost, Login::External).await.unwrap();
    let channel = direct.create_channel().await.unwrap();
    let routes = Management::new().get(&format!("queues/{vhost}/jobs/bindings")).await.unwrap();
    let of_gateway = |route: &&Value| route["source"].as_str().unwrap().starts_with("wg.");
    let routes: Vec<_> = routes.as_array().unwrap().iter().filter(of_gateway).collect();
    assert!(!routes.is_empty());
    let exchange = |route: &Value| ShortString::from(route["source"].as_str().unwrap());
    for route in &routes {
        let nothing = FieldTable::default();
        within("unbind", channel.queue_unbind("jobs".into(), exchange(route), "jobs".into(), nothing)).await.unwrap();
    }
    wait_for_messages(&tenant, "wg.delay.15000", 0).await;
    for route in &routes {
        let (nothing, options) = (FieldTable::default(), QueueBindOptions::default());
        let binding = channel.queue_bind("jobs".into(), exchange(route), "jobs".into(), options, nothing);
        within("bind", binding).await.unwrap();
    }
    // A subscription would restore the routes itself.
    tenant.has_depth("jobs", 1).await;
    let again = RawSubscription::open(&tenant.client, start("jobs")).await.one().await;
    assert_eq!((again.attempt, bodies(std::slice::from_ref(&again))[0].as_str()), (2, "one"));
    assert_eq!(tenant.dead_letters().await, []);
}

#[tokio::test]
async fn a_retry_into_a_full_queue_waits_in_the_broker_until_there_is_capacity() {
    let tenant = Tenant::fresh().await;
    tenant.queue_of(pb::Queue { name: "small".into(), max_length: 1, ..pb::Queue::default() }).await;
    tenant.publish_to("small", "first").await;
    let one_at_a_time = SubscribeStart { max_outstanding_messages: 1, ..start("small") };
    let mut consumer = RawSubscription::open(&tenant.client, one_at_a_time).await;
    let outstanding = consumer.one().await;
    let mut others = 0;
    until("a full queue", async || match tenant.outcomes(vec![to_queue("small", "other")]).await[..] {
        [Outcome::Confirmed] => {
            others += 1;
            None
        }
        [Outcome::Rejected] => Some(()),
        ref else_ => panic!("{else_:?}"),
    })
    .await;
    // Longer than the declaration of the delay queue takes: otherwise the message would be published directly.
    consumer.retry(&[outstanding.delivery_id], Duration::from_secs(2)).await;
    // With a new delay queue, old copies remain for longer than the delay.
    consumer.close().await;
    tenant.has_depth("small", others).await;
    wait_for_messages(&tenant, "wg.delay.2000", 1).await;
    let freed = Instant::now();
    let mut consumer = RawSubscription::open(&tenant.client, start("small")).await;
    let mut seen = Vec::new();
    let again = loop {
        let delivery = consumer.one().await;
        consumer.ack(&[delivery.delivery_id]).await;
        seen.extend(bodies(std::slice::from_ref(&delivery)));
        if seen.last().is_some_and(|body| body == "first") {
            break delivery;
        }
    };
    let took = freed.elapsed();
    eprintln!("measured: the retry was delivered {took:.1?} after the queue had capacity");
    assert_eq!((again.attempt, seen.len() as u64), (2, others + 1), "{seen:?}");
    assert!(took < OFFERED_AGAIN + Duration::from_secs(2), "{took:?}");
    wait_for_messages(&tenant, "wg.delay.2000", 0).await;
}

#[tokio::test]
async fn a_retry_is_delivered_when_its_delay_queue_has_no_leader() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    for body in ["first", "second"] {
        tenant.publish_to("jobs", body).await;
    }
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    let (first, second) = (consumer.one().await, consumer.one().await);
    consumer.retry(&[first.delivery_id], Duration::from_secs(1)).await;
    let again = consumer.one().await;
    assert_eq!((again.attempt, bodies(std::slice::from_ref(&again))[0].as_str()), (2, "first"));
    consumer.ack(&[again.delivery_id]).await;
    // As after a kill in the first seconds after its declaration (broker-config/README.md).
    let server = format!("{{'wg.{}_wg.delay.1000', node()}}", tenant.id);
    let node = SharedStack::get().stack.node();
    node.control(&["eval", &format!("ok = ra:stop_server(quorum_queues, {server}).")]).await.unwrap();
    let nacked = Instant::now();
    consumer.retry(&[second.delivery_id], Duration::from_secs(1)).await;
    let again = consumer.one().await;
    let took = nacked.elapsed();
    eprintln!("measured: 1 s without a delay queue took {took:.1?}");
    assert_eq!((again.attempt, bodies(std::slice::from_ref(&again))[0].as_str()), (2, "second"));
    assert!(took >= Duration::from_secs(1), "{took:?}");
    consumer.ack(&[again.delivery_id]).await;
    consumer.is_quiet().await;
    consumer.close().await;
    node.control(&["eval", &format!("ok = ra:restart_server(quorum_queues, {server}).")]).await.unwrap();
}
