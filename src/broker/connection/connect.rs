//! Opening one connection: TCP, then TLS with the tenant's certificate and the broker CA as the only root, then AMQP
//! with SASL EXTERNAL. lapin gets a stream that is already encrypted, because with one of its features missing it would
//! use plaintext for an `amqps` address.

use std::{
    io,
    net::{Shutdown, TcpStream as StdTcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_compat::CompatExt as _;
use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties,
    auth::AuthProvider,
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri},
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{runtime::TlsRuntime, valid_text::ValidText};
use crate::{
    broker::{error::Error, message::size::FRAME_MAX},
    config::Endpoint,
};

/// RFC 4422's EXTERNAL mechanism: the TLS client certificate identifies the tenant.
pub(in crate::broker) struct External;

impl AuthProvider for External {}

/// The parameters of a connection.
pub(in crate::broker) struct Target<'a> {
    pub(in crate::broker) endpoint: &'a Endpoint,
    pub(in crate::broker) vhost: &'a str,
    pub(in crate::broker) tls: Arc<ClientConfig>,
    pub(in crate::broker) heartbeat: Duration,
    pub(in crate::broker) timeout: Duration,
    /// The name shown in the broker's list of connections.
    pub(in crate::broker) name: String,
}

/// A second handle of a connection's socket; dropping it shuts the socket down and cancels an attempt that is in
/// progress. lapin waits for a silent peer without a limit: in the handshake, while it closes, and with a full send
/// buffer even after missed heartbeats. Shutting the socket down ends its I/O thread at once.
pub(in crate::broker) struct Socket(Arc<Mutex<Stage>>);

enum Stage {
    Connecting,
    Connected(StdTcpStream),
    Over,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let stage = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), Stage::Over);
        if let Stage::Connected(socket) = stage {
            // An error means that the socket is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Opens a connection. Its socket must be kept for as long as the connection.
///
/// # Errors
/// When the broker cannot be reached, is not trusted, does not trust the certificate, or does not respond in time.
pub(in crate::broker) async fn connect(
    target: Target<'_>,
    login: impl AuthProvider,
) -> Result<(Connection, Socket), Error> {
    let uri = AMQPUri {
        scheme: AMQPScheme::AMQPS,
        authority: AMQPAuthority {
            host: target.endpoint.host.clone(),
            port: target.endpoint.port,
            ..AMQPAuthority::default()
        },
        vhost: target.vhost.to_owned(),
        query: AMQPQueryString {
            frame_max: Some(FRAME_MAX),
            heartbeat: Some(u16::try_from(target.heartbeat.as_secs()).unwrap_or(u16::MAX)),
            ..AMQPQueryString::default()
        },
    };
    let stage = Arc::new(Mutex::new(Stage::Connecting));
    // From here on, dropping this future cancels the attempt.
    let socket = Socket(Arc::clone(&stage));
    let connector = TlsConnector::from(target.tls);
    let properties = ConnectionProperties::default().with_auth_provider(login).with_connection_name(target.name.into());
    let connecting = Connection::connector(
        uri,
        TlsRuntime::current(),
        async move |uri: AMQPUri, _runtime| {
            // Runs on lapin's thread, which can only be ended by shutting down its socket, once there is one.
            let tcp = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port));
            let tcp = tokio::time::timeout(target.timeout, tcp).await.map_err(io::Error::from)??;
            tcp.set_nodelay(true)?;
            let tcp = tcp.into_std()?;
            keep(&stage, &tcp)?;
            let tcp = TcpStream::from_std(tcp)?;
            let name = ServerName::try_from(uri.authority.host).map_err(io::Error::other)?;
            // "Plain" for lapin, because the stream encrypts by itself.
            Ok(AsyncTcpStream::Plain(ValidText::new(connector.connect(name, tcp).await?).compat()))
        },
        properties,
    );
    match tokio::time::timeout(target.timeout, connecting).await {
        Ok(connection) => Ok((connection?, socket)),
        Err(_) => Err(Error::Timeout),
    }
}

fn keep(stage: &Mutex<Stage>, tcp: &StdTcpStream) -> io::Result<()> {
    let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(*stage, Stage::Over) {
        return Err(io::ErrorKind::TimedOut.into());
    }
    *stage = Stage::Connected(tcp.try_clone()?);
    Ok(())
}
