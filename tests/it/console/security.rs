//! Sign-in, sessions, forms of other sites, and what the pages may load.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, StatusCode};
use secrecy::SecretString;
use warrengate::pb;

use crate::harness::{SharedStack, Tenant, browser::Browser, tenant::all_grants, wait::until};

fn wrong() -> SecretString {
    "wgs_wrong".to_owned().into()
}

#[tokio::test]
async fn a_session_is_a_sealed_cookie_that_no_script_and_no_other_site_can_use() {
    let mut browser = Browser::new();
    browser.get("/sign-in").await;
    let secret = SharedStack::get().admin_secret();
    let form = browser
        .form("/sign-in", &[("client_id", "admin"), ("client_secret", secrecy::ExposeSecret::expose_secret(secret))]);
    let response = form.header("sec-fetch-site", "same-origin").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    let cookies: Vec<_> =
        response.headers().get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect();
    let session = cookies.iter().find(|cookie| cookie.starts_with("warrengate-session-")).expect("a session");
    for attribute in ["; HttpOnly", "; SameSite=Strict", "; Path=/", "; Max-Age=43200"] {
        assert!(session.contains(attribute), "{session}");
    }
    let value = session.split_once('=').expect("a value").1.split(';').next().unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(value).expect("base64");
    // Encrypted bytes contain short texts by chance.
    for text in [secrecy::ExposeSecret::expose_secret(secret), "\"admin\"", "eyJ0eXAi"] {
        assert!(!bytes.windows(text.len()).any(|part| part == text.as_bytes()), "secret, id and token cannot be read");
    }
}

#[tokio::test]
async fn every_answer_restricts_what_a_page_can_do() {
    let mut browser = Browser::signed_in("admin", SharedStack::get().admin_secret()).await;
    for path in ["/", "/sign-in", "/tenants", "/no-such-page", "/audit"] {
        let page = browser.get(path).await;
        assert_eq!(
            page.headers["content-security-policy"],
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action \
             'self'; frame-ancestors 'none'; base-uri 'none'",
            "{path}"
        );
        assert_eq!(page.headers["x-content-type-options"], "nosniff");
        assert_eq!(page.headers["referrer-policy"], "no-referrer");
        assert_eq!(page.headers["cache-control"], "no-store", "{path}");
        for forbidden in ["<style", " style=", " onclick=", " onload=", "javascript:", "http://", "https://"] {
            let text = page.text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains(forbidden), "{path}: {forbidden}");
        }
        assert!(page.text.len() < 100 * 1024, "{path}: {}", page.text.len());
    }
}

