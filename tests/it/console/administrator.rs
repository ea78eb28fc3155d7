//! A platform administrator's pages.

use reqwest::StatusCode;
use warrengate::pb;

use crate::harness::{SharedStack, Tenant, browser::Browser, wait::until, web};

async fn administrator() -> Browser {
    Browser::signed_in("admin", SharedStack::get().admin_secret()).await
}

fn new_id() -> String {
    format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..12])
}

#[tokio::test]
async fn an_administrator_creates_a_tenant_and_gives_it_a_client_that_can_connect() {
    let mut browser = administrator().await;
    let id = new_id();
    browser.open("/tenants").await;
    let page = browser.post("/tenants", &[("id", &id), ("display_name", "<b>Acme & Co</b>")]).await;
    assert_eq!((page.status, page.path.as_str()), (StatusCode::OK, format!("/tenants/{id}").as_str()));
    assert!(page.text.contains("Created.") && page.text.contains("&lt;b&gt;Acme &amp; Co&lt;/b&gt;"), "{}", page.text);
    assert!(page.text.contains("max_queues") && page.text.contains("There are no clients."));
    browser.open(&format!("/clients?tenant={id}")).await;
    let fields = [("tenant", id.as_str()), ("name", "worker"), ("publish", "amq.default #"), ("subscribe", "#")];
    let page = browser.post("/clients", &fields).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text);
    let secret = page.text.split_once("id=\"secret\">").expect("a secret").1.split('<').next().unwrap().to_owned();
    let client = SharedStack::get().client(&format!("{id}.worker"), &secret.clone().into()).await;
    let who = client.auth().who_am_i(pb::WhoAmIRequest {}).await.unwrap().into_inner();
    let grants = who.grants.unwrap();
    assert_eq!((who.tenant, grants.publish.len(), grants.administer), (id.clone(), 1, false));
    let page = browser.open(&format!("/clients/{id}.worker")).await;
    assert!(!page.contains(&secret), "a secret is shown once");
    let list = browser.open(&format!("/tenants/{id}")).await;
    assert!(list.contains(&format!("{id}.worker")) && list.contains("publish 1, subscribe 1"), "{list}");
}

#[tokio::test]
async fn a_tenant_is_suspended_resumed_and_deleted_only_with_its_name_typed() {
    let tenant = Tenant::fresh().await;
    let path = format!("/tenants/{}", tenant.id);
    let mut browser = administrator().await;
    browser.open(&path).await;
    let page = browser.post(&format!("{path}/suspend"), &[]).await;
    assert!(page.text.contains("suspended</span>"), "{}", page.text);
    let page = browser.post(&format!("{path}/resume"), &[]).await;
    assert!(page.text.contains("active</span>"), "{}", page.text);
    let page = browser.post(&format!("{path}/delete"), &[("confirm", "another")]).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    assert!(page.text.contains(&format!("type {} to confirm", tenant.id)), "{}", page.text);
    browser.open(&path).await;
    let page = browser.post(&format!("{path}/delete"), &[("confirm", &tenant.id)]).await;
    assert_eq!((page.status, page.path.as_str()), (StatusCode::OK, "/tenants"));
    let page = browser.get(&path).await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert!(page.text.contains("TENANT_NOT_FOUND"), "the code of the service: {}", page.text);
}

#[tokio::test]
async fn checks_show_what_differs_at_the_broker_and_each_probe_of_the_isolation() {
    let (tenant, other) = (Tenant::fresh().await, Tenant::fresh().await);
    let path = format!("/tenants/{}", tenant.id);
    let mut browser = administrator().await;
    browser.open(&path).await;
    let page = browser.post(&format!("{path}/reconcile"), &[("dry_run", "yes")]).await;
    assert!(page.text.contains("Nothing differs"), "{}", page.text);
    browser.open(&path).await;
    let page = browser.post(&format!("{path}/isolation"), &[("other_tenant", &other.id)]).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text);
    assert!(page.text.contains("every attempt was refused"), "{}", page.text);
    assert!(page.text.matches(">refused</span>").count() > 3 && page.text.contains("(control: must be allowed)"));
}

