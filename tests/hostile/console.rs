//! The listeners of HTTP/1.1: what one address can make the operations listener and the console hold without signing in,
//! and what a user who is signed in to the console can.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::header::{COOKIE, SET_COOKIE};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    Scale, control_tenant::ControlTenant, environment::Environment, http2::tls, report::Report, target::mebibytes,
};

/// Connections that one address may have without signing in: `limits.max_unauthenticated_connections_per_address`.
const CONNECTIONS: usize = 400;
/// The bounds of docs/security.md: 64 KiB for each connection, and twice that with TLS.
const GROWTH_OPS: u64 = 32 << 20;
const GROWTH_CONSOLE: u64 = 64 << 20;
const CONNECTING: Duration = Duration::from_secs(6);
const CLOSED_WITHIN: Duration = Duration::from_secs(15);
/// Pages of one tenant have at most half of 64 MiB, counted before they are rendered.
const GROWTH_SIGNED_IN: u64 = 64 << 20;
const PAGES: usize = 60;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}
type Connection = Box<dyn Stream>;

async fn connect(address: SocketAddr, ca: Option<&str>) -> Option<Connection> {
    match ca {
        None => Some(Box::new(TcpStream::connect(address).await.ok()?)),
        Some(ca) => Some(Box::new(tls(address, ca, b"http/1.1").await?)),
    }
}

/// What a connection sends; it reads nothing.
fn attack(number: usize, path: &str) -> Vec<u8> {
    match number % 4 {
        0 => format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-A: {}", "a".repeat(31_000)).into_bytes(),
        1 => {
            let head = "Host: a\r\nSec-Fetch-Site: same-origin\r\nContent-Type: application/x-www-form-urlencoded";
            let body = "a".repeat(15_999);
            let path = if path == "/metrics" { "/oauth2/token" } else { path };
            format!("POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: 16000\r\n\r\n{body}").into_bytes()
        }
        2 => format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(1_000).into_bytes(),
        _ => Vec::new(),
    }
}

/// As many connections as one address gets at each listener: unfinished headers and bodies, unread responses, silence.
pub async fn crowds(environment: &Arc<Environment>, scale: Scale, report: &mut Report) {
    const ATTACK: &str = "HTTP/1.1 crowd";
    let control = ControlTenant::start(environment, scale).await;
    let peak = environment.target.measure().await;
    let mut open = JoinSet::new();
    let mut before = 0;
    for (name, address, ca, path, bound) in [
        ("operations", environment.target.ops, None, "/metrics", GROWTH_OPS),
        ("console", environment.target.console, Some(environment.ca.as_str()), "/sign-in", GROWTH_CONSOLE),
    ] {
        let began = Instant::now();
        let accepted = Arc::new(AtomicUsize::new(0));
        let mut connecting = JoinSet::new();
        for attacker in 0..8 {
            let (accepted, ca) = (Arc::clone(&accepted), ca.map(str::to_owned));
            connecting.spawn(async move {
                let mut connections = Vec::new();
                for number in attacker * CONNECTIONS / 8..(attacker + 1) * CONNECTIONS / 8 {
                    if began.elapsed() > CONNECTING {
                        break;
                    }
                    let Some(mut connection) = connect(address, ca.as_deref()).await else { continue };
                    let request = attack(number, path);
                    // What is not read in time is not written.
                    let _ = timeout(Duration::from_millis(200), connection.write_all(&request)).await;
                    accepted.fetch_add(1, Ordering::Relaxed);
                    connections.push(connection);
                }
                connections
            });
        }
        while let Some(connections) = connecting.join_next().await {
            for connection in connections.unwrap() {
                open.spawn(closed_unread(connection));
            }
        }
        let grown = peak.growth().saturating_sub(before);
        before += grown;
        let accepted = accepted.load(Ordering::Relaxed);
        let each = grown / 1024 / accepted.max(1) as u64;
        let text = format!("{}, {accepted} connections, {each} KiB each", mebibytes(grown));
        report.must(ATTACK, &format!("{name}: memory at most {} more", mebibytes(bound)), text, grown <= bound);
    }
    let p99 = control.during(Duration::from_secs(1)).await;
    let opened = open.len();
    let left = wait_until_closed(&mut open).await;
    report.must(ATTACK, "all closed within 15 s", format!("{left} of {opened} open"), left == 0);
    control.check(ATTACK, p99, report).await;
}

async fn wait_until_closed(open: &mut JoinSet<bool>) -> usize {
    let mut left = 0;
    while let Some(closed) = open.join_next().await {
        left += usize::from(!closed.unwrap());
    }
    left
}

