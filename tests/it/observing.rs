//! What a tenant's observer and a platform administrator can see: usage, audit events, open streams and the status of
//! the gateway.

use tonic::{Code, Status};
use warrengate::{client::Client, pb};

use crate::harness::{
    SharedStack, Tenant,
    consumer::{RawSubscription, start},
    raw::{RawPublish, RawSubscribe, reason},
    tenant::all_grants,
    to_queue,
    wait::{until, within},
    web,
};

/// A client of the tenant at this gateway.
async fn client(gateway: &web::OwnGateway, tenant: &Tenant, name: &str, grants: pb::Grants) -> Client {
    let (id, secret) = Tenant::add_client(&SharedStack::get().admin().await, &tenant.id, name, grants).await;
    gateway.client(&id, &secret).await
}

fn observer() -> pb::Grants {
    pb::Grants { observe: true, ..pb::Grants::default() }
}

async fn streams(client: &Client, request: pb::ListStreamsRequest) -> Result<pb::ListStreamsResponse, Status> {
    Ok(within("the streams", client.admin().list_streams(request)).await?.into_inner())
}

#[tokio::test]
async fn an_observer_sees_the_usage_and_audit_events_of_its_own_tenant_only() {
    let (tenant, other) = (Tenant::fresh().await, Tenant::fresh().await);
    let gateway = web::gateway(|_| {}).await;
    let observer = client(&gateway, &tenant, "observer", observer()).await;
    let usage = observer.admin().get_tenant_usage(pb::GetTenantUsageRequest::default()).await.unwrap().into_inner();
    let clients = usage.meters.iter().find(|meter| meter.limit == "max_clients").unwrap();
    assert_eq!(clients.used, 2, "the application and the observer");
    for tenant in [other.id.as_str(), "no-such-tenant"] {
        let request = pb::GetTenantUsageRequest { tenant: tenant.into() };
        let denied = observer.admin().get_tenant_usage(request).await.expect_err("another tenant");
        assert_eq!(reason(&denied), "PLATFORM_ADMINISTRATORS_ONLY");
        let request = pb::ListAuditEventsRequest { tenant: tenant.into(), ..Default::default() };
        let denied = observer.admin().list_audit_events(request).await.expect_err("another tenant");
        assert_eq!(reason(&denied), "PLATFORM_ADMINISTRATORS_ONLY");
    }
    // A client of another tenant names this one. The attempt is recorded, and not shown to this tenant.
    let elsewhere = client(&gateway, &other, "curious", pb::Grants { administer: true, ..Default::default() }).await;
    let request = pb::SuspendTenantRequest { tenant: tenant.id.clone() };
    elsewhere.admin().suspend_tenant(request).await.expect_err("another tenant");
    let unrouted = tenant.client.publish_batch(vec![to_queue("wg.reserved", "x")]).await.unwrap();
    assert_eq!(unrouted[0].outcome(), pb::Outcome::Rejected);

    let admin = SharedStack::get().admin().await;
    let about = pb::ListAuditEventsRequest { tenant: tenant.id.clone(), ..Default::default() };
    until("both events in the trail", async || {
        let events = admin.admin().list_audit_events(about.clone()).await.unwrap().into_inner().events;
        let is_there = |part: &str| events.iter().any(|event| event.client_id.ends_with(part));
        (is_there(".curious")
            && events.iter().any(|event| event.outcome == "refused" && event.client_id == tenant.client_id))
        .then_some(())
    })
    .await;
    let own = observer.admin().list_audit_events(pb::ListAuditEventsRequest::default()).await.unwrap().into_inner();
    assert!(own.events.iter().all(|event| event.tenant == tenant.id), "{own:?}");
    assert!(own.events.iter().any(|event| event.client_id == tenant.client_id && event.outcome == "refused"));
    assert!(own.events.iter().all(|event| !event.client_id.ends_with(".curious")), "{own:?}");
    let created = own.events.iter().find(|event| event.method.ends_with("/CreateClient")).expect("it was created");
    assert_eq!((created.client_id.as_str(), created.peer_address.as_str()), ("admin", ""));
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn without_the_observe_grant_nothing_is_shown() {
    let tenant = Tenant::fresh().await;
    let gateway = web::gateway(|_| {}).await;
    let grants = pb::Grants { observe: false, administer: true, ..all_grants() };
    let app = client(&gateway, &tenant, "other", grants).await;
    let usage = app.admin().get_tenant_usage(pb::GetTenantUsageRequest::default()).await.expect_err("not granted");
    let audit = app.admin().list_audit_events(pb::ListAuditEventsRequest::default()).await.expect_err("not granted");
    let listed = streams(&app, pb::ListStreamsRequest::default()).await.expect_err("not granted");
    for refused in [usage, audit, listed] {
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "OBSERVE_NOT_GRANTED"));
    }
    let status = app.admin().get_status(pb::GetStatusRequest {}).await.expect_err("not granted");
    assert_eq!(reason(&status), "PLATFORM_ADMINISTRATORS_ONLY");
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn open_streams_are_listed_with_what_they_do_and_closed_with_a_clear_code() {
    let (tenant, other) = (Tenant::fresh().await, Tenant::fresh().await);
    tenant.queue("jobs").await;
    let gateway = web::gateway(|_| {}).await;
    let app = client(&gateway, &tenant, "worker", all_grants()).await;
    let manager = pb::Grants { administer: true, observe: true, ..Default::default() };
    let manager = client(&gateway, &tenant, "manager", manager).await;
    let elsewhere = client(&gateway, &other, "worker", pb::Grants { administer: true, ..all_grants() }).await;

    let mut publisher = RawPublish::open(&app).await.unwrap();
    let mut consumer = RawSubscribe::started(&app, "jobs").await;
    let mut foreign = RawPublish::open(&elsewhere).await.unwrap();
    foreign.publish(to_queue("nowhere", "x")).await.unwrap();
    for n in 0..3 {
        publisher.publish(pb::Publication { sequence: n, ..to_queue("jobs", "x") }).await.unwrap();
    }
    until("the deliveries", async || {
        let listed = streams(&manager, pb::ListStreamsRequest::default()).await.unwrap();
        listed.streams.iter().any(|stream| stream.in_flight_messages == 3).then_some(())
    })
    .await;
    let listed = streams(&manager, pb::ListStreamsRequest::default()).await.unwrap();
    assert_eq!(listed.streams.len(), 2, "{listed:?}");
    let [first, second] = &listed.streams[..] else { panic!("two") };
    assert_eq!((first.kind(), first.messages, first.in_flight_messages), (pb::StreamKind::Publish, 3, 0));
    assert_eq!((second.kind(), second.queue.as_str()), (pb::StreamKind::Subscribe, "jobs"));
    assert_eq!((second.messages, second.in_flight_messages), (3, 3));
    assert!(second.in_flight_bytes > 0 && second.peer_address.starts_with("127.0.0.1:"), "{second:?}");
    assert_eq!(second.client_id, format!("{}.worker", tenant.id));
    let only = pb::ListStreamsRequest { kind: pb::StreamKind::Subscribe.into(), ..Default::default() };
    assert_eq!(streams(&manager, only).await.unwrap().streams, std::slice::from_ref(second));
    let paged = pb::ListStreamsRequest { page_size: 1, ..Default::default() };
    let page = streams(&manager, paged.clone()).await.unwrap();
    assert_eq!(page.streams[0].stream_id, first.stream_id);
    let page = streams(&manager, pb::ListStreamsRequest { page_token: page.next_page_token, ..paged }).await.unwrap();
    assert_eq!((page.streams[0].stream_id.as_str(), page.next_page_token.as_str()), (second.stream_id.as_str(), ""));

    let close = pb::CloseStreamRequest { stream_id: second.stream_id.clone(), tenant: String::new() };
    let missing = elsewhere.admin().close_stream(close.clone()).await.expect_err("another tenant's");
    assert_eq!((missing.code(), reason(&missing).as_str()), (Code::NotFound, "STREAM_NOT_FOUND"));
    let denied = app.admin().close_stream(close.clone()).await.expect_err("not granted");
    assert_eq!(reason(&denied), "ADMINISTER_NOT_GRANTED");
    manager.admin().close_stream(close.clone()).await.unwrap();
    let (ended, _) = consumer.end().await;
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Aborted, "STREAM_CLOSED"));
    // The messages return, and no attempt is used up.
    tenant.has_depth("jobs", 3).await;
    let mut again = RawSubscription::open(&app, start("jobs")).await;
    assert!(again.take(3).await.iter().all(|delivery| delivery.attempt == 1));
    let gone = manager.admin().close_stream(close).await.expect_err("it has ended");
    assert_eq!(reason(&gone), "STREAM_NOT_FOUND");
    publisher.publish(pb::Publication { sequence: 9, ..to_queue("jobs", "x") }).await.expect("the other goes on");

    let admin = SharedStack::get().admin().await;
    let events =
        pb::ListAuditEventsRequest { tenant: tenant.id.clone(), method: "CloseStream".into(), ..Default::default() };
    let events = admin.admin().list_audit_events(events).await.unwrap().into_inner().events;
    let done = events.iter().find(|event| event.outcome == "done").expect("audited");
    assert_eq!((done.client_id.as_str(), &done.object), (format!("{}.manager", tenant.id).as_str(), &second.stream_id));
    drop((publisher, foreign, again));
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn the_status_shows_the_broker_the_store_and_the_certificates() {
    let admin = SharedStack::get().admin().await;
    // The broker reports a node's figures a few seconds after its start.
    let status = until("the figures of the node", async || {
        let status = admin.admin().get_status(pb::GetStatusRequest {}).await.unwrap().into_inner();
        let has_figures = status.broker.as_ref().unwrap().nodes[0].memory_limit_bytes > 0;
        has_figures.then_some(status)
    })
    .await;
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert!(
        status.ready && status.not_ready.is_empty() && !status.draining && status.gateway.len() == 32,
        "{status:?}"
    );
    let broker = status.broker.unwrap();
    assert!(broker.reachable && broker.failure.is_empty() && broker.collects_statistics, "{broker:?}");
    assert!(!broker.version.is_empty() && !broker.erlang_version.is_empty());
    let node = &broker.nodes[0];
    assert!(node.running && !node.memory_alarm && !node.disk_alarm && node.memory_limit_bytes > 0, "{node:?}");
    let store = status.store.unwrap();
    assert!(store.reachable && ["sqlite", "postgresql"].contains(&store.kind.as_str()), "{store:?}");
    let uses: Vec<_> = status.certificates.iter().map(|certificate| certificate.r#use.as_str()).collect();
    for expected in ["broker_ca", "gateway", "provisioner"] {
        assert!(uses.contains(&expected), "{expected} in {uses:?}");
    }
    let now = std::time::SystemTime::now();
    let is_later = |end: &pb::CertificateStatus| std::time::SystemTime::try_from(end.expires.unwrap()).unwrap() > now;
    assert!(status.certificates.iter().all(is_later), "{:?}", status.certificates);
}