#[tokio::test]
async fn a_plan_is_created_compared_changed_and_deleted() {
    let name = new_id();
    let mut browser = administrator().await;
    browser.open("/plans").await;
    let page = browser.post("/plans", &[("name", &name), ("max_queues", "7"), ("max_message_bytes", "64KiB")]).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text);
    let path = format!("/plans/{name}");
    let page = browser.open(&path).await;
    assert!(page.contains("name=\"max_queues\" value=\"7\"") && page.contains("value=\"64KiB\""), "{page}");
    let page = browser.post(&path, &[("max_queues", "8"), ("max_message_ttl", "7d")]).await;
    assert!(page.text.contains("Changed."), "{}", page.text);
    let admin = SharedStack::get().admin().await;
    let request = pb::GetPlanRequest { name: name.clone() };
    let plan = admin.admin().get_plan(request).await.unwrap().into_inner().plan.unwrap();
    assert_eq!((plan.max_queues, plan.max_message_bytes, plan.max_message_ttl.unwrap().seconds), (8, 0, 7 * 86_400));
    browser.open(&path).await;
    let page = browser.post(&path, &[("max_queues", "many")]).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    browser.open(&path).await;
    browser.post(&format!("{path}/delete"), &[]).await;
    assert_eq!(browser.get(&path).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_trail_is_filtered_by_its_address_and_exported() {
    let tenant = Tenant::fresh().await;
    let mut browser = administrator().await;
    browser.open("/tenants").await;
    let page = browser.post(&format!("/tenants/{}/suspend", tenant.id), &[]).await;
    assert_eq!(page.status, StatusCode::OK);
    let filter = format!("tenant={}&method=SuspendTenant&outcome=done", tenant.id);
    let page = browser.open(&format!("/audit?{filter}")).await;
    assert!(page.contains("Admin/SuspendTenant") && page.contains("<td>admin</td>"), "{page}");
    assert!(!page.contains("Admin/CreateTenant"), "{page}");
    let csv = browser.open(&format!("/audit/export?{filter}&format=csv")).await;
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines.len(), 2, "{csv}");
    assert!(lines[0].starts_with("time,id,client_id,") && lines[1].contains("\"admin\""), "{csv}");
    let json = browser.open(&format!("/audit/export?{filter}&format=jsonl")).await;
    let event: serde_json::Value = serde_json::from_str(json.trim()).expect("one line");
    assert_eq!(event["object"], tenant.id.as_str());
    assert_eq!(browser.get("/audit?from=yesterday").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_session_is_renewed_before_its_token_expires() {
    let gateway = web::gateway(|config| {
        config.auth.token_lifetime = std::time::Duration::from_secs(6);
        config.auth.leeway = std::time::Duration::ZERO;
    })
    .await;
    let mut browser = Browser::at(gateway.running.console_address().expect("the console is on"));
    let page = browser.sign_in("admin", SharedStack::get().admin_secret()).await;
    assert_eq!(page.path, "/", "{}", page.text);
    let first = browser.cookies.clone();
    until("a renewal", async || {
        assert_eq!(browser.get("/").await.path, "/", "the session goes on");
        (browser.cookies != first).then_some(())
    })
    .await;
    // The old cookie ends with its token. Each attempt has it alone, because the session could be renewed before that.
    until("the end of the old token", async || {
        let mut old = Browser::at(gateway.running.console_address().unwrap());
        old.cookies = first.clone();
        (old.get("/").await.path == "/sign-in").then_some(())
    })
    .await;
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn the_health_page_shows_the_broker_the_store_and_the_ends_of_certificates() {
    let mut browser = administrator().await;
    let page = browser.open("/health").await;
    for word in ["RabbitMQ", ">ready</span>", ">running</span>", ">reachable</span>", "broker_ca", "until <time"] {
        assert!(page.contains(word), "{word}: {page}");
    }
    assert!(browser.open("/keys").await.contains("broker_ca"));
}
