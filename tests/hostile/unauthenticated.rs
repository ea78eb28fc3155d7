//! All attacks that an unauthenticated client can make from one address, at the same time, on both listeners.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex as SyncMutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Mutex,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    Scale,
    control_tenant::ControlTenant,
    environment::Environment,
    http2::{Call, Http2, framed, tls},
    report::Report,
    target::mebibytes,
};

const ATTACK: &str = "unauthenticated mix";
/// The maximum growth of memory. In a debug build futures are larger.
const GROWTH: u64 = if cfg!(debug_assertions) { 96 << 20 } else { 64 << 20 };
/// How long connections may stay open after the attack.
const CLOSED_WITHIN: Duration = Duration::from_secs(15);
/// Concurrent connections of each kind.
const AT_ONCE: usize = 20;
/// The number of connections that the crowd tries to open, and the calls of each.
const CONNECTIONS: usize = 2_000;
const CALLS: usize = 32;
/// The time in which connections are opened: shorter than the time for which the first of them stays open.
const CONNECTING: Duration = Duration::from_secs(8);
const METHOD: &str = "warrengate.v1.Messaging/PublishBatch";
const OPEN_METHOD: &str = "warrengate.v1.Auth/IssueToken";

/// The connections that unauthenticated clients keep open. Each task waits until the gateway has closed its connection.
#[derive(Clone, Default)]
struct OpenConnections {
    tasks: Arc<Mutex<JoinSet<()>>>,
    by_kind: Arc<SyncMutex<BTreeMap<&'static str, usize>>>,
}

impl OpenConnections {
    async fn add(&self, kind: &'static str, closed: impl Future<Output = ()> + Send + 'static) {
        let by_kind = Arc::clone(&self.by_kind);
        *by_kind.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
        self.tasks.lock().await.spawn(async move {
            closed.await;
            *by_kind.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() -= 1;
        });
    }

    /// The number of open connections of each kind.
    fn kinds(&self) -> String {
        let by_kind = self.by_kind.lock().unwrap_or_else(PoisonError::into_inner);
        let open = by_kind.iter().filter(|(_, count)| **count > 0).map(|(kind, count)| format!("{count} {kind}"));
        open.collect::<Vec<_>>().join(", ")
    }
}

pub async fn mix(environment: &Arc<Environment>, scale: Scale, report: &mut Report) {
    let control = ControlTenant::start(environment, scale).await;
    let peak = environment.target.measure().await;
    let end = Instant::now() + scale.flood;
    let open = OpenConnections::default();
    let mut attackers = JoinSet::new();
    for number in 0..AT_ONCE {
        let attacker = Attacker {
            grpc: environment.target.grpc,
            ops: environment.target.ops,
            ca: environment.ca.clone(),
            open: open.clone(),
            number,
        };
        attackers.spawn(attacker.run(end));
    }
    let p99 = control.during(scale.flood).await;
    let connects = control.connects().await;
    let _ = timeout(Duration::from_secs(30), async { while attackers.join_next().await.is_some() {} }).await;
    let mut tasks = open.tasks.lock().await;
    let opened = tasks.len();
    let _ = timeout(CLOSED_WITHIN, async { while tasks.join_next().await.is_some() {} }).await;
    let grown = peak.growth();
    let bound = format!("memory at most {} more", mebibytes(GROWTH));
    report.must(ATTACK, &bound, mebibytes(grown), grown <= GROWTH);
    let left = if tasks.is_empty() { String::new() } else { format!(": {}", open.kinds()) };
    report.must(ATTACK, "all closed within 15 s", format!("{} of {opened} open{left}", tasks.len()), tasks.is_empty());
    let text = if connects { "accepted" } else { "not accepted" };
    report.must(ATTACK, "known clients are accepted", text.into(), connects);
    control.check(ATTACK, p99, report).await;
}