/// Whether the gateway closes a connection in time from which nothing is read.
async fn closed_unread(mut connection: Connection) -> bool {
    let deadline = Instant::now() + CLOSED_WITHIN;
    // Reading would let a connection go on whose responses are unread.
    sleep(CLOSED_WITHIN - Duration::from_secs(2)).await;
    let mut buffer = vec![0; 64 * 1024];
    let read = async { while !matches!(connection.read(&mut buffer).await, Ok(0) | Err(_)) {} };
    timeout_at(deadline, read).await.is_ok()
}

/// A session at the console.
struct Session {
    http: reqwest::Client,
    origin: String,
    cookies: String,
}

impl Session {
    fn client(environment: &Arc<Environment>) -> reqwest::Client {
        let ca = reqwest::Certificate::from_pem(environment.ca.as_bytes()).unwrap();
        let builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        builder.tls_certs_only([ca]).build().unwrap()
    }

    /// `None` if it is refused.
    async fn sign_in(environment: &Arc<Environment>, (id, secret): &(String, SecretString)) -> Option<Self> {
        let (http, origin) = (Self::client(environment), format!("https://{}", environment.target.console));
        let page = http.get(format!("{origin}/sign-in")).send().await.ok()?;
        let form_cookie = cookies(&page);
        let text = page.text().await.ok()?;
        let (_, csrf) = text.split_once("name=\"csrf\" value=\"")?;
        let csrf = csrf.split('"').next()?;
        let body = format!("csrf={csrf}&next=%2F&client_id={id}&client_secret={}", secret.expose_secret());
        let post = http.post(format!("{origin}/sign-in")).header(COOKIE, form_cookie);
        let post = post.header("sec-fetch-site", "same-origin");
        let answer = post.header("content-type", "application/x-www-form-urlencoded").body(body).send().await.ok()?;
        let cookies = cookies(&answer);
        (answer.status().is_redirection() && !cookies.is_empty()).then_some(Self { http, origin, cookies })
    }

    async fn get(&self, path: &str) -> Option<reqwest::Response> {
        self.http.get(format!("{}{path}", self.origin)).header(COOKIE, &self.cookies).send().await.ok()
    }
}

fn cookies(answer: &reqwest::Response) -> String {
    let set = answer.headers().get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = set.filter_map(|value| value.split(';').next()).filter(|pair| !pair.ends_with('='));
    pairs.collect::<Vec<_>>().join("; ")
}

/// Many sessions, unread exports and event streams, unfinished forms, and guessing of secrets.
pub async fn signed_in(environment: &Arc<Environment>, scale: Scale, report: &mut Report) {
    const ATTACK: &str = "console, signed in";
    let attacker = environment.tenant().await;
    let (other, bystander) = (environment.tenant().await, environment.tenant().await);
    let session = Session::sign_in(environment, &attacker.credentials).await.expect("a session");
    assert!(session.get("/queues").await.is_some_and(|page| page.status().is_success()), "the session is valid");
    let control = ControlTenant::start(environment, scale).await;
    let peak = environment.target.measure().await;
    let mut open = JoinSet::new();
    for number in 0..PAGES {
        let Some(mut connection) = connect(environment.target.console, Some(&environment.ca)).await else { continue };
        let head = format!("Host: {}\r\nCookie: {}", environment.target.console, session.cookies);
        let unfinished_form = |path: &str, length: usize| {
            format!(
                "POST {path} HTTP/1.1\r\n{head}\r\nSec-Fetch-Site: same-origin\r\n\
                 Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{}",
                "a".repeat(length - 1)
            )
        };
        let request = match number % 4 {
            0 => format!("GET /audit/export?format=csv HTTP/1.1\r\n{head}\r\n\r\n").repeat(20),
            1 => unfinished_form("/publish", 500_000),
            2 => unfinished_form("/dead-letters/edited", 6_000_000),
            _ => format!("GET /live HTTP/1.1\r\n{head}\r\n\r\n"),
        };
        let _ = timeout(Duration::from_secs(1), connection.write_all(request.as_bytes())).await;
        open.spawn(async move { connection });
    }
    let guessing = async {
        let wrong = (other.credentials.0.clone(), SecretString::from("wgs_wrong"));
        let end = Instant::now() + scale.flood;
        while Instant::now() < end {
            assert!(Session::sign_in(environment, &wrong).await.is_none(), "a wrong secret is refused");
            // Sessions that are signed in anew are not kept.
            let _ = Session::sign_in(environment, &attacker.credentials).await;
        }
    };
    let (p99, ()) = tokio::join!(control.during(scale.flood), guessing);
    let grown = peak.growth();
    let bar = format!("memory at most {} more", mebibytes(GROWTH_SIGNED_IN));
    report.must(ATTACK, &bar, mebibytes(grown), grown <= GROWTH_SIGNED_IN);
    let signs_in = Session::sign_in(environment, &bystander.credentials).await.is_some();
    report.must(ATTACK, "another client can sign in from the same address", signs_in.to_string(), signs_in);
    drop(open);
    control.check(ATTACK, p99, report).await;
}
