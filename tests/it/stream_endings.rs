//! The end of streams whose queue, client or tenant is removed: with a status that has the reason, promptly, and
//! without effect on others.

use std::time::Instant;

use tonic::Code;
use warrengate::{
    client::{Client, Credentials},
    pb::{
        self, Outcome, QueueType, publish_request::Frame as PublishFrame, subscribe_request::Frame,
        subscribe_response::Event,
    },
};

use crate::harness::{
    SharedStack, Tenant,
    raw::{RawPublish, RawSubscribe, assert_prompt, reason, start},
    to_queue,
    wait::until,
};

#[tokio::test]
async fn deleting_a_queue_ends_its_subscriptions_with_the_reason() {
    let tenant = Tenant::fresh().await;
    for kind in [QueueType::Quorum, QueueType::Classic, QueueType::Stream] {
        let name = format!("jobs-{}", kind.as_str_name().to_lowercase());
        tenant.queue_typed(&name, kind).await;
        let mut first = RawSubscribe::started(&tenant.client, &name).await;
        let mut second = RawSubscribe::started(&tenant.client, &name).await;
        let asked = Instant::now();
        delete_queue(&tenant.client, &name).await;
        for stream in [&mut first, &mut second] {
            let (status, cut) = stream.end().await;
            assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "QUEUE_DELETED"), "{status:?}");
            assert!(status.message().contains(&name), "{status:?}");
            assert_prompt("a deleted queue ended its stream after", asked, cut);
        }
    }
}

#[tokio::test]
async fn the_rust_client_reports_that_the_queue_was_deleted() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let mut subscription = tenant.subscribe("jobs").await;
    delete_queue(&tenant.client, "jobs").await;
    let error = crate::harness::wait::within("the end", subscription.next()).await.expect_err("never OK");
    assert_eq!(error.code(), Some(Code::NotFound), "{error}");
}

#[tokio::test]
async fn deleting_a_tenant_ends_all_its_streams_with_the_reason() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let mut publisher = RawPublish::open(&tenant.client).await.unwrap();
    assert_eq!(publisher.publish(to_queue("jobs", "one")).await.unwrap().outcome(), Outcome::Confirmed);
    let mut subscriber = RawSubscribe::started(&tenant.client, "jobs").await;
    let mut idle = RawPublish::open(&tenant.client).await.unwrap();

    let admin = SharedStack::get().admin().await;
    let asked = Instant::now();
    admin.admin().delete_tenant(pb::DeleteTenantRequest { tenant: tenant.id.clone() }).await.unwrap();
    for (what, (status, cut)) in [
        ("the deleted tenant's publisher was cut after", publisher.end().await),
        ("the deleted tenant's subscriber was cut after", subscriber.end().await),
        ("the deleted tenant's idle publisher was cut after", idle.end().await),
    ] {
        // The tenant is suspended first, and another gateway may have loaded only that.
        let answer = (status.code(), reason(&status));
        let ways = [(Code::Unauthenticated, "TENANT_NOT_FOUND"), (Code::PermissionDenied, "TENANT_SUSPENDED")];
        assert!(ways.contains(&(answer.0, answer.1.as_str())), "{status:?}");
        assert_prompt(what, asked, cut);
    }
    until("it is refused as unknown", async || {
        let refused = RawSubscribe::open(&tenant.client).await.err().expect("refused");
        (reason(&refused) == "TENANT_NOT_FOUND").then_some(())
    })
    .await;
}

/// Opens an idle publisher and an idle subscriber through one gateway.
async fn open_streams(client: &Client) -> (RawPublish, RawSubscribe) {
    let mut publisher = RawPublish::open(client).await.unwrap();
    assert_eq!(publisher.publish(to_queue("jobs", "one")).await.unwrap().outcome(), Outcome::Confirmed);
    (publisher, RawSubscribe::started(client, "jobs").await)
}