#[tokio::test]
async fn the_stylesheet_and_the_script_are_small_files_of_the_console() {
    let mut browser = Browser::new();
    let page = browser.get("/sign-in").await.text;
    let mut sizes = Vec::new();
    for (start, end) in [("rel=\"stylesheet\" href=\"", ".css"), ("<script src=\"", ".js")] {
        let path = page.split_once(start).expect("a file").1.split('"').next().unwrap().to_owned();
        assert!(path.starts_with("/assets/") && path.ends_with(end), "{path}");
        let file = browser.get(&path).await;
        assert_eq!(file.status, StatusCode::OK);
        assert!(file.headers["cache-control"].to_str().unwrap().contains("immutable"));
        assert!(file.headers.contains_key("content-security-policy"));
        sizes.push(file.text.len());
    }
    assert!(sizes[0] < 20 * 1024 && sizes[1] < 15 * 1024, "{sizes:?}");
    assert_eq!(page.matches("<script").count(), 1);
    assert_eq!(browser.get("/assets/x/../../Cargo.toml").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_wrong_secret_is_refused_with_its_code_and_is_in_the_audit_trail() {
    let tenant = Tenant::fresh().await;
    let mut browser = Browser::new();
    let page = browser.sign_in(&tenant.client_id, &wrong()).await;
    assert_eq!(page.status, StatusCode::UNAUTHORIZED);
    assert!(page.text.contains("INVALID_CLIENT_CREDENTIALS"), "{}", page.text);
    assert!(page.text.contains(&format!("value=\"{}\"", tenant.client_id)), "the id need not be typed again");
    assert!(!browser.cookies.keys().any(|name| name.contains("session")));
    let admin = SharedStack::get().admin().await;
    let event = until("the refusal in the trail", async || {
        let request = pb::ListAuditEventsRequest {
            method: "warrengate.v1.Auth/IssueToken".into(),
            outcome: "refused".into(),
            ..Default::default()
        };
        let events = admin.admin().list_audit_events(request).await.unwrap().into_inner().events;
        events.into_iter().find(|event| event.object == tenant.client_id)
    })
    .await;
    assert!(event.peer_address.starts_with("127.0.0.1:"), "the address of the browser: {event:?}");
}

#[tokio::test]
async fn pages_need_a_session_and_return_to_where_the_user_wanted_to_go() {
    let mut browser = Browser::new();
    for path in ["/", "/tenants", "/clients/acme.app", "/audit/export"] {
        let page = browser.get(path).await;
        assert_eq!(page.path, "/sign-in", "{path}");
    }
    browser.get("/sign-in?next=%2Ftenants").await;
    let secret = secrecy::ExposeSecret::expose_secret(SharedStack::get().admin_secret());
    let fields = [("client_id", "admin"), ("client_secret", secret), ("next", "/tenants")];
    assert_eq!(browser.post("/sign-in", &fields).await.path, "/tenants");
    let mut other = Browser::new();
    other.get("/sign-in").await;
    let fields = [("client_id", "admin"), ("client_secret", secret), ("next", "//evil.example")];
    assert_eq!(other.post("/sign-in", &fields).await.path, "/");
}

#[tokio::test]
async fn a_link_of_another_site_leads_to_the_page_although_the_session_is_not_sent_with_it() {
    let browser = Browser::new();
    let request = browser.request(Method::GET, "/audit?tenant=acme");
    let response =
        request.header("sec-fetch-site", "cross-site").header("sec-fetch-mode", "navigate").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let text = response.text().await.unwrap();
    assert!(text.contains("content=\"0;url=/audit?tenant=acme\""), "{text}");
    assert!(!text.contains("<form"), "{text}");
}

#[tokio::test]
async fn forms_of_other_sites_and_of_other_sessions_change_nothing() {
    let admin = SharedStack::get().admin_secret();
    let mut browser = Browser::signed_in("admin", admin).await;
    browser.get("/tenants").await;
    let id = format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
    let form = |browser: &Browser| browser.form("/tenants", &[("id", &id)]);
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "none"),
        ("origin", "http://evil.example"),
        ("origin", "null"),
    ] {
        let response = form(&browser).header(name, value).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{name}: {value}");
        assert!(response.text().await.unwrap().contains("CROSS_SITE_REQUEST"), "{name}: {value}");
    }
    let response = form(&browser).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN, "a form without an origin");
    let other = Browser::signed_in("admin", admin).await;
    let fields = [("id", id.as_str()), ("csrf", other.csrf())];
    browser.forget_csrf();
    let page = browser.post("/tenants", &fields).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    assert!(page.text.contains("FORM_OF_ANOTHER_SESSION"), "{}", page.text);
    let asked = SharedStack::get().admin().await.admin().get_tenant(pb::GetTenantRequest { tenant: id.clone() }).await;
    assert_eq!(asked.expect_err("not created").code(), tonic::Code::NotFound);
    // The same form of its own session is accepted.
    browser.get("/tenants").await;
    let page = browser.post("/tenants", &[("id", &id)]).await;
    assert_eq!((page.status, page.path), (StatusCode::OK, format!("/tenants/{id}")));
    // Browsers that have no Sec-Fetch-Site send their origin.
    browser.get(&format!("/tenants/{id}")).await;
    let origin = format!("http://{}", SharedStack::get().stack.gateway().console_address().unwrap());
    let path = format!("/tenants/{id}/suspend");
    let response = browser.form(&path, &[]).header("origin", origin).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_sign_in_form_of_another_browser_is_refused() {
    let mut browser = Browser::new();
    browser.get("/sign-in").await;
    let mut other = Browser::new();
    other.get("/sign-in").await;
    let (csrf, secret) =
        (browser.csrf().to_owned(), secrecy::ExposeSecret::expose_secret(SharedStack::get().admin_secret()));
    other.forget_csrf();
    let page = other.post("/sign-in", &[("csrf", &csrf), ("client_id", "admin"), ("client_secret", secret)]).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    assert!(page.text.contains("FORM_EXPIRED"), "{}", page.text);
}

