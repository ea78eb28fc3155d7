//! Tests of admission and of the audit trail for administrative calls, with a real store and without a broker.

use std::{
    sync::Mutex,
    time::{Duration, SystemTime},
};

use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::{
    audit::{AuditContext, AuditWriter},
    auth::{Caller, Grants},
    config::{AuditConfig, AuthConfig, BrokerConfig, Endpoint, ManagementConfig},
    names::{ClientId, PlanName, TenantId},
    pki::{Authority, TenantCertificates},
    store::{AuditFilter, EncryptionKey, NewAudit, NewClient, NewTenant},
};

struct Fixture {
    _dir: tempfile::TempDir,
    store: Store,
    service: AdminService,
    audit: Audit,
    writer: Mutex<Option<AuditWriter>>,
}

impl Fixture {
    /// `acme` and `globex`, each with a client `app` that has all grants of the tenant and a client `manager` that may
    /// administer and subscribe to `jobs.#`; and `admin`. No broker is running.
    async fn build() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let url = format!("sqlite://{}", dir.path().join("state.db").display()).into();
        let key = EncryptionKey::parse(&EncryptionKey::generate()).expect("a key");
        let store = Store::open(&url, key).await.expect("a store");
        for tenant in ["acme", "globex"] {
            let plan = PlanName::parse("standard").expect("a plan");
            let id = TenantId::parse(tenant).expect("an id");
            store.create_tenant(&NewTenant { id, display_name: tenant.into(), plan }).await.expect("created");
            add_client(&store, &format!("{tenant}.app"), Grants::everything()).await;
            let manager = pb::Grants { administer: true, subscribe: vec!["jobs.#".into()], ..Default::default() };
            add_client(&store, &format!("{tenant}.manager"), Grants::parse(&manager).expect("grants")).await;
        }
        add_client(&store, "admin", Grants::administrator()).await;
        let tenants = Tenants::load(store.clone(), Duration::from_secs(1)).await.expect("loaded");
        let ca = Authority::generate("test broker CA", 1).expect("an authority");
        let (certificate, key) = (dir.path().join("p.pem"), dir.path().join("p.key"));
        ca.save(&dir.path().join("ca.pem"), &dir.path().join("ca.key")).expect("saved");
        let leaf = ca.client("wg-provisioner", Duration::from_secs(3600)).expect("a leaf");
        leaf.save(&certificate, &key).expect("saved");
        let config = ManagementConfig {
            endpoints: vec!["https://localhost:9".into()],
            certificate,
            key,
            user: "wg-provisioner".into(),
            password: "x".into(),
            password_file: None,
        };
        let provisioner = Provisioner::new(&config, &dir.path().join("ca.pem")).expect("a provisioner");
        let certificates = Arc::new(TenantCertificates::new(Arc::new(ca), Duration::from_secs(3600)));
        let broker = BrokerConfig {
            endpoints: vec![Endpoint { host: "localhost".into(), port: 9 }],
            ca_certificate: "unused".into(),
            ca_key: "unused".into(),
            heartbeat: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(1),
            publish_deadline: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(60),
            certificate_lifetime: Duration::from_secs(3600),
            reconcile_interval: Duration::from_secs(3600),
        };
        let metrics = crate::telemetry::Metrics::default();
        let broker = Broker::new(broker, certificates, Arc::clone(metrics.process())).expect("a broker");
        let (audit, writer) = Audit::new(store.clone(), &AuditConfig::for_test());
        let (tenants, provisioner) = (Arc::new(tenants), Arc::new(provisioner));
        let issuer = Arc::new(Issuer::start(store.clone(), &AuthConfig::for_test()).await.expect("an issuer"));
        let gateway = GatewayState {
            version: String::new(),
            calls_per_second_per_tenant: 10,
            id: uuid::Uuid::now_v7(),
            started: SystemTime::now(),
            drain: crate::stream::drain::Drain::new(Duration::from_secs(1)),
            open_streams: crate::stream::open_streams::OpenStreams::default(),
            memory: crate::memory::TenantBudgets::new(crate::memory::MemoryBudget::new(64 << 20)),
            not_ready: Box::new(Vec::new),
            certificates: Box::new(Vec::new),
        };
        let service = AdminService::new(store.clone(), tenants, provisioner, broker, audit.clone(), issuer, gateway);
        Self { _dir: dir, store, service, audit, writer: Mutex::new(Some(writer)) }
    }

    /// The request as the transport passes it on: with an audit context that has the caller.
    fn with_audit_context<T>(&self, method: &str, mut request: Request<T>) -> Request<T> {
        let audit_context =
            AuditContext::new(self.audit.clone(), &format!("warrengate.v1.Admin/{method}"), "10.0.0.1:5".into());
        if let Ok(caller) = Caller::from_request(&request) {
            audit_context.set_client(caller.client());
        }
        request.extensions_mut().insert(audit_context);
        request
    }

    /// The audit trail with all refusals so far. Can be called only once.
    async fn audit(&self) -> Vec<NewAudit> {
        let writer = self.writer.lock().expect("a lock").take().expect("the first call");
        let stop = CancellationToken::new();
        stop.cancel();
        writer.run(stop).await;
        let rows = self.store.audit(&AuditFilter::default(), None, 100).await.expect("listed");
        rows.into_iter().map(|row| row.event).collect()
    }
}

