//! The life cycle of tenants, clients and plans, also checked at the broker.

use lapin::options::QueueDeleteOptions;
use prost_types::FieldMask;
use reqwest::Method;
use serde_json::json;
use tonic::Code;
use warrengate::{
    client::{ClientOptions, Credentials},
    pb::{self, TenantState},
};

use crate::harness::{
    SharedStack, Tenant,
    broker::{Login, Management, amqp, certificate_of, tls},
    raw::{field, reason},
    tenant::all_grants,
    wait::until,
    web,
};

fn fresh_id() -> String {
    format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..12])
}

fn tenant(id: &str) -> Option<pb::Tenant> {
    Some(pb::Tenant { id: id.into(), ..pb::Tenant::default() })
}

fn create(id: &str) -> pb::CreateTenantRequest {
    pb::CreateTenantRequest { tenant: tenant(id), ..pb::CreateTenantRequest::default() }
}

fn mask(path: &str) -> Option<FieldMask> {
    Some(FieldMask { paths: vec![path.into()] })
}

#[tokio::test]
async fn creating_a_tenant_again_repairs_drift_and_reports_it() {
    let admin = SharedStack::get().admin().await;
    let mut admin = admin.admin();
    let (id, broker) = (fresh_id(), Management::new());
    let name = format!("wg.{id}");
    let made = admin.create_tenant(create(&id)).await.unwrap().into_inner();
    assert!(!made.changes.is_empty(), "{made:?}");
    let again = admin.create_tenant(create(&id)).await.unwrap().into_inner();
    assert_eq!((again.tenant, again.changes), (made.tenant.clone(), vec![]));

    // The provisioner has no access to the vhost, so it cannot do this; the tenant's own certificate can.
    let connection = amqp(tls(Some(&certificate_of(&id))), &name, Login::External).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.queue_delete("wg.dead-letters".into(), QueueDeleteOptions::default()).await.unwrap();
    let wide = json!({"configure": "", "write": ".*", "read": ".*"});
    broker.change(Method::PUT, &format!("permissions/{name}/{name}"), Some(wide)).await;
    // A second vhost that the tenant's user may access breaks the isolation.
    let other = fresh_id();
    admin.create_tenant(create(&other)).await.unwrap();
    let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
    broker.change(Method::PUT, &format!("permissions/wg.{other}/{name}"), Some(all)).await;
    let tagged = json!({"password": "a password", "tags": "administrator"});
    broker.change(Method::PUT, &format!("users/{name}"), Some(tagged)).await;

    let repaired = admin.create_tenant(create(&id)).await.unwrap().into_inner();
    assert!(repaired.changes.len() >= 4, "{:?}", repaired.changes);
    assert!(repaired.changes.iter().any(|change| change.contains("wg.dead-letters")), "{:?}", repaired.changes);
    for repair in ["tags and password", "its vhost", &format!("revoked access to vhost wg.{other}")] {
        assert!(repaired.changes.iter().any(|change| change.contains(repair)), "{repair}: {:?}", repaired.changes);
    }
    let queues = broker.get(&format!("queues/{name}")).await.unwrap();
    assert_eq!(queues[0]["name"], "wg.dead-letters");
    let permissions = broker.get(&format!("users/{name}/permissions")).await.unwrap();
    assert_eq!(permissions.as_array().unwrap().len(), 1, "{permissions}");
    assert_eq!(permissions[0]["vhost"], name.as_str());
    let user = broker.get(&format!("users/{name}")).await.unwrap();
    assert!(user["password_hash"].as_str().is_none_or(str::is_empty), "{user}");
    assert!(!user["tags"].to_string().contains("administrator"), "{user}");
    assert_eq!(admin.create_tenant(create(&id)).await.unwrap().into_inner().changes, Vec::<String>::new());

    // A request with other arguments is a different request.
    let other = pb::Tenant { id: id.clone(), display_name: "Another".into(), ..pb::Tenant::default() };
    let other = pb::CreateTenantRequest { tenant: Some(other), ..pb::CreateTenantRequest::default() };
    let status = admin.create_tenant(other).await.expect_err("it exists with other arguments");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "TENANT_EXISTS"), "{status:?}");
}

#[tokio::test]
async fn two_concurrent_creations_create_one_tenant() {
    let admin = SharedStack::get().admin().await;
    let id = fresh_id();
    let (mut one, mut two) = (admin.admin(), admin.admin());
    let (one, two) = tokio::join!(one.create_tenant(create(&id)), two.create_tenant(create(&id)));
    let (one, two) = (one.unwrap().into_inner(), two.unwrap().into_inner());
    assert_eq!(one.tenant, two.tenant);
    assert!(one.changes.is_empty() != two.changes.is_empty(), "one created it, and one found it: {one:?} {two:?}");
    let vhosts = Management::new().get("vhosts").await.unwrap();
    let name = format!("wg.{id}");
    assert_eq!(vhosts.as_array().unwrap().iter().filter(|vhost| vhost["name"] == name.as_str()).count(), 1);
}

