//! Sign-in to the console at an external issuer: the authorization code flow, renewal by refresh tokens, and what is
//! refused.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use reqwest::{Method, StatusCode};
use serde_json::Value;
use warrengate::{
    config::SignInConfig,
    pb::{self, AuditEvent},
};
use warrengate_testkit::oidc::{CLIENT_ID, CLIENT_SECRET};

use crate::harness::{
    SharedStack, Tenant,
    browser::{Browser, Page},
    issuer::{Issuer, IssuerExt as _, Key},
    wait::{until, within},
    web::{self, OwnGateway},
};

/// A gateway whose console allows a sign-in at an issuer, and a client that is bound to that issuer.
struct Site {
    gateway: OwnGateway,
    issuer: Issuer,
    key: Arc<Key>,
    tenant: Tenant,
    client: String,
}

impl Site {
    async fn start() -> Self {
        let tenant = Tenant::fresh().await;
        let key = Arc::new(Key::new("k"));
        let issuer = Issuer::start(&[&key]).await;
        let gateway = web::gateway(|config| {
            config.auth.issuers = vec![issuer.config()];
            config.console.listen = Some(([127, 0, 0, 1], 0).into());
            config.console.sign_in = Some(SignInConfig {
                issuer: issuer.name().to_owned(),
                client_id: CLIENT_ID.to_owned(),
                client_secret: Some(CLIENT_SECRET.to_owned().into()),
                client_secret_file: None,
                scopes: vec!["openid".to_owned()],
                // The console listens on a free port; the test's browser follows the path only.
                redirect: "http://console.example/sign-in/return".to_owned(),
            });
        })
        .await;
        let client = gateway.external_client(&tenant, "ann", issuer.name(), "").await;
        let site = Self { gateway, issuer, key, tenant, client };
        site.sign_in_for(600);
        // Keys are fetched in the background.
        let mut browser = site.browser();
        until("the first sign-in", async || {
            (site.sign_in(&mut browser, "/").await.status == StatusCode::OK).then_some(())
        })
        .await;
        site
    }

    /// The issuer's tokens are valid for this many seconds from now on.
    fn sign_in_for(&self, seconds: u64) {
        let (key, claims) = (Arc::clone(&self.key), self.issuer.claims(&self.tenant.id, "ann"));
        self.issuer.sign_in_with(move || token(claims.clone(), seconds, &key));
    }

    fn browser(&self) -> Browser {
        Browser::at(self.gateway.running.console_address().expect("the console is on"))
    }

    /// Follows the link on the sign-in page to the issuer and back.
    async fn sign_in(&self, browser: &mut Browser, next: &str) -> Page {
        let back = self.issuer_answer(browser, next).await;
        let page = browser.get(&back).await;
        assert!(
            page.status != StatusCode::OK || page.text.contains(&format!("content=\"0;url={next}\"")),
            "{}",
            page.text
        );
        page
    }

    /// The path with which the issuer sends the browser back.
    async fn issuer_answer(&self, browser: &mut Browser, next: &str) -> String {
        let to_issuer = browser.redirect(&format!("/sign-in/issuer?next={next}")).await;
        assert!(to_issuer.starts_with(&format!("{}/authorize?", self.issuer.name())), "{to_issuer}");
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let answer = within("the issuer", http.get(&to_issuer).send()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{to_issuer}");
        let back = answer.headers()["location"].to_str().unwrap();
        back.strip_prefix("http://console.example").expect("the console's address").to_owned()
    }

    /// A sign-in that the issuer accepts and the gateway does not.
    async fn sign_in_refused(&self, browser: &mut Browser) -> Page {
        let back = self.issuer_answer(browser, "/").await;
        let page = browser.get(&back).await;
        assert!(!browser.cookies.keys().any(|name| name.contains("session")), "{:?}", browser.cookies);
        page
    }

    async fn events(&self, outcome: &str) -> Vec<AuditEvent> {
        let admin = SharedStack::get().admin().await;
        let request = pb::ListAuditEventsRequest {
            method: "console/SignIn".into(),
            outcome: outcome.into(),
            ..Default::default()
        };
        let events = admin.admin().list_audit_events(request).await.unwrap().into_inner().events;
        let name = self.issuer.name().trim_start_matches("http://");
        events.into_iter().filter(|event| event.object == name).collect()
    }
}

/// A token that is issued now and valid for some seconds.
fn token(mut claims: Value, seconds: u64, key: &Key) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    claims["iat"] = now.into();
    claims["exp"] = (now + seconds).into();
    key.sign(&claims)
}

