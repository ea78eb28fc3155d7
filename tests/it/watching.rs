//! Watching a tenant: live figures of its queues, from one shared poll, also without the broker's statistics.

use tonic::{Code, Status, Streaming};
use warrengate::{client::Client, pb};

use crate::harness::{
    SharedStack, Tenant,
    consumer::{RawSubscription, start},
    dedicated::DedicatedStack,
    raw::{field, reason},
    tenant::all_grants,
    to_queue,
    wait::{until, within},
    web,
};

type Snapshots = Streaming<pb::WatchTenantResponse>;

async fn watch(client: &Client, request: pb::WatchTenantRequest) -> Result<Snapshots, Status> {
    Ok(within("a watch", client.admin().watch_tenant(request)).await?.into_inner())
}

fn every_second() -> pb::WatchTenantRequest {
    pb::WatchTenantRequest { interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }), ..Default::default() }
}

async fn next(snapshots: &mut Snapshots) -> pb::WatchTenantResponse {
    within("a snapshot", snapshots.message()).await.unwrap().expect("the stream continues")
}

/// Reads snapshots until one satisfies the condition.
async fn until_seen(
    what: &str,
    snapshots: &mut Snapshots,
    is_so: impl Fn(&pb::WatchTenantResponse) -> bool,
) -> pb::WatchTenantResponse {
    within(what, async {
        loop {
            let snapshot = snapshots.message().await.unwrap().expect("the stream continues");
            if is_so(&snapshot) {
                return snapshot;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_watch_shows_depth_unsettled_consumers_dead_letters_and_the_age_of_the_oldest_message() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.queue("idle").await;
    let mut snapshots = watch(&tenant.client, every_second()).await.unwrap();
    let first = next(&mut snapshots).await;
    assert_eq!((first.failure.as_str(), first.totals.unwrap().queues), ("", 2), "{first:?}");
    // From now on, the ages of messages that come in are known.
    until_seen("an empty queue with statistics", &mut snapshots, |snapshot| {
        snapshot.queues.iter().all(|queue| queue.oldest_message_age.is_some_and(|age| age.seconds == 0))
    })
    .await;
    tenant.outcomes((0..5).map(|n| to_queue("jobs", n.to_string())).collect()).await;
    let mut consumer =
        RawSubscription::open(&tenant.client, pb::SubscribeStart { max_outstanding_messages: 2, ..start("jobs") })
            .await;
    let taken = consumer.take(2).await;
    let seen = until_seen("the figures of the queue", &mut snapshots, |snapshot| {
        let jobs = &snapshot.queues[0];
        (jobs.messages_ready, jobs.messages_unsettled, jobs.consumers) == (3, Some(2), Some(1))
    })
    .await;
    assert_eq!(seen.queues.iter().map(|queue| queue.queue.as_str()).collect::<Vec<_>>(), ["jobs", "idle"]);
    assert_eq!(seen.queues[0].r#type(), pb::QueueType::Quorum);
    let totals = seen.totals.unwrap();
    assert_eq!((totals.messages_ready, totals.messages_unsettled, totals.consumers), (3, 2, 1));
    until_seen("an age that grows", &mut snapshots, |snapshot| {
        snapshot.queues[0].oldest_message_age.is_some_and(|age| age.seconds >= 3)
    })
    .await;
    consumer.nack(&[taken[0].delivery_id], pb::NackAction::DeadLetter).await;
    until_seen("the dead letter", &mut snapshots, |snapshot| snapshot.totals.unwrap().dead_letters == 1).await;
    let only = pb::WatchTenantRequest { queue: "idle".into(), ..every_second() };
    let one = next(&mut watch(&tenant.client, only).await.unwrap()).await;
    assert_eq!((one.queues.len(), one.totals.unwrap().queues), (1, 2));
    let fewest = pb::WatchTenantRequest { max_queues: 1, ..every_second() };
    let one = next(&mut watch(&tenant.client, fewest).await.unwrap()).await;
    assert_eq!(one.queues.iter().map(|queue| queue.queue.as_str()).collect::<Vec<_>>(), ["jobs"]);
    consumer.close().await;
}

#[tokio::test]
async fn watches_share_the_tenants_poll_and_are_limited_for_each_client() {
    let tenant = Tenant::fresh().await;
    let gateway = web::gateway(|_| {}).await;
    let client = gateway.client(&tenant.client_id, &tenant.secret).await;
    let mut open = Vec::new();
    for _ in 0..10 {
        let mut snapshots = watch(&client, every_second()).await.unwrap();
        next(&mut snapshots).await;
        open.push(snapshots);
    }
    let measured = |snapshot: &pb::WatchTenantResponse| snapshot.measured.map(|at| (at.seconds, at.nanos));
    let mut polls = std::collections::BTreeSet::new();
    for snapshots in &mut open {
        polls.insert(measured(&next(snapshots).await));
    }
    assert!(polls.len() <= 3, "ten watches within two seconds have {} polls", polls.len());
    let refused = watch(&client, every_second()).await.expect_err("one too many");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "TOO_MANY_WATCHES"));
    open.pop();
    until("a free place", async || watch(&client, every_second()).await.ok()).await;
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn a_watch_is_refused_without_the_grant_or_for_another_tenant_and_ends_with_the_grant() {
    let (tenant, other, world) = (Tenant::fresh().await, Tenant::fresh().await, SharedStack::get());
    let gateway = web::gateway(|_| {}).await;
    let admin = gateway.client("admin", world.admin_secret()).await;
    let make = async |name: &str, grants: pb::Grants| {
        let (id, secret) = Tenant::add_client(&admin, &tenant.id, name, grants).await;
        (id.clone(), gateway.client(&id, &secret).await)
    };
    let (_, plain) = make("plain", pb::Grants { observe: false, ..all_grants() }).await;
    let denied = watch(&plain, every_second()).await.expect_err("not granted");
    assert_eq!((denied.code(), reason(&denied).as_str()), (Code::PermissionDenied, "OBSERVE_NOT_GRANTED"));
    let (id, observer) = make("observer", pb::Grants { observe: true, ..Default::default() }).await;
    let foreign = pb::WatchTenantRequest { tenant: other.id.clone(), ..every_second() };
    let denied = watch(&observer, foreign).await.expect_err("another tenant");
    assert_eq!(reason(&denied), "PLATFORM_ADMINISTRATORS_ONLY");
    for (request, named) in [
        (pb::WatchTenantRequest { interval: Some(prost_types::Duration::default()), ..Default::default() }, "interval"),
        (pb::WatchTenantRequest { max_queues: 1_001, ..Default::default() }, "max_queues"),
        (pb::WatchTenantRequest { queue: "wg.dead-letters".into(), ..Default::default() }, "queue"),
    ] {
        let refused = watch(&observer, request).await.expect_err(named);
        assert_eq!((refused.code(), field(&refused).as_str()), (Code::InvalidArgument, named));
    }
    let unnamed = watch(&admin, every_second()).await.expect_err("which tenant");
    assert_eq!((unnamed.code(), field(&unnamed).as_str()), (Code::InvalidArgument, "tenant"));
    let missing = pb::WatchTenantRequest { tenant: "no-such-tenant".into(), ..every_second() };
    assert_eq!(reason(&watch(&admin, missing).await.expect_err("missing")), "TENANT_NOT_FOUND");

    let mut by_admin =
        watch(&admin, pb::WatchTenantRequest { tenant: tenant.id.clone(), ..every_second() }).await.unwrap();
    next(&mut by_admin).await;
    let mut snapshots = watch(&observer, every_second()).await.unwrap();
    next(&mut snapshots).await;
    let client = pb::Client { client_id: id, grants: Some(pb::Grants::default()), ..Default::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["grants".into()] });
    let update = pb::UpdateClientRequest { client: Some(client), update_mask, ..Default::default() };
    admin.admin().update_client(update).await.unwrap();
    let ended = ended(&mut snapshots).await;
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::PermissionDenied, "OBSERVE_NOT_GRANTED"));
    // The administrator's watch ends with the tenant.
    admin.admin().delete_tenant(pb::DeleteTenantRequest { tenant: tenant.id.clone() }).await.unwrap();
    let ended = self::ended(&mut by_admin).await;
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    gateway.running.shutdown().await;
}

/// The status with which a watch ends.
async fn ended(snapshots: &mut Snapshots) -> Status {
    within("the end of the watch", async {
        loop {
            if let Err(status) = snapshots.message().await {
                return status;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_watch_ends_with_the_drain_of_its_gateway() {
    let tenant = Tenant::fresh().await;
    let gateway = web::gateway(|_| {}).await;
    let client = gateway.client(&tenant.client_id, &tenant.secret).await;
    let mut snapshots = watch(&client, every_second()).await.unwrap();
    next(&mut snapshots).await;
    let (ended, ()) = tokio::join!(ended(&mut snapshots), gateway.running.shutdown());
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Unavailable, "DRAINING"));
}

#[tokio::test]
async fn depth_and_consumers_are_shown_without_the_brokers_statistics() {
    let dedicated = DedicatedStack::start("no-statistics", &[]).await;
    let off = "application:set_env(rabbitmq_management, disable_management_stats, true).";
    dedicated.stack.node().control(&["eval", off]).await.unwrap();
    let tenant = dedicated.tenant().await;
    tenant.queue("jobs").await;
    tenant.outcomes((0..5).map(|n| to_queue("jobs", n.to_string())).collect()).await;
    let mut consumer =
        RawSubscription::open(&tenant.client, pb::SubscribeStart { max_outstanding_messages: 2, ..start("jobs") })
            .await;
    consumer.take(2).await;
    let mut snapshots = watch(&tenant.client, every_second()).await.unwrap();
    let seen = until_seen("the figures", &mut snapshots, |snapshot| {
        let jobs = &snapshot.queues[0];
        (jobs.messages_ready, jobs.messages_unsettled, jobs.consumers) == (3, Some(2), Some(1))
    })
    .await;
    assert_eq!((seen.queues[0].publish_rate, seen.queues[0].oldest_message_age), (None, None), "{seen:?}");
    assert!(seen.failure.is_empty());
    let status = dedicated.admin().await.admin().get_status(pb::GetStatusRequest {}).await.unwrap().into_inner();
    assert!(!status.broker.unwrap().collects_statistics);
    // Without statistics nobody knows whether the queue has consumers, and 0 would raise an alert.
    let ready = format!("warrengate_queue_messages{{tenant=\"{}\",state=\"ready\"}} 3", tenant.id);
    let metrics = format!("http://{}/metrics", dedicated.stack.gateway().ops_address());
    let page = until("the depth on the page", async || {
        let page = web::http().get(&metrics).send().await.unwrap().text().await.unwrap();
        page.lines().any(|line| line.starts_with(&ready)).then_some(page)
    })
    .await;
    let consumers = page.lines().find(|line| line.starts_with("warrengate_queue_consumers{"));
    assert_eq!(consumers, None);
    consumer.close().await;
}

#[tokio::test]
async fn the_metrics_show_what_the_queues_of_each_tenant_have() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.outcomes((0..4).map(|n| to_queue("jobs", n.to_string())).collect()).await;
    let mut consumer =
        RawSubscription::open(&tenant.client, pb::SubscribeStart { max_outstanding_messages: 1, ..start("jobs") })
            .await;
    let taken = consumer.take(1).await;
    consumer.nack(&[taken[0].delivery_id], pb::NackAction::DeadLetter).await;
    consumer.take(1).await;
    let id = &tenant.id;
    let expected = [
        format!("warrengate_queue_messages{{tenant=\"{id}\",state=\"ready\"}} 2"),
        format!("warrengate_queue_messages{{tenant=\"{id}\",state=\"unsettled\"}} 1"),
        format!("warrengate_queue_consumers{{tenant=\"{id}\"}} 1"),
        format!("warrengate_dead_letters_stored{{tenant=\"{id}\"}} 1"),
        format!("warrengate_queue_oldest_message_age_seconds{{tenant=\"{id}\"}} "),
    ];
    until("the figures on the page", async || {
        let (_, _, page) = web::ops_get("/metrics").await;
        expected.iter().all(|line| page.lines().any(|found| found.starts_with(line.as_str()))).then_some(())
    })
    .await;
    consumer.close().await;
}