/// The maximum number of connections of one address, first without a call, then with the maximum number of unfinished
/// calls each.
pub async fn crowd(environment: &Arc<Environment>, scale: Scale, report: &mut Report) {
    const ATTACK: &str = "unauthenticated crowd";
    let control = ControlTenant::start(environment, scale).await;
    for (kind, calls) in [("idle connections", 0), ("connections with stalled bodies", CALLS)] {
        let peak = environment.target.measure().await;
        let began = Instant::now();
        let open = Arc::new(Mutex::new(Vec::new()));
        let mut connecting = JoinSet::new();
        for _ in 0..8 {
            let (open, address, ca) = (Arc::clone(&open), environment.target.grpc, environment.ca.clone());
            connecting.spawn(async move {
                for _ in 0..CONNECTIONS / 8 {
                    if began.elapsed() > CONNECTING {
                        return;
                    }
                    let Some(connection) = Http2::connect(address, &ca).await else { continue };
                    let mut stalled = Vec::new();
                    let frame = framed(&vec![0; 60_000]);
                    for _ in 0..calls {
                        let Some(mut call) = connection.call(OPEN_METHOD, None).await else { break };
                        let _ = call.body.send_data(frame.slice(..frame.len() - 1), false);
                        stalled.push(call);
                    }
                    open.lock().await.push((connection, stalled));
                }
            });
        }
        let p99 = control.during(scale.flood.min(Duration::from_secs(10))).await;
        while connecting.join_next().await.is_some() {}
        let accepted = open.lock().await.iter().filter(|(connection, _)| !connection.is_closed()).count();
        let grown = peak.growth();
        let each = grown / 1024 / accepted.max(1) as u64;
        let text = format!("{}, {accepted} open after {:.0?}, {each} KiB each", mebibytes(grown), began.elapsed());
        let bound = format!("{kind}: memory at most {} more", mebibytes(GROWTH));
        report.must(ATTACK, &bound, text, grown <= GROWTH);
        let text = format!("{p99:.0} ms at p99");
        report.time(ATTACK, &format!("{kind}: control tenant's calls"), text, p99.is_finite());
        let open = std::mem::take(&mut *open.lock().await);
        let closed = async {
            for (connection, calls) in open {
                connection.closed().await;
                drop(calls);
            }
        };
        let is_closed = timeout(CLOSED_WITHIN, closed).await.is_ok();
        report.must(ATTACK, &format!("{kind}: all closed within 15 s"), is_closed.to_string(), is_closed);
    }
    let connects = control.connects().await;
    report.must(ATTACK, "known clients are accepted", connects.to_string(), connects);
    control.check(ATTACK, 0.0, report).await;
}

struct Attacker {
    grpc: std::net::SocketAddr,
    ops: std::net::SocketAddr,
    ca: String,
    open: OpenConnections,
    number: usize,
}

impl Attacker {
    /// One attack after another until the time is over; each attacker starts with a different one.
    async fn run(self, end: Instant) {
        for turn in self.number.. {
            if Instant::now() >= end {
                return;
            }
            // The next attack starts in time even if one waits.
            let _ = timeout(Duration::from_secs(5), async {
                match turn % 8 {
                    0 => self.unfinished_bodies().await,
                    1 => self.elements(METHOD).await,
                    2 => self.elements(OPEN_METHOD).await,
                    3 => self.calls("grpc.health.v1.Health/Watch", Some(framed(&[]))).await,
                    4 => self.calls("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", None).await,
                    5 => self.slow_headers().await,
                    6 => self.silence().await,
                    _ => self.bodies_that_never_come().await,
                }
            })
            .await;
        }
    }

    async fn keep_calls(&self, kind: &'static str, connection: Http2, calls: Vec<Call>) {
        let closed = async move {
            connection.closed().await;
            drop(calls);
        };
        self.open.add(kind, closed).await;
    }