#[tokio::test]
async fn a_repeated_request_id_gets_the_same_answer_and_a_reused_one_is_refused() {
    let admin = SharedStack::get().admin().await;
    let mut admin = admin.admin();
    let (id, request_id) = (fresh_id(), fresh_id());
    let request = pb::CreateTenantRequest { request_id: request_id.clone(), ..create(&id) };
    let first = admin.create_tenant(request.clone()).await.unwrap().into_inner();
    assert!(!first.changes.is_empty());
    assert_eq!(admin.create_tenant(request).await.unwrap().into_inner(), first, "the same answer");
    let reused = pb::CreateTenantRequest { request_id, ..create(&fresh_id()) };
    let status = admin.create_tenant(reused).await.expect_err("the id belongs to another request");
    assert_eq!(field(&status), "request_id", "{status:?}");
    let long = pb::CreateTenantRequest { request_id: "r".repeat(65), ..create(&fresh_id()) };
    assert_eq!(field(&admin.create_tenant(long).await.expect_err("too long")), "request_id");
}

#[tokio::test]
async fn validate_only_checks_and_changes_nothing() {
    let admin = SharedStack::get().admin().await;
    let mut admin = admin.admin();
    let (id, broker) = (fresh_id(), Management::new());
    let dry = pb::CreateTenantRequest { validate_only: true, ..create(&id) };
    admin.create_tenant(dry).await.unwrap();
    let status = admin.get_tenant(pb::GetTenantRequest { tenant: id.clone() }).await.expect_err("not created");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "TENANT_NOT_FOUND"));
    assert_eq!(broker.get(&format!("vhosts/wg.{id}")).await, None);
    for bad in ["", "A", "a", "9lives", "ends-", "with.dot", "-x", &"a".repeat(41)] {
        let dry = pb::CreateTenantRequest { validate_only: true, ..create(bad) };
        let status = admin.create_tenant(dry).await.expect_err("no tenant id");
        assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, "tenant.id"), "{bad}: {status:?}");
    }
    let plan = pb::Tenant { id, plan: "no-such-plan".into(), ..pb::Tenant::default() };
    let dry = pb::CreateTenantRequest { tenant: Some(plan), validate_only: true, ..Default::default() };
    admin.create_tenant(dry).await.expect_err("no such plan");
}

#[tokio::test]
async fn updates_change_only_the_fields_of_their_mask() {
    let admin = SharedStack::get().admin().await;
    let mut admin = admin.admin();
    let id = fresh_id();
    admin.create_tenant(create(&id)).await.unwrap();
    let plans = admin.list_plans(pb::ListPlansRequest::default()).await.unwrap().into_inner().plans;
    assert!(plans.iter().any(|plan| plan.name == "standard"), "{plans:?}");
    let other = plans.iter().find(|plan| plan.name != "standard").expect("a second plan").clone();
    let got = admin.get_plan(pb::GetPlanRequest { name: other.name.clone() }).await.unwrap().into_inner().plan;
    assert_eq!(got, Some(other.clone()));

    let wanted =
        pb::Tenant { id: id.clone(), display_name: "Ignored".into(), plan: other.name.clone(), ..Default::default() };
    let request =
        pb::UpdateTenantRequest { tenant: Some(wanted.clone()), update_mask: mask("plan"), validate_only: false };
    let updated = admin.update_tenant(request.clone()).await.unwrap().into_inner().tenant.unwrap();
    assert_eq!((updated.plan.as_str(), updated.display_name.as_str()), (other.name.as_str(), id.as_str()));
    let limits = Management::new().get(&format!("vhost-limits/wg.{id}")).await.unwrap();
    let queues = limits[0]["value"]["max-queues"].as_u64().unwrap_or_default();
    assert_eq!(queues, u64::from(other.max_queues) + 256, "the plan has reached the broker: {limits}");

    for paths in [vec![], vec!["state".to_owned()], vec!["plan".to_owned(), "id".to_owned()]] {
        let update_mask = Some(FieldMask { paths });
        let status = admin.update_tenant(pb::UpdateTenantRequest { update_mask, ..request.clone() }).await;
        let status = status.expect_err("no such mask");
        assert!(field(&status).starts_with("update_mask"), "{status:?}");
    }
}

