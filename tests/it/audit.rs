//! The audit trail: every operation and every refusal with its actor and address, one event each or aggregated when
//! there are too many.

use secrecy::SecretString;
use serde_json::Value;
use tonic::{Code, Request, metadata::MetadataValue};
use warrengate::{
    client::{Client, Credentials},
    pb::{self, AuditEvent, Outcome, auth_client::AuthClient, topology_client::TopologyClient},
    store::{AuditFilter, EncryptionKey, Store},
};

use crate::harness::{
    SharedStack, Tenant,
    command::{self, json},
    raw::{RawPublish, RawSubscribe, reason},
    tenant::all_grants,
    to_queue,
    wait::{until, within},
    web::{self, OwnGateway},
};

/// A separate gateway, so that refusals of other tests are not aggregated with those of this one.
struct Audited {
    gateway: OwnGateway,
    admin: Client,
}

impl Audited {
    async fn start() -> Self {
        let gateway = web::gateway(|_| {}).await;
        let admin = Self::client_of(&gateway, "admin", SharedStack::get().admin_secret()).await;
        Self { gateway, admin }
    }

    async fn client_of(gateway: &OwnGateway, id: &str, secret: &SecretString) -> Client {
        let credentials = Credentials::Secret { client_id: id.into(), secret: secret.clone() };
        SharedStack::get().client_at(&gateway.endpoint(), credentials).await
    }

    async fn client(&self, id: &str, secret: &SecretString) -> Client {
        Self::client_of(&self.gateway, id, secret).await
    }

    async fn tenant(&self) -> Tenant {
        Tenant::made_by(&self.admin, async |id, secret| self.client(id, secret).await).await
    }

    async fn list(&self, request: pb::ListAuditEventsRequest) -> Vec<AuditEvent> {
        let answer = within("the audit trail", self.admin.admin().list_audit_events(request)).await.unwrap();
        answer.into_inner().events
    }

    /// Waits for a refusal by this rule that satisfies the condition.
    async fn refusal(&self, rule: &str, passes: impl Fn(&AuditEvent) -> bool) -> AuditEvent {
        let refused = pb::ListAuditEventsRequest { outcome: "refused".into(), page_size: 1_000, ..Default::default() };
        until(&format!("a refusal by {rule}"), async || {
            let events = self.list(refused.clone()).await;
            events.into_iter().find(|event| event.rule == rule && passes(event))
        })
        .await
    }
}

fn of_tenant(tenant: &str) -> pb::ListAuditEventsRequest {
    pb::ListAuditEventsRequest { tenant: tenant.into(), page_size: 1_000, ..Default::default() }
}

fn is_from_here(event: &AuditEvent) -> bool {
    event.peer_address.starts_with("127.0.0.1:") && event.trace_id.len() == 32
}

#[tokio::test]
async fn an_operation_is_audited_before_it_is_answered() {
    let audited = Audited::start().await;
    let tenant = audited.tenant().await;
    let suspend = pb::SuspendTenantRequest { tenant: tenant.id.clone() };
    audited.admin.admin().suspend_tenant(suspend).await.unwrap();
    // Read directly from the store, which outlives the gateways.
    let config = &SharedStack::get().stack.config().store;
    let store = Store::open(&config.url, EncryptionKey::parse(&config.encryption_key).unwrap()).await.unwrap();
    let filter = AuditFilter { tenant: tenant.id.clone(), ..AuditFilter::default() };
    let rows = store.audit(&filter, None, 10).await.unwrap();
    // The tenant has also fetched a token.
    let rows: Vec<_> = rows.into_iter().filter(|row| row.event.method.starts_with("warrengate.v1.Admin/")).collect();
    let seen: Vec<_> = rows.iter().map(|row| (row.event.method.as_str(), row.event.object.as_str())).collect();
    assert_eq!(
        seen,
        [
            ("warrengate.v1.Admin/SuspendTenant", tenant.id.as_str()),
            ("warrengate.v1.Admin/CreateClient", tenant.client_id.as_str()),
            ("warrengate.v1.Admin/CreateTenant", tenant.id.as_str()),
        ]
    );
    for row in &rows {
        let event = &row.event;
        assert_eq!((event.client.as_str(), event.outcome.as_str()), ("admin", "done"));
        assert_eq!(event.rule, "platform administrator");
        assert!(event.peer_address.starts_with("127.0.0.1:") && event.trace_id.len() == 32, "{event:?}");
    }
    audited.gateway.running.shutdown().await;
}