#[tokio::test]
async fn suspending_a_tenant_ends_its_streams_at_every_gateway_within_two_seconds() {
    let (tenant, other) = (Tenant::fresh().await, Tenant::fresh().await);
    let shared = SharedStack::get();
    let second = shared.stack.another_gateway().await.unwrap();
    let credentials = Credentials::Secret { client_id: tenant.client_id.clone(), secret: tenant.secret.clone() };
    let there = shared.client_at(&format!("https://{}", second.grpc_address()), credentials).await;
    for tenant in [&tenant, &other] {
        tenant.queue("jobs").await;
    }
    let (mut publisher, mut subscriber) = open_streams(&tenant.client).await;
    let (mut publisher_there, mut subscriber_there) = open_streams(&there).await;
    let (mut others_publisher, mut others_subscriber) = open_streams(&other.client).await;

    let admin = shared.admin().await;
    let asked = Instant::now();
    admin.admin().suspend_tenant(pb::SuspendTenantRequest { tenant: tenant.id.clone() }).await.unwrap();
    let ends = tokio::join!(publisher.end(), subscriber.end(), publisher_there.end(), subscriber_there.end());
    for (what, (status, cut)) in [
        ("suspended: the publisher was cut after", ends.0),
        ("suspended: the subscriber was cut after", ends.1),
        ("suspended: the publisher at another gateway was cut after", ends.2),
        ("suspended: the subscriber at another gateway was cut after", ends.3),
    ] {
        let answer = (status.code(), reason(&status));
        assert_eq!((answer.0, answer.1.as_str()), (Code::PermissionDenied, "TENANT_SUSPENDED"), "{status:?}");
        assert_prompt(what, asked, cut);
    }
    let refused = RawPublish::open(&tenant.client).await.err().expect("refused");
    assert_eq!(reason(&refused), "TENANT_SUSPENDED");

    // Other tenants are not affected.
    assert_eq!(others_publisher.publish(to_queue("jobs", "two")).await.unwrap().outcome(), Outcome::Confirmed);
    assert_eq!(others_subscriber.delivery().await.message.unwrap().body, "one");

    // Its messages are still there when it is resumed, with the same token.
    admin.admin().resume_tenant(pb::ResumeTenantRequest { tenant: tenant.id.clone() }).await.unwrap();
    assert_eq!(tenant.take("jobs", 2).await, ["one", "one"]);
    second.shutdown().await;
}

#[tokio::test]
async fn revoking_a_client_ends_its_streams_within_two_seconds_and_not_those_of_other_clients() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let shared = SharedStack::get();
    let admin = shared.admin().await;
    let grants = crate::harness::tenant::all_grants();
    let (id, secret) = Tenant::add_client(&admin, &tenant.id, "leaver", grants).await;
    let leaver = shared.client(&id, &secret).await;
    let (mut publisher, mut subscriber) = open_streams(&leaver).await;
    let mut colleague = RawPublish::open(&tenant.client).await.unwrap();

    let asked = Instant::now();
    admin.admin().revoke_client(pb::RevokeClientRequest { client_id: id }).await.unwrap();
    let ends = tokio::join!(publisher.end(), subscriber.end());
    for (what, (status, cut)) in [
        ("revoked: the publisher was disconnected after", ends.0),
        ("revoked: the subscriber was disconnected after", ends.1),
    ] {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "CLIENT_REVOKED"), "{status:?}");
        assert_prompt(what, asked, cut);
    }
    assert_eq!(colleague.publish(to_queue("jobs", "two")).await.unwrap().outcome(), Outcome::Confirmed);
    // The messages of the revoked client are returned.
    assert_eq!(tenant.take("jobs", 2).await, ["one", "two"]);
}

