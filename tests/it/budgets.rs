//! The limits of a plan: rates are throttled, a full tenant is refused without losing its streams, other tenants are
//! not affected, and the broker enforces its part against clients that bypass the gateway.

use std::time::{Duration, Instant};

use lapin::{
    BasicProperties, Confirmation,
    options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tonic::Code;
use warrengate::{
    client::Credentials,
    gateway::Gateway,
    pb::{self, Outcome, PublishResult},
};

use crate::harness::{
    SharedStack, Tenant,
    broker::{Login, Management, Refusal, amqp, assert_refused, certificate_of, tls},
    plans::{OwnPlan, limited, meters},
    proxy::Proxy,
    publisher::RawPublisher,
    raw::{RawPublish, reason},
    serve::Serve,
    tenant::all_grants,
    to_queue,
    wait::{until, within},
};

fn count(results: &[PublishResult], outcome: Outcome) -> usize {
    results.iter().filter(|result| result.outcome() == outcome).count()
}

fn after(result: &PublishResult) -> Duration {
    result.retry_after.expect("a retry delay").try_into().expect("a duration")
}

#[tokio::test]
async fn headers_count_towards_the_byte_rate() {
    let rate = pb::Plan {
        max_publish_bytes_per_second: 100,
        publish_bytes_burst: 100_000,
        max_message_bytes: 100_000,
        ..Default::default()
    };
    let tenant = limited(rate).await;
    tenant.queue("jobs").await;
    let with_header = || {
        let mut publication = to_queue("jobs", "");
        let value = pb::Value { kind: Some(pb::value::Kind::StringValue("x".repeat(40_000))) };
        publication.message.as_mut().unwrap().headers.insert("large".into(), value);
        publication
    };
    let results = tenant.client.publish_batch((0..3).map(|_| with_header()).collect()).await.unwrap();
    let outcomes: Vec<_> = results.iter().map(PublishResult::outcome).collect();
    assert_eq!(outcomes, [Outcome::Confirmed, Outcome::Confirmed, Outcome::Throttled]);
    assert!(results[2].reason.starts_with("BYTE_RATE"), "{}", results[2].reason);
}

#[tokio::test]
async fn ten_times_the_message_rate_is_throttled_by_message_without_effect_on_another_tenant() {
    let rate = pb::Plan { max_publish_messages_per_second: 20, publish_messages_burst: 50, ..Default::default() };
    let (loud, quiet) = (limited(rate).await, Tenant::fresh().await);
    for tenant in [&loud, &quiet] {
        tenant.queue("jobs").await;
    }
    let run = async |tenant: &Tenant| {
        let mut stream = RawPublisher::open(&tenant.client).await;
        let mut results = Vec::new();
        for _ in 0..10 {
            stream.send((0..50).map(|_| to_queue("jobs", "x")).collect()).await;
            results.extend(stream.results(50).await);
        }
        (stream, results)
    };
    let begun = Instant::now();
    let ((mut stream, loud_results), (_, quiet_results)) = tokio::join!(run(&loud), run(&quiet));
    let seconds = begun.elapsed().as_secs() as usize + 1;

    assert_eq!(count(&quiet_results, Outcome::Confirmed), 500, "the other tenant");
    let confirmed = count(&loud_results, Outcome::Confirmed);
    assert!((50..=50 + 20 * seconds).contains(&confirmed), "{confirmed} in {seconds} s");
    let throttled: Vec<_> = loud_results.iter().filter(|one| one.outcome() == Outcome::Throttled).collect();
    assert_eq!(confirmed + throttled.len(), 500, "all other messages are throttled");
    for result in &throttled {
        assert!(result.reason.starts_with("MESSAGE_RATE: "), "{result:?}");
        let again = after(result);
        // The last message of a frame of 50 fits after 50 times 50 ms.
        assert!(again >= Duration::from_millis(1) && again <= Duration::from_millis(2_600), "{again:?}");
    }
    // The stream stays open and accepts the same message later.
    until("capacity in the rate", async || {
        stream.send(vec![to_queue("jobs", "again")]).await;
        (stream.results(1).await[0].outcome() == Outcome::Confirmed).then_some(())
    })
    .await;
}

#[tokio::test]
async fn bytes_over_the_rate_are_throttled_and_the_largest_message_is_accepted() {
    let tenant = limited(pb::Plan {
        max_message_bytes: 1_000,
        max_publish_bytes_per_second: 10,
        publish_bytes_burst: 1_000,
        ..Default::default()
    })
    .await;
    tenant.queue("jobs").await;
    let body = |size: usize| to_queue("jobs", vec![b'x'; size]);
    let results = tenant.client.publish_batch(vec![body(1_001), body(1_000), body(500), body(0)]).await.unwrap();
    let outcomes: Vec<_> = results.iter().map(PublishResult::outcome).collect();
    // A message without a body has properties, which count, too.
    assert_eq!(outcomes, [Outcome::Rejected, Outcome::Confirmed, Outcome::Throttled, Outcome::Throttled]);
    assert!(results[0].reason.starts_with("MESSAGE_TOO_LARGE: "), "{results:?}");
    assert!(results[2].reason.starts_with("BYTE_RATE: "), "{results:?}");
    assert!((Duration::from_secs(40)..=Duration::from_secs(60)).contains(&after(&results[2])), "{results:?}");
}

#[tokio::test]
async fn a_changed_plan_applies_to_open_streams_of_every_gateway_within_seconds() {
    let shared = SharedStack::get();
    let plan = OwnPlan::of(pb::Plan { max_publish_messages_per_second: 1, ..Default::default() }).await;
    let tenant = plan.tenant().await;
    tenant.queue("jobs").await;
    let mut config = shared.stack.config().clone();
    config.grpc.listen.set_port(0);
    config.ops.listen.set_port(0);
    let second = Gateway::start(config).await.unwrap();
    let credentials = Credentials::Secret { client_id: tenant.client_id.clone(), secret: tenant.secret.clone() };
    let there = shared.client_at(&format!("https://{}", second.grpc_address()), credentials).await;

    let mut streams = [RawPublisher::open(&tenant.client).await, RawPublisher::open(&there).await];
    for stream in &mut streams {
        stream.send((0..3).map(|_| to_queue("jobs", "x")).collect()).await;
        assert_eq!(count(&stream.results(3).await, Outcome::Throttled), 2);
    }
    let asked = Instant::now();
    let update = plan.change(
        pb::Plan { max_publish_messages_per_second: 1_000_000, ..Default::default() },
        &["max_publish_messages_per_second", "publish_messages_burst"],
    );
    let took = async |name: &str, stream: &mut RawPublisher| {
        let took = within("the new rate on an open stream", async {
            loop {
                stream.send((0..20).map(|_| to_queue("jobs", "x")).collect()).await;
                if count(&stream.results(20).await, Outcome::Confirmed) == 20 {
                    return asked.elapsed();
                }
            }
        })
        .await;
        say(&format!("a changed plan on an open stream of {name}: {} ms", took.as_millis()));
        // The target is one second; a busy machine may need longer to observe it.
        assert!(took < Duration::from_secs(5), "{name}: {took:?}");
    };
    let [here, there] = &mut streams;
    let (changed, (), ()) = tokio::join!(update, took("this gateway", here), took("the other gateway", there));
    assert_eq!(changed.tenants, 1);

    // A change of the tenant's plan has the same effect.
    OwnPlan::of(pb::Plan { max_message_bytes: 1, ..Default::default() }).await.give(&tenant).await;
    until("the new plan on an open stream", async || {
        here.send(vec![to_queue("jobs", "xx")]).await;
        (here.results(1).await[0].outcome() == Outcome::Rejected).then_some(())
    })
    .await;
    drop(streams);
    second.shutdown().await;
}

#[allow(clippy::print_stdout, reason = "a measured figure, for `--nocapture`")]
fn say(text: &str) {
    println!("{text}");
}

#[tokio::test]
async fn messages_in_flight_never_exceed_the_plan_and_all_are_confirmed() {
    let tenant = limited(pb::Plan {
        max_message_bytes: 1_000,
        max_in_flight_messages: 7,
        max_in_flight_bytes: 3_000,
        ..Default::default()
    })
    .await;
    tenant.queue("jobs").await;
    let batch = || (0..300).map(|_| to_queue("jobs", vec![b'x'; 900])).collect::<Vec<_>>();
    let mut stream = RawPublisher::open(&tenant.client).await;
    let streaming = async {
        stream.send(batch()).await;
        stream.results(300).await
    };
    let observed = std::cell::Cell::new(false);
    let watching = async {
        for sample in 0.. {
            let meters = meters(&tenant).await;
            for limit in ["max_in_flight_messages", "max_in_flight_bytes"] {
                let (used, allowed) = meters[limit];
                assert!(used <= allowed, "{limit}: {used} of {allowed}");
            }
            observed.set(observed.get() || meters["max_in_flight_messages"].0 > 0);
            if sample >= 5 && observed.get() {
                return;
            }
        }
    };
    let batches = async {
        // Until the meters have shown messages in flight, so that the limit was observed under load.
        loop {
            let outcomes = tokio::join!(tenant.outcomes(batch()), tenant.outcomes(batch()));
            assert!(outcomes.0.into_iter().chain(outcomes.1).all(|outcome| outcome == Outcome::Confirmed));
            if observed.get() {
                return;
            }
        }
    };
    let (results, (), ()) = within("all of it", async { tokio::join!(streaming, batches, watching) }).await;
    assert_eq!(count(&results, Outcome::Confirmed), 300);
    let meters = meters(&tenant).await;
    assert_eq!((meters["max_in_flight_messages"], meters["max_in_flight_bytes"]), ((0, 7), (0, 3_000)));
}

async fn declare_queue(tenant: &Tenant, name: &str) -> Result<(), tonic::Status> {
    let queue = Some(pb::Queue { name: name.into(), ..Default::default() });
    tenant.client.topology().declare_queue(pb::DeclareQueueRequest { queue, validate_only: false }).await.map(drop)
}

async fn declare_exchange(tenant: &Tenant, name: &str) -> Result<(), tonic::Status> {
    let exchange =
        Some(pb::Exchange { name: name.into(), r#type: pb::ExchangeType::Topic.into(), ..Default::default() });
    let request = pb::DeclareExchangeRequest { exchange, validate_only: false };
    tenant.client.topology().declare_exchange(request).await.map(drop)
}

fn binding(key: &str) -> Option<pb::Binding> {
    Some(pb::Binding {
        source: "amq.topic".into(),
        destination: "a".into(),
        routing_key: key.into(),
        ..Default::default()
    })
}

async fn bind(tenant: &Tenant, key: &str) -> Result<(), tonic::Status> {
    tenant.client.topology().bind(pb::BindRequest { binding: binding(key) }).await.map(drop)
}

fn is_refused(what: &str, answer: Result<(), tonic::Status>, wanted: &str) {
    let status = answer.expect_err(what);
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, wanted), "{what}: {status:?}");
}

#[tokio::test]
async fn queues_exchanges_and_bindings_are_counted_and_repeated_declarations_are_not() {
    let limits = pb::Plan { max_queues: 2, max_exchanges: 2, max_bindings: 2, ..Default::default() };
    let tenant = limited(limits).await;
    let mut topology = tenant.client.topology();
    for name in ["a", "b", "a"] {
        declare_queue(&tenant, name).await.unwrap();
        declare_exchange(&tenant, name).await.unwrap();
        bind(&tenant, name).await.unwrap();
    }
    is_refused("a third queue", declare_queue(&tenant, "c").await, "TOO_MANY_QUEUES");
    is_refused("a third exchange", declare_exchange(&tenant, "c").await, "TOO_MANY_EXCHANGES");
    is_refused("a third binding", bind(&tenant, "c").await, "TOO_MANY_BINDINGS");
    for name in ["a", "b"] {
        declare_queue(&tenant, name).await.unwrap();
        declare_exchange(&tenant, name).await.unwrap();
        bind(&tenant, name).await.unwrap();
    }
    let used = meters(&tenant).await;
    for limit in ["max_queues", "max_exchanges", "max_bindings"] {
        assert_eq!(used[limit], (2, 2), "{limit}");
    }
    topology.delete_queue(pb::DeleteQueueRequest { name: "b".into(), ..Default::default() }).await.unwrap();
    topology.delete_exchange(pb::DeleteExchangeRequest { name: "b".into(), ..Default::default() }).await.unwrap();
    topology.unbind(pb::UnbindRequest { binding: binding("b") }).await.unwrap();
    declare_queue(&tenant, "c").await.unwrap();
    declare_exchange(&tenant, "c").await.unwrap();
    bind(&tenant, "c").await.unwrap();
    is_refused("a third queue again", declare_queue(&tenant, "d").await, "TOO_MANY_QUEUES");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_at_the_limit_does_not_ask_the_broker_each_time_and_notices_what_is_deleted_elsewhere() {
    let tenant = limited(pb::Plan { max_queues: 2, max_exchanges: 1, ..Default::default() }).await;
    let shared = &SharedStack::get().stack;
    let (amqp, management) =
        (Proxy::to(shared.node().amqps_port()).await, Proxy::to(shared.node().management_port()).await);
    let (endpoint, url) = (amqp.endpoint(), format!("https://{}", management.endpoint()));
    let settings =
        [("WARRENGATE_BROKER__ENDPOINTS", endpoint.as_str()), ("WARRENGATE_MANAGEMENT__ENDPOINTS", url.as_str())];
    let gateway = Serve::for_stack(shared, &settings).await;
    let through = Tenant { client: tenant.client_at(&gateway.endpoint()).await, ..tenant.clone() };
    for name in ["a", "b"] {
        declare_queue(&tenant, name).await.unwrap();
    }
    declare_exchange(&tenant, "a").await.unwrap();
    // The broker's names are used for half a second; on a busy machine that may be over before the broker is silent.
    let mut number = 0;
    until("refusals while the broker answers nothing", async || {
        number += 1;
        let name = format!("more-{number}");
        is_refused("a third queue", declare_queue(&through, &name).await, "TOO_MANY_QUEUES");
        is_refused("a second exchange", declare_exchange(&through, &name).await, "TOO_MANY_EXCHANGES");
        amqp.hold();
        management.hold();
        let both = async { (declare_queue(&through, "other").await, declare_exchange(&through, "other").await) };
        let answered = tokio::time::timeout(Duration::from_millis(300), both).await;
        amqp.resume();
        management.resume();
        let (queue, exchange) = answered.ok()?;
        is_refused("a third queue", queue, "TOO_MANY_QUEUES");
        is_refused("a second exchange", exchange, "TOO_MANY_EXCHANGES");
        Some(())
    })
    .await;
    declare_queue(&through, "b").await.unwrap();
    // Deleted through another gateway.
    let deleting = pb::DeleteQueueRequest { name: "b".into(), ..Default::default() };
    tenant.client.topology().delete_queue(deleting).await.unwrap();
    until("a free queue", async || declare_queue(&through, "c").await.ok()).await;
    is_refused("a third queue again", declare_queue(&through, "d").await, "TOO_MANY_QUEUES");
}

#[tokio::test]
async fn clients_and_streams_are_counted_and_released() {
    let tenant = limited(pb::Plan { max_clients: 2, max_streams: 1, ..Default::default() }).await;
    tenant.queue("jobs").await;
    let admin = SharedStack::get().admin().await;
    let (second, _) = Tenant::add_client(&admin, &tenant.id, "second", all_grants()).await;
    let third = || {
        let client = Some(pb::Client { client_id: format!("{}.third", tenant.id), ..Default::default() });
        pb::CreateClientRequest { client, ..Default::default() }
    };
    is_refused("a third client", admin.admin().create_client(third()).await.map(drop), "TOO_MANY_CLIENTS");
    let dry = pb::CreateClientRequest { validate_only: true, ..third() };
    is_refused("a third client, dry", admin.admin().create_client(dry).await.map(drop), "TOO_MANY_CLIENTS");
    admin.admin().revoke_client(pb::RevokeClientRequest { client_id: second.clone() }).await.unwrap();
    let revoked = admin.admin().create_client(third()).await.map(drop);
    is_refused("a third client in addition to a revoked one", revoked, "TOO_MANY_CLIENTS");
    admin.admin().delete_client(pb::DeleteClientRequest { client_id: second }).await.unwrap();
    admin.admin().create_client(third()).await.unwrap();
    assert_eq!(meters(&tenant).await["max_clients"], (2, 2));

    let mut first = RawPublish::open(&tenant.client).await.unwrap();
    assert_eq!(first.publish(to_queue("jobs", "x")).await.unwrap().outcome(), Outcome::Confirmed);
    is_refused("a second stream", RawPublish::open(&tenant.client).await.map(drop), "TOO_MANY_STREAMS");
    assert_eq!(meters(&tenant).await["max_streams"], (1, 1));
    drop(first);
    until("the stream's slot is free", async || RawPublish::open(&tenant.client).await.ok().map(drop)).await;
}

#[tokio::test]
async fn a_tenant_at_its_storage_limit_is_throttled_until_it_stores_less() {
    let tenant = limited(pb::Plan { max_stored_messages: 10, ..Default::default() }).await;
    for queue in ["one", "two"] {
        tenant.queue(queue).await;
        for _ in 0..8 {
            tenant.publish_to(queue, "x").await;
        }
    }
    let send = async || tenant.client.publish_batch(vec![to_queue("one", "more")]).await.unwrap().remove(0);
    // A single queue does not accept much more than the limit of all queues, even between measurements.
    until("a queue that is full", async || {
        let outcome = tenant.outcomes(vec![to_queue("two", "x")]).await[0];
        matches!(outcome, Outcome::Rejected | Outcome::Throttled).then_some(())
    })
    .await;
    let throttled = until("the storage limit is reached", async || {
        let result = send().await;
        (result.outcome() == Outcome::Throttled).then_some(result)
    })
    .await;
    assert!(throttled.reason.starts_with("STORED_MESSAGES: "), "{throttled:?}");
    assert_eq!(after(&throttled), Duration::from_secs(3));
    assert!(meters(&tenant).await["max_stored_messages"].0 >= 10);
    for queue in ["one", "two"] {
        tenant.purge(queue).await;
    }
    until("there is capacity again", async || (send().await.outcome() == Outcome::Confirmed).then_some(())).await;
}

fn declare() -> QueueDeclareOptions {
    QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }
}

#[tokio::test]
async fn the_broker_enforces_lengths_ttls_and_connections_against_a_client_that_bypasses_the_gateway() {
    let length = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let plan = OwnPlan::of(pb::Plan { max_stored_messages: 3, max_connections: 2, ..Default::default() }).await;
    let tenant = plan.tenant().await;
    let name = format!("wg.{}", tenant.id);
    let leaf = certificate_of(&tenant.id);
    let around = amqp(tls(Some(&leaf)), &name, Login::External).await.unwrap();
    let channel = around.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    for kind in ["classic", "quorum"] {
        // A queue without x-overflow and without a length.
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        channel.queue_declare(kind.into(), declare(), arguments).await.unwrap();
        let mut refused = 0;
        for n in 0..20_u8 {
            let options = BasicPublishOptions::default();
            let body = [n];
            let sent = channel.basic_publish("".into(), kind.into(), options, &body, BasicProperties::default());
            refused += u32::from(matches!(sent.await.unwrap().await.unwrap(), Confirmation::Nack(_)));
        }
        assert!(refused >= 10, "{kind}: {refused} of 20 were refused");
        let head = channel.basic_get(kind.into(), BasicGetOptions { no_ack: true }).await.unwrap().expect("a message");
        assert_eq!(head.data, [0], "{kind}: its head was not dropped");
    }
    let second = amqp(tls(Some(&leaf)), &name, Login::External).await.unwrap();
    assert_refused(tls(Some(&leaf)), &name, Login::External, Refusal::Vhost).await;
    drop(second);

    // TTLs also apply to queues that exist already.
    let changed = pb::Plan { max_message_ttl: length(1), queue_expires: length(2), ..Default::default() };
    plan.change(changed, &["max_message_ttl", "queue_expires"]).await;
    let broker = Management::new();
    until("unused queues are gone", async || {
        let queues = broker.get(&format!("queues/{name}")).await.unwrap();
        let names: Vec<_> = queues.as_array().unwrap().iter().filter_map(|queue| queue["name"].as_str()).collect();
        assert!(names.contains(&"wg.dead-letters"), "the gateway's own queues remain");
        (names.len() == 1).then_some(())
    })
    .await;
    // An unlimited plan removes all of them.
    let paths = ["max_message_ttl", "queue_expires", "max_stored_messages", "max_connections"];
    plan.change(pb::Plan::default(), &paths).await;
    assert_eq!(broker.get(&format!("operator-policies/{name}")).await, Some(serde_json::json!([])));
}

#[tokio::test]
async fn a_message_expires_after_the_ttl_of_the_plan_and_is_dead_lettered() {
    let ttl = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let tenant = limited(pb::Plan { max_message_ttl: ttl, ..Default::default() }).await;
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "old").await;
    tenant.has_depth("jobs", 0).await;
    assert_eq!(tenant.dead_letter().await.message.unwrap().body, "old");
}

