//! Attacks on the console from the network: unfinished requests, a crowd of connections, guessed secrets, forms that are
//! too large, and forms of a revoked client. Each is refused or ends in time, and other users are served.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;
use warrengate::{config::Config, pb};

use crate::harness::{
    SharedStack, Tenant,
    browser::Browser,
    tenant::all_grants,
    wait::{until, within},
    web::{self, OwnGateway},
};

async fn gateway(change: impl FnOnce(&mut Config)) -> (OwnGateway, SocketAddr) {
    let gateway = web::gateway(|config| {
        config.console.listen = Some(([127, 0, 0, 1], 0).into());
        change(config);
    })
    .await;
    let address = gateway.running.console_address().expect("the console is on");
    (gateway, address)
}

async fn administrator(address: SocketAddr) -> Browser {
    let mut browser = Browser::at(address);
    let page = browser.sign_in("admin", SharedStack::get().admin_secret()).await;
    assert_eq!((page.status, page.path.as_str()), (StatusCode::OK, "/"), "{}", page.text);
    browser
}

/// Sends the start of a request, and then a byte ten times a second until the connection ends. Returns the answer.
async fn trickle(address: SocketAddr, start: String) -> String {
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    writer.write_all(start.as_bytes()).await.unwrap();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut answer = Vec::new();
    within("the end of the connection", async {
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                read = reader.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(length) => answer.extend_from_slice(&buffer[..length]),
                },
                // An error here is followed by the end of what can be read.
                _ = tick.tick() => drop(writer.write_all(b"a").await),
            }
        }
    })
    .await;
    String::from_utf8_lossy(&answer).into_owned()
}

const FORM: &str =
    "Sec-Fetch-Site: same-origin\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 10000";

#[tokio::test]
async fn requests_that_never_end_are_closed_in_time_with_and_without_a_session() {
    let (gateway, address) = gateway(|config| {
        config.limits.unauthenticated_timeout = Duration::from_secs(1);
        config.limits.request_timeout = Duration::from_secs(4);
    })
    .await;
    let browser = administrator(address).await;
    let cookies: Vec<_> = browser.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let cookies = cookies.join("; ");
    let began = Instant::now();
    let (headers, form, form_of_user, headers_of_user) = tokio::join!(
        trickle(address, "GET /sign-in HTTP/1.1\r\nHost: a\r\nX-A: ".to_owned()),
        trickle(address, format!("POST /sign-in HTTP/1.1\r\nHost: a\r\n{FORM}\r\n\r\ncsrf=")),
        trickle(address, format!("POST /tenants HTTP/1.1\r\nHost: a\r\nCookie: {cookies}\r\n{FORM}\r\n\r\nid=")),
        trickle(address, format!("GET /tenants HTTP/1.1\r\nHost: a\r\nCookie: {cookies}\r\nX-A: ")),
    );
    // Headers may take 10 s.
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    assert!(!headers.contains(" 200 ") && !headers_of_user.contains(" 200 "), "{headers}{headers_of_user}");
    assert!(form.starts_with("HTTP/1.1 408") && form.contains("REQUEST_TIMEOUT"), "{form}");
    // The page of the console, after the time of a user, which is longer.
    assert!(form_of_user.starts_with("HTTP/1.1 408") && form_of_user.contains("REQUEST_TIMEOUT"), "{form_of_user}");
    let mut browser = administrator(address).await;
    browser.open("/tenants").await;
    gateway.running.shutdown().await;
}

/// Whether the sign-in page is served on a connection.
async fn is_served(connection: &mut TcpStream) -> bool {
    let mut buffer = [0; 12];
    let request = b"GET /sign-in HTTP/1.1\r\nHost: a\r\n\r\n";
    let answered =
        async { connection.write_all(request).await.is_ok() && connection.read_exact(&mut buffer).await.is_ok() };
    within("an answer or the end", answered).await && buffer == *b"HTTP/1.1 200"
}

