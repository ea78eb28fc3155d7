//! Several gateways with one store and one session key: a session that has ended on one of them has ended on all, and
//! an administrator sees all of them on any.

use std::time::SystemTime;

use reqwest::{Method, StatusCode};
use warrengate::{
    client::Client,
    pb,
    store::{EncryptionKey, GatewayEntry, Store},
};

use crate::harness::{
    SharedStack, Tenant,
    browser::Browser,
    command,
    serve::Serve,
    wait::{until, within},
    web::{self, OwnGateway},
};

async fn gateway() -> OwnGateway {
    web::gateway(|config| {
        config.console.listen = Some(([127, 0, 0, 1], 0).into());
        config.console.session_key = Some("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned().into());
        // Cookies of an origin with TLS are the same for every port.
        config.console.origin = Some("https://console.example".to_owned());
    })
    .await
}

fn browser(gateway: &OwnGateway) -> Browser {
    Browser::at(gateway.running.console_address().expect("the console is on"))
}

/// Signs in at a gateway that may learn of the new tenant a moment later: until then it issues tokens, which it does not
/// accept yet.
async fn sign_in(browser: &mut Browser, tenant: &Tenant) {
    until("the sign-in", async || {
        // A session of the attempt before may be accepted in the meantime, and would replace the sign-in page.
        browser.cookies.clear();
        let page = browser.sign_in(&tenant.client_id, &tenant.secret).await;
        (page.status == StatusCode::OK && page.path == "/").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_session_that_was_signed_out_on_one_gateway_is_refused_by_the_others() {
    let (one, other) = (gateway().await, gateway().await);
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let mut browser_of_one = browser(&one);
    sign_in(&mut browser_of_one, &tenant).await;
    let mut copy = browser(&other);
    copy.cookies.clone_from(&browser_of_one.cookies);
    // The other gateway may learn of the new client a moment later.
    until("the session on the other gateway", async || {
        let page = copy.get("/queues").await;
        (page.status == StatusCode::OK && page.path == "/queues").then_some(())
    })
    .await;
    copy.cookies.clone_from(&browser_of_one.cookies);
    let mut live = copy.request(Method::GET, "/live").send().await.unwrap();
    assert_eq!(live.status(), StatusCode::OK);
    let mut another = browser(&other);
    assert_eq!(another.sign_in(&tenant.client_id, &tenant.secret).await.path, "/");

    browser_of_one.open("/queues").await;
    let copied = browser_of_one.cookies.clone();
    let page = browser_of_one.post("/sign-out", &[]).await;
    assert!(page.text.contains("You are signed out.") && page.path == "/sign-in", "{}", page.text);
    until("the end of the session on the other gateway", async || {
        copy.cookies.clone_from(&copied);
        (copy.get("/queues").await.path == "/sign-in").then_some(())
    })
    .await;
    within("the end of its live figures", async { while let Ok(Some(_)) = live.chunk().await {} }).await;
    copy.cookies.clone_from(&copied);
    let page = copy.post("/queues", &[("name", "intruder")]).await;
    assert_eq!(page.path, "/sign-in", "forms are refused, too: {}", page.text);
    assert!(another.open("/queues").await.contains("jobs"), "another session of the client goes on");

    // The same without live figures, which ask the store themselves.
    let mut browser_of_one = browser(&one);
    browser_of_one.cookies.clone_from(&another.cookies);
    browser_of_one.open("/queues").await;
    let copied = browser_of_one.cookies.clone();
    assert_eq!(browser_of_one.post("/sign-out", &[]).await.path, "/sign-in");
    until("the end of the session without live figures", async || {
        another.cookies.clone_from(&copied);
        (another.get("/queues").await.path == "/sign-in").then_some(())
    })
    .await;
    one.running.shutdown().await;
    other.running.shutdown().await;
}

#[tokio::test]
async fn a_session_of_a_revoked_client_ends_on_every_gateway() {
    let (one, other) = (gateway().await, gateway().await);
    let tenant = Tenant::fresh().await;
    let mut browsers = [browser(&one), browser(&other)];
    for browser in &mut browsers {
        sign_in(browser, &tenant).await;
    }
    let admin = SharedStack::get().admin().await;
    admin.admin().revoke_client(pb::RevokeClientRequest { client_id: tenant.client_id.clone() }).await.unwrap();
    for browser in &mut browsers {
        until("the end of the session", async || (browser.get("/queues").await.path == "/sign-in").then_some(())).await;
    }
    one.running.shutdown().await;
    other.running.shutdown().await;
}

async fn status(admin: &Client) -> pb::GetStatusResponse {
    admin.admin().get_status(pb::GetStatusRequest {}).await.unwrap().into_inner()
}

/// The gateway that listens at this address.
fn at<'a>(status: &'a pb::GetStatusResponse, address: &str) -> Option<&'a pb::GatewayStatus> {
    status.gateways.iter().find(|gateway| gateway.grpc_address == address)
}

/// The row of the gateway at this address, on a page.
fn row<'a>(page: &'a str, address: &str) -> Option<&'a str> {
    let (_, table) = page.split_once("<section id=\"gateways\">")?;
    table.split("</section>").next()?.split("<tr>").find(|row| row.contains(&format!("<td>{address}</td>")))
}