#[tokio::test]
async fn every_refusal_is_audited_with_client_address_method_object_and_rule() {
    let audited = Audited::start().await;
    let tenant = audited.tenant().await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let grants = pb::Grants { subscribe: vec!["own".into()], ..pb::Grants::default() };
    let (id, secret) = Tenant::add_client(&audited.admin, &tenant.id, "restricted", grants).await;
    let restricted = audited.client(&id, &secret).await;
    let by_restricted = |event: &AuditEvent| event.client_id == id && event.tenant == tenant.id && is_from_here(event);

    let result = restricted.publish_batch(vec![to_queue("orders", "x"), to_queue("orders", "y")]).await.unwrap();
    assert_eq!(result[0].outcome(), Outcome::Denied);
    let event = audited.refusal("PUBLISH_NOT_GRANTED", by_restricted).await;
    let seen = (event.method.as_str(), event.object.as_str(), event.times);
    assert_eq!(seen, ("warrengate.v1.Messaging/PublishBatch", "/orders", 2), "{event:?}");

    let mut stream = RawSubscribe::open(&restricted).await.unwrap();
    stream.send(pb::subscribe_request::Frame::Start(crate::harness::raw::start("secrets"))).await;
    assert_eq!(reason(&stream.end().await.0), "SUBSCRIBE_NOT_GRANTED");
    let event = audited.refusal("SUBSCRIBE_NOT_GRANTED", by_restricted).await;
    assert_eq!((event.method.as_str(), event.object.as_str()), ("warrengate.v1.Messaging/Subscribe", "secrets"));

    let delete = pb::DeleteQueueRequest { name: "orders".into(), ..Default::default() };
    restricted.topology().delete_queue(delete).await.expect_err("not granted");
    let event = audited.refusal("CONFIGURE_NOT_GRANTED", by_restricted).await;
    assert_eq!((event.method.as_str(), event.object.as_str()), ("warrengate.v1.Topology/DeleteQueue", "orders"));

    // Text from a caller is escaped before it reaches a terminal or a log.
    let bad = "wg.x\n\u{1b}[31m'; DROP TABLE audit; --";
    restricted.topology().get_queue(pb::GetQueueRequest { name: bad.into() }).await.expect_err("no name");
    let event = audited.refusal("INVALID_NAME", by_restricted).await;
    assert_eq!(event.object, bad.escape_default().to_string());

    restricted.admin().list_tenants(pb::ListTenantsRequest::default()).await.expect_err("not an administrator");
    let event = audited.refusal("ADMINISTER_NOT_GRANTED", by_restricted).await;
    assert_eq!(event.method, "warrengate.v1.Admin/ListTenants");

    let channel = audited.gateway.channel().await;
    let mut request = Request::new(pb::ListQueuesRequest::default());
    request.metadata_mut().insert("authorization", MetadataValue::from_static("Bearer forged"));
    let traceparent = format!("00-{trace}-b7ad6b7169203331-01");
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    TopologyClient::new(channel.clone()).list_queues(request).await.expect_err("forged");
    let event = audited.refusal("TOKEN_INVALID", |event| event.client_id.is_empty() && is_from_here(event)).await;
    assert_eq!((event.method.as_str(), event.trace_id.as_str()), ("warrengate.v1.Topology/ListQueues", trace));

    let wrong =
        pb::IssueTokenRequest { client_id: tenant.client_id.clone(), client_secret: "wrong".into(), lifetime: None };
    AuthClient::new(channel).issue_token(wrong).await.expect_err("wrong");
    let trace = audited.gateway.refused_token_by_http(&tenant.client_id).await;
    for method in ["warrengate.v1.Auth/IssueToken", "POST /oauth2/token"] {
        let by_method = |event: &AuditEvent| event.method == method && is_from_here(event);
        let event = audited.refusal("INVALID_CLIENT_CREDENTIALS", by_method).await;
        assert_eq!((event.client_id.as_str(), event.object.as_str()), ("", tenant.client_id.as_str()));
        assert_eq!(event.trace_id == trace, method.starts_with("POST"));
    }
    audited.gateway.running.shutdown().await;
}

#[tokio::test]
async fn a_flood_of_refusals_is_counted_completely_in_few_rows_without_delaying_others() {
    let audited = Audited::start().await;
    let tenant = audited.tenant().await;
    tenant.queue("jobs").await;
    let grants = pb::Grants { publish: vec![], ..all_grants() };
    let (id, secret) = Tenant::add_client(&audited.admin, &tenant.id, "loud", grants).await;
    let loud = audited.client(&id, &secret).await;
    let mut stream = RawPublish::open(&loud).await.unwrap();
    let publication = to_queue("jobs", "x");
    const FRAMES: usize = 2_000;
    for _ in 0..FRAMES {
        assert_eq!(stream.publish(publication.clone()).await.unwrap().outcome(), Outcome::Denied);
    }
    drop(stream);
    tenant.publish_to("jobs", "other messages continue").await;

    let mine = pb::ListAuditEventsRequest { client_id: id, ..of_tenant(&tenant.id) };
    let events = until("all refusals audited", async || {
        let mut events = audited.list(mine.clone()).await;
        events.retain(|event| event.rule == "PUBLISH_NOT_GRANTED");
        let times: u64 = events.iter().map(|event| event.times).sum();
        assert!(times <= FRAMES as u64, "more refusals than there were: {times}");
        (times == FRAMES as u64).then_some(events)
    })
    .await;
    assert!(events.len() < 100, "{} rows", events.len());
    assert!(events.iter().any(|event| event.object == "/jobs" && event.times > 1), "{events:?}");
    audited.gateway.running.shutdown().await;
}