#[tokio::test]
async fn a_crowd_from_one_address_is_bounded_and_does_not_end_the_connection_of_a_user() {
    let (gateway, address) = gateway(|config| {
        config.limits.max_unauthenticated_connections_per_address = 3;
        config.limits.unauthenticated_timeout = Duration::from_secs(300);
    })
    .await;
    let mut user = administrator(address).await;
    let connect = async || TcpStream::connect(address).await.unwrap();
    let mut crowd = Vec::new();
    for number in 0..3 {
        let mut connection = connect().await;
        assert!(is_served(&mut connection).await, "{number}");
        crowd.push(connection);
    }
    assert!(!is_served(&mut connect().await).await, "the fourth");
    user.open("/tenants").await;
    crowd.pop();
    until("a free slot", async || is_served(&mut connect().await).await.then_some(())).await;
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn guessed_secrets_are_refused_without_a_check_after_some_and_another_client_signs_in() {
    let (gateway, address) = gateway(|config| {
        config.auth.failed_logins_per_minute_per_client = 4;
        config.auth.failed_logins_per_minute_per_address = 10_000;
    })
    .await;
    let tenant = Tenant::fresh().await;
    let mut browser = Browser::at(address);
    let wrong = "wgs_wrong".to_owned().into();
    let mut refused = Vec::new();
    for _ in 0..6 {
        let page = browser.sign_in(&tenant.client_id, &wrong).await;
        let codes = ["INVALID_CLIENT_CREDENTIALS", "TOO_MANY_WRONG_SECRETS"];
        assert!(codes.iter().any(|code| page.text.contains(code)), "{}", page.text);
        assert!(!browser.cookies.keys().any(|name| name.contains("session")), "{:?}", browser.cookies);
        refused.push(page.status);
    }
    assert_eq!(refused[0], StatusCode::UNAUTHORIZED);
    assert!(refused.contains(&StatusCode::TOO_MANY_REQUESTS), "{refused:?}");
    administrator(address).await;
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn forms_that_are_too_large_are_refused_and_without_a_session_they_are_not_read() {
    let tenant = Tenant::fresh().await;
    let mut browser = Browser::signed_in(&tenant.client_id, &tenant.secret).await;
    for (path, bytes, status, code) in [
        ("/publish", 512 * 1024, StatusCode::PAYLOAD_TOO_LARGE, "FORM_TOO_LARGE"),
        ("/dead-letters/edited", 1_000_001, StatusCode::BAD_REQUEST, "1,000,001 bytes; at most 1,000,000"),
        ("/dead-letters/edited", 6_016_384, StatusCode::PAYLOAD_TOO_LARGE, "FORM_TOO_LARGE"),
    ] {
        browser.open("/queues").await;
        let page = browser.post(path, &[("body", &"x".repeat(bytes))]).await;
        assert_eq!((page.status, page.text.contains(code)), (status, true), "{path} {bytes}: {}", page.text);
    }
    // The answer comes although no byte of the body is sent.
    let mut connection =
        TcpStream::connect(SharedStack::get().stack.gateway().console_address().unwrap()).await.unwrap();
    let form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 6000000";
    let request =
        format!("POST /dead-letters/edited HTTP/1.1\r\nHost: a\r\nSec-Fetch-Site: same-origin\r\n{form}\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut buffer = [0; 12];
    within("an answer", connection.read_exact(&mut buffer)).await.unwrap();
    assert_eq!(&buffer, b"HTTP/1.1 303");
}

#[tokio::test]
async fn a_form_of_a_client_that_was_revoked_changes_nothing() {
    let tenant = Tenant::fresh().await;
    let admin = SharedStack::get().admin().await;
    let (id, secret) = Tenant::add_client(&admin, &tenant.id, "operator", all_grants()).await;
    let mut browser = Browser::signed_in(&id, &secret).await;
    browser.open("/queues").await;
    // The form is open in the browser when the client is revoked.
    let request = browser.form("/queues", &[("name", "intruder")]).header("sec-fetch-site", "same-origin");
    admin.admin().revoke_client(pb::RevokeClientRequest { client_id: id }).await.unwrap();
    until("the end of the session", async || {
        let mut copy = Browser::new();
        copy.cookies.clone_from(&browser.cookies);
        (copy.get("/").await.path == "/sign-in").then_some(())
    })
    .await;
    let page = browser.follow("/queues", request).await;
    assert_eq!(page.path, "/sign-in", "{}", page.text);
    let asked = tenant.client.topology().get_queue(pb::GetQueueRequest { name: "intruder".into() }).await;
    assert_eq!(asked.expect_err("not declared").code(), Code::NotFound);
}