async fn add_client(store: &Store, id: &str, grants: Grants) {
    let id = ClientId::parse(id).expect("an id");
    let new = NewClient {
        display_name: id.to_string(),
        id,
        secret_hash: "x".into(),
        grants: grants.to_json(),
        external: None,
    };
    store.create_client(&new).await.expect("the store responds").expect("created");
}

/// A request of a client with the administer grant.
fn by<T>(who: &str, message: T) -> Request<T> {
    with(who, pb::Grants { administer: true, ..Default::default() }, message)
}

fn with<T>(who: &str, grants: pb::Grants, message: T) -> Request<T> {
    let now = SystemTime::now();
    let (id, grants) = (ClientId::parse(who).expect("an id"), Grants::parse(&grants).expect("grants"));
    let mut request = Request::new(message);
    request.extensions_mut().insert(Caller::for_test(&id, grants, now, now + Duration::from_secs(60)));
    request
}

fn client(id: &str, subscribe: &[&str]) -> Option<pb::Client> {
    let subscribe = subscribe.iter().map(|&pattern| pattern.to_owned()).collect();
    let grants = Some(pb::Grants { subscribe, ..Default::default() });
    Some(pb::Client { client_id: id.into(), grants, ..Default::default() })
}

fn create(id: &str, subscribe: &[&str]) -> pb::CreateClientRequest {
    pb::CreateClientRequest { client: client(id, subscribe), ..Default::default() }
}

fn refusal<T: std::fmt::Debug>(answer: RpcResult<T>) -> (Code, String) {
    let status = answer.expect_err("refused");
    (status.code(), status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default())
}

#[tokio::test]
async fn a_call_without_a_token_or_without_the_grant_is_refused() {
    let fixture = Fixture::build().await;
    let list = pb::ListTenantsRequest::default;
    let unauthenticated = fixture.with_audit_context("ListTenants", Request::new(list()));
    assert_eq!(refusal(fixture.service.list_tenants(unauthenticated).await).0, Code::Unauthenticated);
    let reader = fixture.with_audit_context("ListTenants", with("acme.app", pb::Grants::default(), list()));
    assert_eq!(refusal(fixture.service.list_tenants(reader).await).0, Code::PermissionDenied);
    let mut outcomes: Vec<_> = fixture.audit().await.into_iter().map(|event| (event.client, event.outcome)).collect();
    outcomes.sort();
    assert_eq!(outcomes, [(String::new(), "refused".into()), ("acme.app".into(), "refused".into())]);
}