#[tokio::test]
async fn all_gateways_of_a_store_are_listed_until_they_end_and_one_that_is_killed_is_not_seen() {
    let shared = SharedStack::get();
    let one = gateway().await;
    let admin = one.client("admin", shared.admin_secret()).await;
    let mut browser = browser(&one);
    assert_eq!(browser.sign_in("admin", shared.admin_secret()).await.path, "/");
    let (mut ended, killed) = (Serve::for_stack(&shared.stack, &[]).await, Serve::for_stack(&shared.stack, &[]).await);
    let (to_end, to_kill) = (ended.grpc.to_string(), killed.grpc.to_string());
    let seen = until("both gateways in the status", async || {
        let status = status(&admin).await;
        [&to_end, &to_kill].iter().all(|address| at(&status, address).is_some()).then_some(status)
    })
    .await;
    let own = at(&seen, &one.running.grpc_address().to_string()).expect("the answering gateway, too");
    let start = |time: Option<prost_types::Timestamp>| time.expect("a time").seconds;
    assert_eq!((&own.gateway, start(own.started)), (&seen.gateway, start(seen.started)));
    for address in [&to_end, &to_kill] {
        let other = at(&seen, address).expect("it is listed");
        assert!(!other.not_seen && !other.version_differs && other.version == seen.version, "{other:?}");
        assert!(!cfg!(target_os = "linux") || !other.host.is_empty(), "{other:?}");
    }
    for path in ["/", "/health"] {
        let page = browser.open(path).await;
        for address in [&to_end, &to_kill] {
            assert!(row(&page, address).is_some_and(|row| row.contains(">running</span>")), "{path}: {page}");
        }
    }

    ended.terminate();
    assert!(ended.ended().await.success());
    assert_eq!(at(&status(&admin).await, &to_end), None, "it removed itself");
    assert_eq!(row(&browser.open("/").await, &to_end), None);
    // This one is killed.
    drop(killed);
    let lost = until("the killed gateway is not seen", async || {
        at(&status(&admin).await, &to_kill).filter(|gateway| gateway.not_seen).cloned()
    })
    .await;
    assert!(lost.last_seen.expect("a time").seconds >= lost.started.expect("a time").seconds - 1, "{lost:?}");
    for path in ["/", "/health"] {
        let page = browser.open(path).await;
        let row = row(&page, &to_kill).unwrap_or_else(|| panic!("{path}: {page}"));
        assert!(row.contains(">not seen</span> since <time"), "{path}: {row}");
    }
    assert!(browser.open("/").await.contains("not seen lately."), "it needs attention");
    let text = command::ok(command::warrengate("admin", shared.admin_secret()), &["status"]).await;
    let line = text.lines().find(|line| line.contains(&to_kill)).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("NOT SEEN since 20"), "{line}");
    one.running.shutdown().await;
}

#[tokio::test]
async fn a_gateway_with_another_version_is_shown_as_such() {
    let shared = SharedStack::get();
    let one = gateway().await;
    let admin = one.client("admin", shared.admin_secret()).await;
    let mut browser = browser(&one);
    assert_eq!(browser.sign_in("admin", shared.admin_secret()).await.path, "/");
    // As an older gateway records itself.
    let config = &shared.stack.config().store;
    let store = Store::open(&config.url, EncryptionKey::parse(&config.encryption_key).unwrap()).await.unwrap();
    let older = GatewayEntry {
        id: uuid::Uuid::now_v7(),
        version: "0.0.1".to_owned(),
        host: "<b>older</b>".to_owned(),
        grpc_address: "192.0.2.1:8443".to_owned(),
        started: SystemTime::now(),
    };
    store.renew_gateway(&older).await.unwrap();
    let listed = status(&admin).await;
    let found = listed.gateways.iter().find(|gateway| gateway.gateway == older.id.simple().to_string());
    let found = found.unwrap_or_else(|| panic!("{listed:?}"));
    assert!(found.version_differs && !found.not_seen && found.version == "0.0.1", "{found:?}");
    assert!(listed.gateways.iter().any(|gateway| !gateway.version_differs), "{listed:?}");
    let page = browser.open("/").await;
    let row = row(&page, &older.grpc_address).unwrap_or_else(|| panic!("{page}"));
    assert!(row.contains("0.0.1 <span class=\"badge warn\">differs</span>"), "{row}");
    assert!(row.contains("&lt;b&gt;older&lt;/b&gt;"), "{row}");
    assert!(page.contains("Gateways have different versions."), "{page}");
    let json = command::json(command::warrengate("admin", shared.admin_secret()), &["status"]).await;
    let all = json["gateways"].as_array().expect("a list");
    assert!(all.iter().any(|one| one["version"] == "0.0.1" && one["version_differs"] == true), "{json}");
    store.remove_gateway(older.id).await.unwrap();
    store.close().await;
    one.running.shutdown().await;
}