#[tokio::test]
async fn a_session_ends_when_its_client_is_revoked_or_its_user_signs_out() {
    let tenant = Tenant::fresh().await;
    let admin = SharedStack::get().admin().await;
    let (id, secret) = Tenant::add_client(&admin, &tenant.id, "reader", all_grants()).await;
    let mut browser = Browser::signed_in(&id, &secret).await;
    browser.open("/").await;
    admin.admin().revoke_client(pb::RevokeClientRequest { client_id: id.clone() }).await.unwrap();
    let page = until("the end of the session", async || {
        let page = browser.get("/").await;
        (page.path == "/sign-in").then_some(page)
    })
    .await;
    assert!(page.text.contains("Your session has ended"), "{}", page.text);
    assert!(!browser.cookies.keys().any(|name| name.contains("session")), "{:?}", browser.cookies);

    let mut browser = Browser::signed_in(&tenant.client_id, &tenant.secret).await;
    browser.open("/").await;
    let copied = browser.cookies.clone();
    assert_eq!(browser.post("/sign-out", &[]).await.path, "/sign-in");
    assert!(!browser.cookies.keys().any(|name| name.contains("session")));
    browser.cookies = copied;
    assert_eq!(browser.get("/").await.path, "/sign-in", "a copy of the cookie does not outlive the session");
}

#[tokio::test]
async fn a_session_of_a_suspended_tenant_ends() {
    let tenant = Tenant::fresh().await;
    let mut browser = Browser::signed_in(&tenant.client_id, &tenant.secret).await;
    let admin = SharedStack::get().admin().await;
    admin.admin().suspend_tenant(pb::SuspendTenantRequest { tenant: tenant.id.clone() }).await.unwrap();
    until("the end of the session", async || (browser.get("/").await.path == "/sign-in").then_some(())).await;
}

#[tokio::test]
async fn a_tenant_sees_nothing_of_the_platform_and_nothing_of_another_tenant() {
    let (own, other) = (Tenant::fresh().await, Tenant::fresh().await);
    let admin = SharedStack::get().admin().await;
    let all = pb::Grants { administer: true, ..all_grants() };
    let (id, secret) = Tenant::add_client(&admin, &own.id, "administrator", all).await;
    let mut browser = Browser::signed_in(&id, &secret).await;
    for path in ["/tenants", "/plans", "/keys", "/health"]
        .map(str::to_owned)
        .into_iter()
        .chain([format!("/tenants/{}", other.id)])
    {
        let page = browser.get(&path).await;
        assert_eq!(page.status, StatusCode::NOT_FOUND, "{path}");
        assert!(!page.text.contains(&other.id) || path.contains(&other.id), "{path}");
    }
    let page = browser.get(&format!("/clients/{}.app", other.id)).await;
    assert!([StatusCode::FORBIDDEN, StatusCode::NOT_FOUND].contains(&page.status), "{}", page.status);
    assert!(!page.text.contains("Rotate the secret"), "{}", page.text);
    let clients = browser.open(&format!("/clients?tenant={}", other.id)).await;
    assert!(clients.contains(&format!("{}.app", own.id)) && !clients.contains(&other.id), "its own clients only");
    // The services refuse what the pages do not offer.
    for (path, fields) in [
        (format!("/tenants/{}/suspend", other.id), vec![]),
        (format!("/tenants/{}/delete", other.id), vec![("confirm", other.id.as_str())]),
        (format!("/clients/{}.app/revoke", other.id), vec![]),
        (format!("/clients/{}.app/rotate", other.id), vec![]),
        ("/keys/rotate".to_owned(), vec![]),
        ("/streams/close".to_owned(), vec![("tenant", other.id.as_str()), ("stream", "any")]),
        ("/clients".to_owned(), vec![("tenant", other.id.as_str()), ("name", "intruder")]),
    ] {
        browser.open("/").await;
        let page = browser.post(&path, &fields).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN, "{path}: {}", page.text);
    }
    assert!(other.client.auth().who_am_i(pb::WhoAmIRequest {}).await.is_ok(), "it was not touched");
}

#[tokio::test]
async fn large_and_malformed_forms_are_refused() {
    let mut browser = Browser::new();
    browser.get("/sign-in").await;
    let large = "x".repeat(20_000);
    let page = browser.post("/sign-in", &[("client_id", &large)]).await;
    assert_eq!(page.status, StatusCode::PAYLOAD_TOO_LARGE);
    let request = browser.request(Method::POST, "/sign-in").header("sec-fetch-site", "same-origin").body("{}");
    let page = browser.follow("/sign-in", request).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    let request = browser.request(Method::DELETE, "/tenants").header("sec-fetch-site", "same-origin");
    let page = browser.follow("/tenants", request).await;
    assert_eq!(page.status, StatusCode::METHOD_NOT_ALLOWED);
}