#[tokio::test]
async fn paged_lists_contain_everything_once() {
    let admin = SharedStack::get().admin().await;
    let mut admin = admin.admin();
    let id = fresh_id();
    admin.create_tenant(create(&id)).await.unwrap();
    let names: Vec<_> = (0..5).map(|n| format!("{id}.client-{n}")).collect();
    for client_id in &names {
        let client = Some(pb::Client { client_id: client_id.clone(), ..pb::Client::default() });
        admin.create_client(pb::CreateClientRequest { client, ..Default::default() }).await.unwrap();
    }
    let mut request = pb::ListClientsRequest { tenant: id.clone(), page_size: 2, page_token: String::new() };
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let page = admin.list_clients(request.clone()).await.unwrap().into_inner();
        assert!(page.clients.len() <= 2);
        seen.extend(page.clients.into_iter().map(|client| client.client_id));
        pages += 1;
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!((seen, pages), (names, 3));

    // Other tests create and delete tenants at the same time. Those that exist throughout are listed in order and once.
    let mut request = pb::ListTenantsRequest { page_size: 3, ..Default::default() };
    let mut seen = Vec::new();
    loop {
        let page = admin.list_tenants(request.clone()).await.unwrap().into_inner();
        seen.extend(page.tenants.into_iter().map(|tenant| tenant.id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert!(seen.is_sorted_by(|one, next| one < next), "{seen:?}");
    assert!(seen.contains(&id));
    let wrong = pb::ListTenantsRequest { page_token: "forged!".into(), ..Default::default() };
    assert_eq!(field(&admin.list_tenants(wrong).await.expect_err("forged")), "page_token");
}

#[tokio::test]
async fn a_resumed_tenant_has_its_data_and_a_deleted_one_leaves_nothing() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "kept").await;
    let admin = SharedStack::get().admin().await;
    let mut admin = admin.admin();
    let id = || tenant.id.clone();
    let suspended = admin.suspend_tenant(pb::SuspendTenantRequest { tenant: id() }).await.unwrap().into_inner();
    assert_eq!(suspended.tenant.unwrap().state(), TenantState::Suspended);
    // Another gateway applies it within a second.
    let status = until("it is refused", async || {
        tenant.client.topology().list_queues(pb::ListQueuesRequest::default()).await.err()
    })
    .await;
    assert_eq!(reason(&status), "TENANT_SUSPENDED");
    let resumed = admin.resume_tenant(pb::ResumeTenantRequest { tenant: id() }).await.unwrap().into_inner();
    assert_eq!(resumed.tenant.unwrap().state(), TenantState::Active);
    assert_eq!(tenant.take("jobs", 1).await, ["kept"]);

    let (broker, name) = (Management::new(), format!("wg.{}", tenant.id));
    assert!(broker.get(&format!("vhosts/{name}")).await.is_some());
    admin.delete_tenant(pb::DeleteTenantRequest { tenant: id() }).await.unwrap();
    assert_eq!(broker.get(&format!("vhosts/{name}")).await, None);
    assert_eq!(broker.get(&format!("users/{name}")).await, None);
    let status = admin.get_tenant(pb::GetTenantRequest { tenant: id() }).await.expect_err("gone");
    assert_eq!(reason(&status), "TENANT_NOT_FOUND");
    let clients = pb::ListClientsRequest { tenant: id(), ..Default::default() };
    assert_eq!(admin.list_clients(clients).await.expect_err("gone").code(), Code::NotFound);
    let (status, body) = web::token(&tenant.client_id, &tenant.secret).await;
    assert_eq!((status.as_u16(), body["error"].as_str()), (401, Some("invalid_client")));
    assert_eq!(
        admin.delete_tenant(pb::DeleteTenantRequest { tenant: id() }).await.expect_err("gone").code(),
        Code::NotFound
    );

    // The id can be used again, and nothing of the deleted tenant exists: no queue, message, client or token.
    admin.create_tenant(create(&tenant.id)).await.unwrap();
    let queues = broker.get(&format!("queues/{name}")).await.unwrap();
    let queues: Vec<_> = queues.as_array().unwrap().iter().map(|queue| queue["name"].clone()).collect();
    assert_eq!(queues, ["wg.dead-letters"]);
    let status =
        tenant.client.topology().list_queues(pb::ListQueuesRequest::default()).await.expect_err("an old token");
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
}

#[tokio::test]
async fn a_client_is_created_changed_revoked_and_deleted() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let shared = SharedStack::get();
    let admin = shared.admin().await;
    let (client_id, secret) = Tenant::add_client(&admin, &tenant.id, "worker", pb::Grants::default()).await;
    let mut admin = admin.admin();
    let again = Some(pb::Client { client_id: client_id.clone(), ..pb::Client::default() });
    let status = admin.create_client(pb::CreateClientRequest { client: again, ..Default::default() }).await;
    assert_eq!(reason(&status.expect_err("it exists")), "CLIENT_EXISTS");

    // It has no permissions until it is granted some; new tokens contain new grants.
    let get = || pb::GetQueueRequest { name: "jobs".into() };
    let worker = shared.client(&client_id, &secret).await;
    assert_eq!(worker.topology().get_queue(get()).await.expect_err("not granted").code(), Code::PermissionDenied);
    let grants = Some(pb::Grants { subscribe: vec!["jobs".into()], ..pb::Grants::default() });
    let client = Some(pb::Client { client_id: client_id.clone(), grants, ..pb::Client::default() });
    let request = pb::UpdateClientRequest { client, update_mask: mask("grants"), validate_only: false };
    admin.update_client(request).await.unwrap();
    let worker = shared.client(&client_id, &secret).await;
    worker.topology().get_queue(get()).await.unwrap();

    let rotate = pb::RotateClientSecretRequest { client_id: client_id.clone(), overlap: None };
    let newer = admin.rotate_client_secret(rotate.clone()).await.unwrap().into_inner().client_secret.into();
    assert_eq!(web::token(&client_id, &secret).await.0.as_u16(), 401, "the old secret has ended");
    assert_eq!(web::token(&client_id, &newer).await.0.as_u16(), 200);
    let status = worker.topology().get_queue(get()).await.expect_err("a token of the old secret");
    assert_eq!(reason(&status), "TOKEN_WITHDRAWN");

    let revoke = pb::RevokeClientRequest { client_id: client_id.clone() };
    assert!(admin.revoke_client(revoke.clone()).await.unwrap().into_inner().client.unwrap().revoked);
    assert_eq!(web::token(&client_id, &newer).await.0.as_u16(), 401);
    assert_eq!(
        reason(&admin.rotate_client_secret(rotate).await.expect_err("revoked permanently")),
        "CLIENT_REVOKED_PERMANENTLY"
    );
    let listed = pb::ListClientsRequest { tenant: tenant.id.clone(), ..Default::default() };
    let listed = admin.list_clients(listed).await.unwrap().into_inner().clients;
    assert!(listed.iter().any(|client| client.client_id == client_id && client.revoked), "{listed:?}");
}

