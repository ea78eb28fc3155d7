//! The console while the broker is away: every page answers, with the code of what is missing and what to do.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use secrecy::SecretString;

use crate::harness::{browser::Browser, dedicated::DedicatedStack, wait::until};

/// How long a page may take. Calls of the console have a deadline of 25 s.
const MAX_PAGE: Duration = Duration::from_secs(30);

async fn signed_in(stack: &DedicatedStack, id: &str, secret: &SecretString) -> Browser {
    let mut browser = Browser::at(stack.stack.gateway().console_address().expect("the console is on"));
    assert_eq!(browser.sign_in(id, secret).await.path, "/");
    browser
}

#[tokio::test]
async fn while_the_broker_is_away_every_page_answers_and_says_what_to_do() {
    let stack = DedicatedStack::start("console_broker_away", &[("WARRENGATE_CONSOLE__LISTEN", "127.0.0.1:0")]).await;
    let tenant = stack.tenant().await;
    tenant.queue("jobs").await;
    tenant.exchange("events", warrengate::pb::ExchangeType::Topic).await;
    let mut own = signed_in(&stack, &tenant.client_id, &tenant.secret).await;
    let mut admin = signed_in(&stack, "admin", stack.admin_secret()).await;
    own.open("/queues/jobs").await;
    stack.stack.node().kill().unwrap();
    until("the gateway notices", async || admin.open("/").await.contains("Needs attention").then_some(())).await;
    let health = admin.open("/health").await;
    assert!(health.contains("not reachable") && health.contains("BROKER_ADMIN_UNAVAILABLE"), "{health}");

    let tenant_page = format!("/tenants/{}", tenant.id);
    let pages = [
        "/",
        "/queues",
        "/queues/jobs",
        "/exchanges",
        "/exchanges/events",
        "/topology",
        "/dead-letters",
        "/streams",
        "/usage",
        "/audit",
    ];
    for path in pages {
        let began = Instant::now();
        let page = own.get(path).await;
        assert!(began.elapsed() < MAX_PAGE, "{path} took {:?}", began.elapsed());
        match page.status {
            StatusCode::OK => {}
            StatusCode::SERVICE_UNAVAILABLE => {
                let codes = ["BROKER_UNREACHABLE", "BROKER_ADMIN_UNAVAILABLE"];
                assert!(codes.iter().any(|code| page.text.contains(code)), "{path}: {}", page.text);
                assert!(page.text.contains("Wait a moment"), "{path}: the next step: {}", page.text);
            }
            other => panic!("{path}: {other}: {}", page.text),
        }
        assert!(page.text.contains("Sign out"), "{path}: the session goes on");
    }
    for path in ["/tenants", "/tenants?usage=yes", &tenant_page, "/plans", "/clients", "/audit", "/keys", "/health"] {
        let began = Instant::now();
        let page = admin.get(path).await;
        assert!(began.elapsed() < MAX_PAGE, "{path} took {:?}", began.elapsed());
        assert_eq!(page.status, StatusCode::OK, "{path}: what does not need the broker is shown: {}", page.text);
    }
    assert!(admin.open(&tenant_page).await.contains("UNAVAILABLE"), "the meters say why they are missing");
    // Nothing is done in part: a form is refused with the same code, and works once the broker is back.
    own.get("/usage").await;
    let page = own.post("/queues", &[("name", "later")]).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE, "{}", page.text);
    stack.stack.node().restart().await.unwrap();
    until("the pages again", async || (own.get("/queues").await.status == StatusCode::OK).then_some(())).await;
    until("the form again", async || {
        own.get("/queues").await;
        (own.post("/queues", &[("name", "later")]).await.path == "/queues/later").then_some(())
    })
    .await;
    until("all is well", async || (!admin.open("/").await.contains("Needs attention")).then_some(())).await;
}