#[tokio::test]
async fn a_tenants_administrator_may_not_manage_tenants_or_plans() {
    let fixture = Fixture::build().await;
    let suspend = pb::SuspendTenantRequest { tenant: "acme".into() };
    let suspend = fixture.with_audit_context("SuspendTenant", by("acme.manager", suspend));
    let refused = refusal(fixture.service.suspend_tenant(suspend).await);
    assert_eq!(refused, (Code::PermissionDenied, "PLATFORM_ADMINISTRATORS_ONLY".into()));
    let plans = fixture.service.list_plans(by("acme.manager", pb::ListPlansRequest::default())).await;
    assert_eq!(refusal(plans).0, Code::PermissionDenied);
    let recorded = fixture.audit().await.pop().expect("an event");
    assert_eq!(
        (recorded.client.as_str(), recorded.method.as_str(), recorded.tenant.as_str(), recorded.rule.as_str()),
        ("acme.manager", "warrengate.v1.Admin/SuspendTenant", "acme", "PLATFORM_ADMINISTRATORS_ONLY")
    );
}

#[tokio::test]
async fn another_tenants_clients_and_missing_ones_get_the_same_refusal() {
    let fixture = Fixture::build().await;
    for id in ["globex.app", "globex.nobody", "initech.app", "admin"] {
        let revoke = pb::RevokeClientRequest { client_id: id.into() };
        let refused = fixture.service.revoke_client(by("acme.manager", revoke)).await.expect_err("refused");
        assert_eq!(refused.code(), Code::PermissionDenied, "{id}");
        assert!(!refused.message().contains(id.split('.').next().expect("a part")) || id == "admin", "{id}");
    }
    for tenant in ["globex", "initech", ""] {
        let list = pb::ListClientsRequest { tenant: tenant.into(), ..Default::default() };
        let refused = refusal(fixture.service.list_clients(by("acme.manager", list)).await);
        assert_eq!(refused, (Code::PermissionDenied, "CLIENTS_OF_OTHER_TENANT".into()));
    }
}

#[tokio::test]
async fn a_tenants_administrator_cannot_grant_or_take_over_more_than_its_own_grants() {
    let fixture = Fixture::build().await;
    let own = pb::Grants { administer: true, subscribe: vec!["jobs.#".into()], ..Default::default() };
    let exceeds = (Code::PermissionDenied, "GRANTS_EXCEED_OWN".to_owned());
    let created =
        fixture.service.create_client(with("acme.manager", own.clone(), create("acme.reader", &["jobs.eu"]))).await;
    assert!(created.expect("created").into_inner().client_secret.starts_with("wgs_"));
    let more = fixture.service.create_client(with("acme.manager", own.clone(), create("acme.spy", &["#"]))).await;
    assert_eq!(refusal(more), exceeds);
    let rotate = |id: &str| pb::RotateClientSecretRequest { client_id: id.into(), overlap: None };
    let stronger = fixture.service.rotate_client_secret(with("acme.manager", own.clone(), rotate("acme.app"))).await;
    assert_eq!(refusal(stronger), exceeds);
    assert!(
        fixture.service.rotate_client_secret(with("acme.manager", own.clone(), rotate("acme.reader"))).await.is_ok()
    );
    // Reducing the grants of a client that has more would allow taking it over next.
    let narrow = pb::UpdateClientRequest {
        client: client("acme.app", &["jobs.eu"]),
        update_mask: Some(prost_types::FieldMask { paths: vec!["grants".into()] }),
        validate_only: false,
    };
    assert_eq!(refusal(fixture.service.update_client(with("acme.manager", own.clone(), narrow)).await), exceeds);
    // But it may revoke any client of its tenant.
    let revoke = pb::RevokeClientRequest { client_id: "acme.app".into() };
    assert!(fixture.service.revoke_client(with("acme.manager", own, revoke)).await.is_ok());
}

#[tokio::test]
async fn a_revoked_administrator_is_refused_at_once() {
    let fixture = Fixture::build().await;
    let revoke = |id: &str| pb::RevokeClientRequest { client_id: id.into() };
    add_client(&fixture.store, "second", Grants::administrator()).await;
    fixture.service.context.tenants.refresh().await.expect("read");
    let request = by("second", pb::ListTenantsRequest::default());
    assert!(fixture.service.list_tenants(request).await.is_ok());
    assert!(fixture.service.revoke_client(by("admin", revoke("second"))).await.is_ok());
    let request = by("second", pb::ListTenantsRequest::default());
    assert_eq!(refusal(fixture.service.list_tenants(request).await), (Code::Unauthenticated, "CLIENT_REVOKED".into()));
    let own = fixture.service.revoke_client(by("admin", revoke("admin"))).await;
    assert_eq!(refusal(own), (Code::FailedPrecondition, "REMOVES_OWN_ACCESS".into()));
}