#[tokio::test]
async fn a_person_signs_in_at_an_issuer_and_is_the_client_that_is_bound_to_it() {
    let site = Site::start().await;
    let mut browser = site.browser();
    let page = browser.open("/sign-in?next=%2Fqueues").await;
    assert!(page.contains("href=\"/sign-in/issuer?next=%2Fqueues\""), "{page}");
    let page = site.sign_in(&mut browser, "/queues").await;
    assert_eq!(page.status, StatusCode::OK);
    let text = browser.open("/queues").await;
    assert!(text.contains(&site.client), "{text}");
    let event = until("the sign-in in the trail", async || site.events("done").await.pop()).await;
    assert_eq!((event.client_id.as_str(), event.tenant.as_str()), (site.client.as_str(), site.tenant.id.as_str()));
    assert!(event.peer_address.starts_with("127.0.0.1:"), "{event:?}");
    // A client that is deleted has no session.
    let admin = SharedStack::get().admin().await;
    let request = pb::RevokeClientRequest { client_id: site.client.clone() };
    admin.admin().revoke_client(request).await.unwrap();
    until("the end of the session", async || (browser.get("/queues").await.path == "/sign-in").then_some(())).await;
    let page = site.sign_in_refused(&mut browser).await;
    assert_eq!(page.status, StatusCode::UNAUTHORIZED, "{}", page.text);
    site.gateway.running.shutdown().await;
}

#[tokio::test]
async fn a_code_is_accepted_once_and_only_in_the_browser_that_asked_for_it() {
    let site = Site::start().await;
    let (mut browser, mut other) = (site.browser(), site.browser());
    let back = site.issuer_answer(&mut browser, "/").await;
    let page = other.get(&back).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    assert!(page.text.contains("FORM_EXPIRED"), "{}", page.text);
    let state = back.split("state=").nth(1).unwrap().split('&').next().unwrap();
    for (path, code) in [
        (back.replace(state, "other"), "FORM_EXPIRED"),
        (format!("/sign-in/return?state={state}&error=access_denied"), "SIGN_IN_REFUSED"),
    ] {
        let mut own = site.browser();
        own.cookies.clone_from(&browser.cookies);
        let page = own.get(&path).await;
        assert_eq!((page.status, page.text.contains(code)), (StatusCode::FORBIDDEN, true), "{path}: {}", page.text);
    }
    let cookies = browser.cookies.clone();
    assert_eq!(browser.get(&back).await.status, StatusCode::OK);
    assert!(browser.open("/").await.contains(&site.client));
    // The same code again, with the cookie of the first time.
    other.cookies = cookies;
    let page = other.get(&back).await;
    assert_eq!((page.status, page.text.contains("invalid_grant")), (StatusCode::FORBIDDEN, true), "{}", page.text);
    let wrong_issuer = site.issuer_answer(&mut other, "/").await;
    let wrong_issuer = format!("{}https://evil.example", wrong_issuer.split("http://").next().unwrap());
    let page = other.get(&wrong_issuer).await;
    assert_eq!((page.status, page.text.contains("FORM_EXPIRED")), (StatusCode::FORBIDDEN, true), "{}", page.text);
    until("the refusals in the trail", async || {
        let rules: Vec<_> = site.events("refused").await.into_iter().map(|event| event.rule).collect();
        let expected = ["SIGN_IN_REFUSED", "ISSUER_MISMATCH"];
        expected.iter().all(|rule| rules.iter().any(|found| found == rule)).then_some(())
    })
    .await;
    site.gateway.running.shutdown().await;
}

#[tokio::test]
async fn a_session_is_renewed_by_its_refresh_token_once_and_ends_when_the_issuer_refuses() {
    let site = Site::start().await;
    site.sign_in_for(9);
    let mut browser = site.browser();
    assert_eq!(site.sign_in(&mut browser, "/").await.status, StatusCode::OK);
    // On a busy machine a request may come so late that the session has expired; then the user signs in again.
    until("a renewal whose refresh token other requests do not use again", async || {
        let (first, before) = (browser.cookies.clone(), site.issuer.refreshes());
        if browser.get("/").await.path == "/sign-in" {
            site.sign_in(&mut browser, "/").await;
            return None;
        }
        let renewed = site.issuer.refreshes();
        if renewed == before {
            return None;
        }
        assert_ne!(browser.cookies, first, "the browser has the newer token");
        // A request that was sent with the older cookies.
        let mut parallel = site.browser();
        parallel.cookies = first;
        let page = parallel.get("/").await;
        assert_eq!(site.issuer.refreshes(), renewed, "the refresh token is used once");
        (page.path == "/").then(|| assert!(page.text.contains(&site.client), "{}", page.text))
    })
    .await;
    site.issuer.end_sessions();
    until("the end of a session whose refresh token is refused", async || {
        let before = site.issuer.refreshes();
        if browser.get("/").await.path != "/sign-in" {
            return None;
        }
        if site.issuer.refreshes() == before {
            site.sign_in(&mut browser, "/").await;
            site.issuer.end_sessions();
            return None;
        }
        Some(())
    })
    .await;
    site.gateway.running.shutdown().await;
}