    /// The largest bodies without their last byte, many on each connection.
    async fn unfinished_bodies(&self) {
        let Some(connection) = Http2::connect(self.grpc, &self.ca).await else { return };
        let bodies = [(METHOD, 8 << 20), (OPEN_METHOD, 60_000)].map(|(method, size)| {
            let frame = framed(&vec![0; size]);
            (method, frame.slice(..frame.len() - 1))
        });
        let mut calls = Vec::new();
        for (method, body) in bodies.iter().cycle().take(200) {
            let Some(mut call) = connection.call(method, None).await else { break };
            // h2 keeps the rest until the window allows it.
            let _ = call.body.send_data(body.clone(), false);
            calls.push(call);
        }
        self.keep_calls("with unfinished bodies", connection, calls).await;
    }

    /// Four million empty elements.
    async fn elements(&self, method: &str) {
        let Some(connection) = Http2::connect(self.grpc, &self.ca).await else { return };
        let Some(mut call) = connection.call(method, None).await else { return };
        call.send(framed(&[0x0a, 0].repeat(4_000_000))).await;
        self.keep_calls("with many elements", connection, vec![call]).await;
    }

    /// Calls that do not end.
    async fn calls(&self, method: &str, frame: Option<Bytes>) {
        let Some(connection) = Http2::connect(self.grpc, &self.ca).await else { return };
        let mut calls = Vec::new();
        for _ in 0..50 {
            let Some(mut call) = connection.call(method, None).await else { break };
            if let Some(frame) = &frame {
                call.send(frame.clone()).await;
            }
            calls.push(call);
        }
        self.keep_calls("with endless calls", connection, calls).await;
    }

    /// A header that never ends, over HTTP/1.1, on both listeners.
    async fn slow_headers(&self) {
        if let Ok(stream) = TcpStream::connect(self.ops).await {
            self.open.add("with slow headers", trickle(stream, b"GET /livez HTTP/1.1\r\nX-A: ".to_vec())).await;
        }
        if let Some(stream) = tls(self.grpc, &self.ca, b"http/1.1").await {
            self.open.add("with slow headers", trickle(stream, b"POST / HTTP/1.1\r\nX-A: ".to_vec())).await;
        }
    }

    /// A TCP connection and a TLS connection that send nothing.
    async fn silence(&self) {
        for address in [self.grpc, self.ops] {
            if let Ok(stream) = TcpStream::connect(address).await {
                self.open.add("silent", until_closed(stream)).await;
            }
        }
        if let Some(stream) = tls(self.grpc, &self.ca, b"h2").await {
            self.open.add("silent", until_closed(stream)).await;
        }
    }

    /// A body that is announced and never sent, on both listeners.
    async fn bodies_that_never_come(&self) {
        let request = |path: &str, kind: &str| {
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: 1000000\r\n\r\n")
        };
        if let Ok(mut stream) = TcpStream::connect(self.ops).await {
            let request = request("/oauth2/token", "application/x-www-form-urlencoded");
            let _ = stream.write_all(request.as_bytes()).await;
            self.open.add("without the announced body", until_closed(stream)).await;
        }
        if let Some(mut stream) = tls(self.grpc, &self.ca, b"http/1.1").await {
            let request = request(&format!("/{METHOD}"), "application/grpc-web");
            let _ = stream.write_all(request.as_bytes()).await;
            self.open.add("without the announced body", until_closed(stream)).await;
        }
    }
}

async fn until_closed(mut stream: impl tokio::io::AsyncRead + Unpin) {
    let mut buffer = [0; 4096];
    while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
}

/// Sends a byte every half second until the gateway closes the connection.
async fn trickle(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send, begin: Vec<u8>) {
    let (read, mut write) = tokio::io::split(stream);
    let writing = async {
        let mut next = begin;
        while write.write_all(&next).await.is_ok() {
            next = b"a".to_vec();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = until_closed(read) => {}
        () = writing => {}
    }
}
