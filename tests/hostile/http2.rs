//! HTTP/2 without a gRPC library, for requests that no client library makes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{
    SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::Request;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A finished TLS handshake after which nothing has been sent.
pub async fn tls(address: SocketAddr, ca: &str, protocol: &[u8]) -> Option<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let tcp = TcpStream::connect(address).await.ok()?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::from(address.ip()), tcp).await.ok()
}

/// A connection that reads only as much of its responses as fits into HTTP/2's first windows.
pub struct Http2 {
    send: SendRequest<Bytes>,
    connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

/// A call; dropping it resets its stream.
pub struct Call {
    pub body: SendStream<Bytes>,
    pub response: ResponseFuture,
}

impl Http2 {
    pub async fn connect(address: SocketAddr, ca: &str) -> Option<Self> {
        Self::connect_with(address, ca, &h2::client::Builder::new()).await
    }

    /// A connection that reads one byte of each response, after which HTTP/2 has accepted the whole response.
    pub async fn connect_unread(address: SocketAddr, ca: &str) -> Option<Self> {
        Self::connect_with(address, ca, h2::client::Builder::new().initial_window_size(1)).await
    }

    async fn connect_with(address: SocketAddr, ca: &str, settings: &h2::client::Builder) -> Option<Self> {
        let stream = tls(address, ca, b"h2").await?;
        let (send, connection) = settings.handshake(stream).await.ok()?;
        Some(Self { send, connection: tokio::spawn(connection) })
    }

    /// Begins a call: sends its headers only.
    pub async fn call(&self, method: &str, token: Option<&str>) -> Option<Call> {
        let mut request = Request::post(format!("https://127.0.0.1/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let ready = tokio::time::timeout(Duration::from_secs(2), self.send.clone().ready()).await;
        let mut send = ready.ok()?.ok()?;
        let (response, body) = send.send_request(request.body(()).unwrap(), false).ok()?;
        Some(Call { body, response })
    }

    /// Whether the gateway has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.connection.is_finished()
    }

    /// Waits until the gateway has closed the connection.
    pub async fn closed(self) {
        let _ = self.connection.await;
    }
}

impl Call {
    /// Sends as much as the window allows; returns whether everything was sent in time.
    pub async fn send(&mut self, mut data: Bytes) -> bool {
        let sending = async {
            while !data.is_empty() {
                self.body.reserve_capacity(data.len());
                let capacity = std::future::poll_fn(|cx| self.body.poll_capacity(cx)).await?.ok()?;
                let piece = data.split_to(capacity.min(data.len()));
                self.body.send_data(piece, false).ok()?;
            }
            Some(())
        };
        tokio::time::timeout(Duration::from_secs(2), sending).await.ok().flatten().is_some()
    }
}

/// A gRPC frame.
pub fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, message].concat().into()
}