#[tokio::test]
async fn a_renewed_token_that_cannot_be_verified_leaves_the_session_in_use_and_is_renewed_again() {
    let site = Site::start().await;
    let lifetime = Duration::from_secs(15);
    let newer = Arc::new(Key::new("newer"));
    // On a busy machine a request may come so late that the session has expired; then the user signs in again.
    until("a session that outlives a renewal that the gateway cannot verify", async || {
        site.issuer.publish(&[&site.key]);
        site.sign_in_for(lifetime.as_secs());
        let mut browser = site.browser();
        if site.sign_in(&mut browser, "/").await.status != StatusCode::OK {
            return None;
        }
        let signed_in = Instant::now();
        let (key, claims) = (Arc::clone(&newer), site.issuer.claims(&site.tenant.id, "ann"));
        site.issuer.sign_in_with(move || token(claims.clone(), 600, &key));
        let before = site.issuer.refreshes();
        until("a renewal, or a session that has expired", async || {
            let is_over = browser.get("/").await.path == "/sign-in" || site.issuer.refreshes() > before;
            is_over.then_some(())
        })
        .await;
        if signed_in.elapsed() >= lifetime {
            return None;
        }
        let page = browser.get("/").await;
        if signed_in.elapsed() >= lifetime {
            return None;
        }
        assert_eq!(page.path, "/", "the old token is still valid: {}", page.text);
        site.issuer.publish(&[&newer]);
        until("the renewed token, or the end of the old one", async || {
            let page = browser.get("/").await;
            (page.path == "/sign-in" || signed_in.elapsed() > lifetime).then_some(())
        })
        .await;
        (browser.get("/").await.path == "/").then_some(())
    })
    .await;
    site.gateway.running.shutdown().await;
}

#[tokio::test]
async fn while_an_issuer_hangs_all_sign_ins_wait_for_one_answer() {
    // Connections are accepted by the system, and never answered.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let name = format!("http://{}", silent.local_addr().unwrap());
    let gateway = web::gateway(|config| {
        config.auth.issuers = vec![crate::harness::issuer::config(&name)];
        config.console.listen = Some(([127, 0, 0, 1], 0).into());
        config.console.sign_in = Some(SignInConfig {
            issuer: name.clone(),
            client_id: CLIENT_ID.to_owned(),
            client_secret: None,
            client_secret_file: None,
            scopes: vec!["openid".to_owned()],
            redirect: "http://console.example/sign-in/return".to_owned(),
        });
    })
    .await;
    let began = Instant::now();
    let sign_in = || async {
        let mut browser = Browser::at(gateway.running.console_address().expect("the console is on"));
        let page = browser.get("/sign-in/issuer").await;
        assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE, "{}", page.text);
        assert!(page.text.contains("SIGN_IN_UNAVAILABLE"), "{}", page.text);
    };
    within("all of them", futures_util::future::join_all((0..8).map(|_| sign_in()))).await;
    // One after another, they would wait 80 s for eight answers.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let again = Instant::now();
    sign_in().await;
    assert!(again.elapsed() < Duration::from_secs(4), "the failure is remembered for a moment: {:?}", again.elapsed());
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn without_a_configured_issuer_there_is_no_sign_in_at_one() {
    let mut browser = Browser::new();
    assert!(!browser.open("/sign-in").await.contains("/sign-in/issuer"));
    for path in ["/sign-in/issuer", "/sign-in/return?code=a&state=b"] {
        assert_eq!(browser.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn an_issuer_that_does_not_answer_leaves_the_sign_in_by_secret_in_use() {
    let site = Site::start().await;
    let mut browser = site.browser();
    let back = site.issuer_answer(&mut browser, "/").await;
    site.issuer.stop();
    let page = until("the issuer is away", async || {
        let page = browser.get(&back).await;
        (page.status == StatusCode::SERVICE_UNAVAILABLE).then_some(page)
    })
    .await;
    assert!(page.text.contains("SIGN_IN_UNAVAILABLE"), "{}", page.text);
    let page = browser.sign_in(&site.tenant.client_id, &site.tenant.secret).await;
    assert_eq!((page.status, page.path.as_str()), (StatusCode::OK, "/"), "{}", page.text);
    site.gateway.running.shutdown().await;
}

impl Browser {
    /// The address to which a path redirects.
    async fn redirect(&mut self, path: &str) -> String {
        let request = self.request(Method::GET, path);
        let page = self.send(path, request).await;
        assert_eq!(page.status, StatusCode::SEE_OTHER, "{path}: {}", page.text);
        page.headers["location"].to_str().unwrap().to_owned()
    }
}