#[tokio::test]
async fn a_validation_changes_nothing() {
    let fixture = Fixture::build().await;
    let request = pb::CreateClientRequest { validate_only: true, ..create("acme.new", &["a"]) };
    let answer = fixture.service.create_client(by("admin", request)).await.expect("valid").into_inner();
    assert_eq!(answer.client_secret, "");
    assert!(
        fixture.store.client(&ClientId::parse("acme.new").expect("an id")).await.expect("the store responds").is_none()
    );
    let tenant = Some(pb::Tenant { id: "initech".into(), ..Default::default() });
    let request = pb::CreateTenantRequest { tenant, validate_only: true, ..Default::default() };
    let answer = fixture.service.create_tenant(by("admin", request)).await.expect("valid").into_inner();
    assert_eq!(answer.tenant.expect("a tenant").plan, "standard");
    assert_eq!(fixture.store.tenants(None, 10).await.expect("listed").len(), 2);
}

#[tokio::test]
async fn an_invalid_request_is_reported_with_its_field() {
    let fixture = Fixture::build().await;
    let field =
        |status: Status| status.get_error_details().bad_request().expect("a field").field_violations[0].field.clone();
    let tenant = |id: &str, plan: &str| Some(pb::Tenant { id: id.into(), plan: plan.into(), ..Default::default() });
    for (given, wanted) in [
        (None, "tenant"),
        (tenant("Acme", ""), "tenant.id"),
        (tenant("acme/../x", ""), "tenant.id"),
        (tenant("initech", "gold"), "tenant.plan"),
    ] {
        let request = pb::CreateTenantRequest { tenant: given, ..Default::default() };
        let status = fixture.service.create_tenant(by("admin", request)).await.expect_err("refused");
        assert_eq!((status.code(), field(status)), (Code::InvalidArgument, wanted.to_owned()));
    }
    let platform = fixture.service.create_client(by("admin", create("second", &["a"]))).await.expect_err("refused");
    assert_eq!(field(platform), "client.grants");
    let long = pb::CreateClientRequest { request_id: "x".repeat(65), ..create("acme.new", &[]) };
    assert_eq!(field(fixture.service.create_client(by("admin", long)).await.expect_err("refused")), "request_id");
    assert!(fixture.audit().await.is_empty(), "an invalid request is not recorded");
}

#[tokio::test]
async fn a_repeated_creation_is_reported_and_changes_nothing() {
    let fixture = Fixture::build().await;
    let request = || pb::CreateClientRequest { request_id: "r1".into(), ..create("acme.new", &[]) };
    assert!(fixture.service.create_client(by("admin", request())).await.is_ok());
    let again = refusal(fixture.service.create_client(by("admin", request())).await);
    assert_eq!(again, (Code::AlreadyExists, "CLIENT_EXISTS".into()));
    let other = Some(pb::Tenant { id: "acme".into(), plan: "free".into(), ..Default::default() });
    let other = pb::CreateTenantRequest { tenant: other, ..Default::default() };
    let refused = refusal(fixture.service.create_tenant(by("admin", other)).await);
    assert_eq!(refused, (Code::AlreadyExists, "TENANT_EXISTS".into()));
    let outcomes: Vec<_> = fixture.audit().await.into_iter().map(|event| event.outcome).collect();
    assert_eq!(outcomes, ["failed: TENANT_EXISTS", "failed: CLIENT_EXISTS", "done"]);
}

#[tokio::test]
async fn clients_are_listed_page_by_page() {
    let fixture = Fixture::build().await;
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListClientsRequest { tenant: "acme".into(), page_size: 1, page_token };
        let page = fixture.service.list_clients(by("admin", request)).await.expect("a page").into_inner();
        seen.extend(page.clients.into_iter().map(|client| client.client_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["acme.app", "acme.manager"]);
}
