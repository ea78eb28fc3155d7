//! Several gateways with one store and one session key: a session that has ended on one of them has ended on all.

use reqwest::{Method, StatusCode};
use warrengate::pb;

use crate::harness::{
    SharedStack, Tenant,
    browser::Browser,
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