#[tokio::test]
async fn the_trail_is_filtered_paged_and_shown_to_platform_administrators_only() {
    let admin = SharedStack::get().admin().await;
    let tenant = Tenant::fresh().await;
    for name in ["a", "b", "c"] {
        Tenant::add_client(&admin, &tenant.id, name, pb::Grants::default()).await;
    }
    let made = pb::ListAuditEventsRequest { method: "CreateClient".into(), ..of_tenant(&tenant.id) };
    let (mut objects, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListAuditEventsRequest { page_size: 2, page_token, ..made.clone() };
        let page = admin.admin().list_audit_events(request).await.unwrap().into_inner();
        assert!(page.events.len() <= 2);
        objects.extend(page.events.into_iter().map(|event| event.object));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let expected = ["c", "b", "a", "app"].map(|name| format!("{}.{name}", tenant.id));
    assert_eq!(objects, expected, "newest first");

    let none = async |request| admin.admin().list_audit_events(request).await.unwrap().into_inner().events.is_empty();
    assert!(none(pb::ListAuditEventsRequest { outcome: "failed".into(), ..made.clone() }).await);
    assert!(none(pb::ListAuditEventsRequest { client_id: "nobody".into(), ..made.clone() }).await);
    let first = prost_types::Timestamp { seconds: 1, nanos: 0 };
    assert!(none(pb::ListAuditEventsRequest { until: Some(first), ..made.clone() }).await);
    assert!(!none(pb::ListAuditEventsRequest { from: Some(first), ..made.clone() }).await);
    let injected = pb::ListAuditEventsRequest { method: "x' OR '1'='1".into(), ..made.clone() };
    let status = admin.admin().list_audit_events(injected).await.expect_err("no method");
    assert_eq!(status.code(), Code::InvalidArgument);

    let grants = pb::Grants { administer: true, observe: false, ..all_grants() };
    let (id, secret) = Tenant::add_client(&admin, &tenant.id, "administrator", grants).await;
    let tenant_admin = SharedStack::get().client(&id, &secret).await;
    let status = tenant_admin.admin().list_audit_events(made).await.expect_err("not granted");
    assert_eq!(reason(&status), "OBSERVE_NOT_GRANTED");
}

#[tokio::test]
async fn the_command_shows_and_follows_the_audit_trail() {
    let tenant = Tenant::fresh().await;
    let admin = || command::warrengate("admin", SharedStack::get().admin_secret());
    let shown = json(admin(), &["audit", "--tenant", &tenant.id, "--since", "1h"]).await;
    let methods: Vec<_> = shown.as_array().unwrap().iter().map(|event| event["method"].as_str().unwrap()).collect();
    let expected =
        ["warrengate.v1.Admin/CreateTenant", "warrengate.v1.Admin/CreateClient", "warrengate.v1.Auth/IssueToken"];
    assert_eq!(methods, expected, "oldest first");

    let mut following = admin().args(["audit", "--follow", "--json", "--tenant", &tenant.id]).spawn().unwrap();
    let mut lines = command::lines(&mut following);
    let mut next = async || {
        let line = within("a line", lines.next_line()).await.unwrap().expect("the output continues");
        let event: Value = serde_json::from_str(&line).unwrap();
        (event["method"].as_str().unwrap().to_owned(), event["outcome"].as_str().unwrap().to_owned())
    };
    assert_eq!(next().await.0, "warrengate.v1.Admin/CreateTenant");
    assert_eq!(next().await.0, "warrengate.v1.Admin/CreateClient");
    assert_eq!(next().await.0, "warrengate.v1.Auth/IssueToken");
    let platform = SharedStack::get().admin().await;
    platform.admin().suspend_tenant(pb::SuspendTenantRequest { tenant: tenant.id.clone() }).await.unwrap();
    assert_eq!(next().await, ("warrengate.v1.Admin/SuspendTenant".to_owned(), "done".to_owned()));
    following.kill().await.unwrap();
}