#[tokio::test]
async fn a_tenant_administrator_manages_clients_within_its_own_grants() {
    let tenant = Tenant::fresh().await;
    let shared = SharedStack::get();
    let grants = pb::Grants { administer: true, subscribe: vec!["jobs.#".into()], ..pb::Grants::default() };
    let (id, secret) = Tenant::add_client(&shared.admin().await, &tenant.id, "administrator", grants).await;
    let tenant_admin = shared.client(&id, &secret).await;
    let subscribe = |pattern: &str| pb::Grants { subscribe: vec![pattern.into()], ..pb::Grants::default() };

    let (made, secret) = Tenant::add_client(&tenant_admin, &tenant.id, "reader", subscribe("jobs.red")).await;
    web::access_token(&made, &secret).await;
    for (name, too_much) in [("wide", subscribe("#")), ("full", all_grants())] {
        let client_id = format!("{}.{name}", tenant.id);
        let client = Some(pb::Client { client_id, grants: Some(too_much), ..pb::Client::default() });
        let status = tenant_admin.admin().create_client(pb::CreateClientRequest { client, ..Default::default() }).await;
        assert_eq!(reason(&status.expect_err("more than its own")), "GRANTS_EXCEED_OWN");
    }
    // Taking over a client with more grants would circumvent the check.
    let rotate = pb::RotateClientSecretRequest { client_id: tenant.client_id.clone(), overlap: None };
    let status = tenant_admin.admin().rotate_client_secret(rotate).await.expect_err("more than its own");
    assert_eq!(reason(&status), "GRANTS_EXCEED_OWN");
    tenant_admin.admin().revoke_client(pb::RevokeClientRequest { client_id: made }).await.unwrap();

    // A client without the administer grant, or without a token, administers nothing.
    let list = || pb::ListClientsRequest { tenant: tenant.id.clone(), ..Default::default() };
    let status = tenant.client.admin().list_clients(list()).await.expect_err("not granted");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "ADMINISTER_NOT_GRANTED"));
    let options = ClientOptions::new(shared.stack.endpoint(), Credentials::Anonymous).ca_certificate(shared.ca());
    let anonymous = warrengate::client::Client::connect(options).await.unwrap();
    let status = anonymous.admin().list_clients(list()).await.expect_err("no token");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "TOKEN_MISSING"));
}