#[tokio::test]
async fn a_plan_is_created_changed_and_deleted() {
    let admin = SharedStack::get().admin().await;
    let mut admin = admin.admin();
    let name = format!("p{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
    let plan = pb::Plan { name: name.clone(), max_streams: 5, sampling_ratio: Some(0.5), ..Default::default() };
    let create = |plan: &pb::Plan| pb::CreatePlanRequest { plan: Some(plan.clone()), ..Default::default() };
    let get = || pb::GetPlanRequest { name: name.clone() };
    let dry = pb::CreatePlanRequest { validate_only: true, ..create(&plan) };
    admin.create_plan(dry).await.unwrap();
    assert_eq!(admin.get_plan(get()).await.expect_err("not made").code(), Code::NotFound);
    for _ in 0..2 {
        assert_eq!(admin.create_plan(create(&plan)).await.unwrap().into_inner().plan, Some(plan.clone()));
    }
    let other = pb::Plan { max_streams: 6, ..plan.clone() };
    let status = admin.create_plan(create(&other)).await.expect_err("it exists with other limits");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "PLAN_EXISTS"));

    let tenant = Tenant::fresh().await;
    OwnPlan(name.clone()).give(&tenant).await;
    let delete = |name: &str| pb::DeletePlanRequest { name: name.into() };
    for used in [name.as_str(), "standard"] {
        let status = admin.delete_plan(delete(used)).await.expect_err("it is used");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "PLAN_IN_USE"), "{used}");
    }
    let changed = OwnPlan(name.clone()).change(other, &["max_streams"]).await;
    assert_eq!((changed.plan.unwrap().max_streams, changed.tenants), (6, 1));
    admin.delete_tenant(pb::DeleteTenantRequest { tenant: tenant.id }).await.unwrap();
    admin.delete_plan(delete(&name)).await.unwrap();
    assert_eq!(admin.delete_plan(delete(&name)).await.expect_err("gone").code(), Code::NotFound);
}
