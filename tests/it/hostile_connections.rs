//! Hostile connections: too many, silent, slow, idle, floods of resets and of header blocks. Each is closed or refused,
//! and a stream of another client continues.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use warrengate::pb::Outcome;

use crate::harness::{
    SharedStack, Tenant,
    proxy::Proxy,
    raw::{RawPublish, tls_to},
    to_queue,
    wait::{until, within},
    web::{self, OwnGateway},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// HTTP/2 frame types and flags (RFC 9113, section 6).
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A connection after the HTTP/2 preface and settings.
async fn started(address: SocketAddr) -> TlsStream<TcpStream> {
    let mut stream = tls_to(address, &SharedStack::get().stack.gateway_ca()).await;
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    stream
}

/// Reads until the peer closes the connection.
async fn closed(mut stream: impl tokio::io::AsyncRead + Unpin) {
    within("its end", async {
        let mut buffer = [0; 4096];
        while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
    })
    .await;
}

/// Whether the handshake completes and the gateway sends a frame.
async fn is_served(address: SocketAddr) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    let pem = SharedStack::get().ca().as_bytes();
    let ca = <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(pem).unwrap();
    roots.add(ca).unwrap();
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = rustls::pki_types::ServerName::from(address.ip());
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    within("a handshake or a refusal", connector.connect(name, tcp)).await.is_ok()
}

/// A stream of another client, which must continue.
struct Other {
    _tenant: Tenant,
    stream: RawPublish,
}

impl Other {
    async fn at(gateway: &OwnGateway) -> Self {
        let tenant = Tenant::fresh().await;
        tenant.queue("jobs").await;
        let client = tenant.client_at(&gateway.endpoint()).await;
        Self { stream: RawPublish::open(&client).await.unwrap(), _tenant: tenant }
    }

    async fn continues(&mut self) {
        let result = within("another tenant's message", self.stream.publish(to_queue("jobs", "x"))).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Confirmed);
    }
}

#[tokio::test]
async fn a_connection_over_the_limit_of_an_address_is_closed_and_slots_are_released() {
    let gateway = web::gateway(|config| config.limits.max_connections_per_address = 3).await;
    let address = gateway.running.grpc_address();
    let mut other = Other::at(&gateway).await;
    let connections = (started(address).await, started(address).await);
    assert!(!is_served(address).await, "the fourth");
    other.continues().await;
    drop(connections.0);
    until("a free slot", async || is_served(address).await.then_some(())).await;
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn a_connection_over_the_total_limit_is_closed() {
    let gateway = web::gateway(|config| config.limits.max_connections = 2).await;
    let address = gateway.running.grpc_address();
    let mut other = Other::at(&gateway).await;
    let _connection = started(address).await;
    assert!(!is_served(address).await, "the third");
    other.continues().await;
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_an_open_stream_is_not() {
    let gateway = web::gateway(|config| config.limits.idle_timeout = Duration::from_secs(1)).await;
    let mut other = Other::at(&gateway).await;
    for _ in 0..3 {
        closed(started(gateway.running.grpc_address()).await).await;
        other.continues().await;
    }
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn a_silent_or_slow_handshake_is_closed() {
    let gateway = web::gateway(|config| config.limits.handshake_timeout = Duration::from_millis(300)).await;
    let address = gateway.running.grpc_address();
    let mut other = Other::at(&gateway).await;
    let silent = TcpStream::connect(address).await.unwrap();
    let (reading, mut slow) = TcpStream::connect(address).await.unwrap().into_split();
    // One byte at a time of a possible handshake (RFC 8446, section 5.1).
    let dripping = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        for byte in [22, 3, 1, 2, 0].into_iter().chain(std::iter::repeat(0)) {
            ticks.tick().await;
            if slow.write_all(&[byte]).await.is_err() {
                return;
            }
        }
    });
    tokio::join!(closed(silent), closed(reading));
    within("the slow one's end", dripping).await.unwrap();
    // A client that completes the handshake and then sends nothing.
    closed(tls_to(address, &SharedStack::get().stack.gateway_ca()).await).await;
    other.continues().await;
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn an_endless_header_block_is_disconnected() {
    let gateway = web::gateway(|_| {}).await;
    let mut other = Other::at(&gateway).await;
    let stream = started(gateway.running.grpc_address()).await;
    let (reading, mut writing) = tokio::io::split(stream);
    let flooding = tokio::spawn(async move {
        // :method POST, :scheme https, :path / from HPACK's static table, then endless literals.
        let _ = writing.write_all(&frame(HEADERS, 0, 1, &[0x83, 0x87, 0x84])).await;
        let mut block = vec![0x00, 1, b'a', 126];
        block.extend([b'x'; 126]);
        let more = frame(CONTINUATION, 0, 1, &block.repeat(100));
        for sent in 0.. {
            if writing.write_all(&more).await.is_err() {
                return sent;
            }
        }
        unreachable!("it continues until it is disconnected")
    });
    closed(reading).await;
    let sent = within("the flood's end", flooding).await.unwrap();
    // A frame has 13 KB. The limit covers what fits into buffers on the way, not what the peer sends.
    assert!(sent < 2_000, "{sent} frames");
    other.continues().await;
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn a_flood_of_resets_is_disconnected_and_other_streams_continue() {
    let gateway = web::gateway(|_| {}).await;
    let mut other = Other::at(&gateway).await;
    let (reading, mut writing) = tokio::io::split(started(gateway.running.grpc_address()).await);
    let flooding = tokio::spawn(async move {
        for stream in (0..20_000_u32).map(|number| 2 * number + 1) {
            let open = frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x83, 0x87, 0x84]);
            let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            if writing.write_all(&[open, reset].concat()).await.is_err() {
                return stream;
            }
        }
        u32::MAX
    });
    let reading = tokio::spawn(closed(reading));
    let (mut messages, mut slowest) = (0, Duration::ZERO);
    while !flooding.is_finished() || messages == 0 {
        let asked = std::time::Instant::now();
        other.continues().await;
        slowest = slowest.max(asked.elapsed());
        messages += 1;
    }
    let last = flooding.await.unwrap();
    eprintln!(
        "disconnected at stream {last}; {messages} messages of another client meanwhile, the slowest {slowest:?}"
    );
    assert_ne!(last, u32::MAX, "the flood was not disconnected");
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    reading.abort();
    other.continues().await;
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn more_header_bytes_than_allowed_are_refused_on_a_connection_that_continues() {
    let tenant = Tenant::fresh().await;
    // Through a proxy that counts connections, because the client would reconnect silently.
    let network = Proxy::to(SharedStack::get().stack.gateway().grpc_address().port()).await;
    let channel = web::channel_to(&format!("https://{}", network.endpoint())).await;
    let token = web::access_token(&tenant.client_id, &tenant.secret).await;
    let mut auth = warrengate::pb::auth_client::AuthClient::new(channel);
    let ask = |bytes: usize| {
        let mut request = tonic::Request::new(warrengate::pb::WhoAmIRequest {});
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request.metadata_mut().insert("x-large", "x".repeat(bytes).parse().unwrap());
        request
    };
    auth.who_am_i(ask(10)).await.unwrap();
    let status = within("an answer", auth.who_am_i(ask(40_000))).await.expect_err("too large");
    assert!(status.message().contains("431"), "{status:?}");
    auth.who_am_i(ask(10)).await.unwrap();
    assert_eq!(network.accepted(), 1, "the connection was replaced");
}