#[tokio::test]
async fn a_conflicting_declaration_names_the_argument_without_effect_on_others() {
    let tenant = Tenant::fresh().await;
    tenant.queue_of(pb::Queue { name: "jobs".into(), max_length: 5, ..pb::Queue::default() }).await;
    tenant.exchange("events", pb::ExchangeType::Topic).await;
    let (mut publisher, mut subscriber) = open_streams(&tenant.client).await;
    let first = subscriber.delivery().await;

    for (other, argument) in [
        (pb::Queue { max_length: 7, ..pb::Queue::default() }, "max_length:"),
        (
            pb::Queue { max_length: 5, r#type: QueueType::Stream.into(), ..pb::Queue::default() },
            "type: it has quorum, but stream was requested",
        ),
        (
            pb::Queue { max_length: 5, r#type: QueueType::Classic.into(), ..pb::Queue::default() },
            "type: it has quorum, but classic was requested",
        ),
        (pb::Queue { max_length: 5, max_length_bytes: 9, ..pb::Queue::default() }, "max_length_bytes:"),
        (pb::Queue { max_length: 5, single_active_consumer: true, ..pb::Queue::default() }, "single_active_consumer:"),
        (pb::Queue { max_length: 5, max_delivery_attempts: 3, ..pb::Queue::default() }, "max_delivery_attempts:"),
    ] {
        // A stream queue has no max_length, so the gateway refuses it before a request to the broker.
        let other =
            if other.r#type == i32::from(QueueType::Stream) { pb::Queue { max_length: 0, ..other } } else { other };
        let queue = Some(pb::Queue { name: "jobs".into(), ..other });
        let request = pb::DeclareQueueRequest { queue, validate_only: false };
        let status = tenant.client.topology().declare_queue(request).await.expect_err("it exists with other arguments");
        let answer = (status.code(), reason(&status));
        assert_eq!(
            (answer.0, answer.1.as_str()),
            (Code::FailedPrecondition, "EXISTS_WITH_OTHER_ARGUMENTS"),
            "{status:?}"
        );
        assert!(status.message().contains(&format!("another {argument}")), "{argument}: {status:?}");
    }
    let exchange =
        pb::Exchange { name: "events".into(), r#type: pb::ExchangeType::Fanout.into(), ..pb::Exchange::default() };
    let request = pb::DeclareExchangeRequest { exchange: Some(exchange), validate_only: false };
    let status = tenant.client.topology().declare_exchange(request).await.expect_err("it exists with other arguments");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("another type: it has topic, but fanout was requested"), "{status:?}");

    assert_eq!(publisher.publish(to_queue("jobs", "two")).await.unwrap().outcome(), Outcome::Confirmed);
    let second = subscriber.delivery().await;
    // The same stream and channel: ids continue, and the first delivery is still outstanding.
    assert_eq!((second.delivery_id, second.redelivered), (first.delivery_id + 1, false));
    subscriber.ack(Vec::new(), second.delivery_id).await;
    subscriber.finish();
    assert_eq!(subscriber.end().await.0.code(), Code::Ok);
}

#[tokio::test]
async fn a_channel_error_of_one_stream_has_no_effect_on_others() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.queue_typed("log", QueueType::Stream).await;
    let (mut publisher, mut subscriber) = open_streams(&tenant.client).await;
    let first = subscriber.delivery().await;

    // The consuming connection: everything that causes RabbitMQ to close a channel.
    let from_first = pb::StreamPosition { position: Some(pb::stream_position::Position::First(pb::StreamFirst {})) };
    for wrong in [
        start("missing"),
        pb::SubscribeStart { exclusive: true, ..start("jobs") },
        pb::SubscribeStart { position: Some(from_first), ..start("jobs") },
        pb::SubscribeStart { exclusive: true, ..start("log") },
    ] {
        let mut stream = RawSubscribe::open(&tenant.client).await.unwrap();
        let what = format!("{wrong:?}");
        stream.send(Frame::Start(wrong)).await;
        let (status, _) = stream.end().await;
        assert!(matches!(status.code(), Code::NotFound | Code::FailedPrecondition), "{what}: {status:?}");
    }
    let mut topology = tenant.client.topology();
    let purge = topology.purge_queue(pb::PurgeQueueRequest { name: "log".into() }).await.expect_err("a stream");
    assert_eq!(purge.code(), Code::FailedPrecondition, "{purge:?}");
    topology
        .delete_queue(pb::DeleteQueueRequest { name: "missing".into(), ..Default::default() })
        .await
        .expect_err("none");
    let binding = pb::Binding { source: "missing".into(), destination: "jobs".into(), ..pb::Binding::default() };
    topology.bind(pb::BindRequest { binding: Some(binding) }).await.expect_err("no such exchange");

    // The publishing connection: a missing exchange closes the channel of its publisher.
    let mut doomed = RawPublish::open(&tenant.client).await.unwrap();
    let lost = pb::Publication { exchange: "missing".into(), ..to_queue("jobs", "lost") };
    let result = doomed.publish(lost).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Rejected, "{result:?}");
    assert!(result.reason.starts_with("EXCHANGE_NOT_FOUND"), "{result:?}");
    assert_eq!(doomed.publish(to_queue("jobs", "two")).await.unwrap().outcome(), Outcome::Confirmed);
    doomed.send(PublishFrame::Publications(pb::Publications::default())).await;
    assert_eq!(doomed.end().await.0.code(), Code::InvalidArgument);

    assert_eq!(publisher.publish(to_queue("jobs", "three")).await.unwrap().outcome(), Outcome::Confirmed);
    let (second, third) = (subscriber.delivery().await, subscriber.delivery().await);
    let ids = [second.delivery_id, third.delivery_id];
    assert_eq!(ids, [first.delivery_id + 1, first.delivery_id + 2], "the stream was never interrupted");
    assert_eq!((second.redelivered, third.redelivered), (false, false));
    subscriber.ack(vec![999], 0).await;
    match subscriber.event().await.unwrap() {
        Some(Event::Settled(settled)) => assert_eq!(settled.unknown_delivery_ids, [999]),
        other => panic!("{other:?}"),
    }
}

async fn delete_queue(client: &Client, name: &str) {
    let request = pb::DeleteQueueRequest { name: name.into(), ..pb::DeleteQueueRequest::default() };
    client.topology().delete_queue(request).await.unwrap();
}
