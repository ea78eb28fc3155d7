//! One connection to the broker: TCP, then TLS with the tenant's certificate and the broker CA as the only root, then AMQP
//! with SASL EXTERNAL. What leaves is a live [`lapin::Connection`] that is known to be encrypted, because this file hands
//! lapin a stream that already is: lapin by itself would speak plaintext to an `amqps` address when a feature is missing.

use std::{
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
use tokio::net::TcpStream;

use super::Error;
use crate::config::Endpoint;

/// RabbitMQ's default, said aloud: lapin touches its buffers only when it is given (0.16 MiB instead of 7.8 MiB an idle
/// connection; measured, docs/performance.md).
const FRAME_MAX: u32 = 131_072;

/// RFC 4422's EXTERNAL: who we are was said in the TLS handshake.
pub(super) struct External;

impl AuthProvider for External {}

/// What a connection is made of.
pub(super) struct Target<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) vhost: &'a str,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) heartbeat: Duration,
    pub(super) timeout: Duration,
    /// Shown in the broker's list of connections.
    pub(super) name: String,
}

/// # Errors
/// When the broker is not reached, not trusted, does not trust us, or does not answer in time.
pub(super) async fn connect(target: Target<'_>, login: impl AuthProvider) -> Result<Connection, Error> {
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
    // lapin does not give up on a peer that is silent during the handshake, and its thread would wait for ever. We keep a
    // second handle of the socket, to shut it down when the time is over.
    let socket: Arc<Mutex<Option<StdTcpStream>>> = Arc::default();
    let properties = ConnectionProperties::default().with_auth_provider(login).with_connection_name(target.name.into());
    let connecting = {
        let socket = Arc::clone(&socket);
        let connector = lapin_connector(target.tls);
        Connection::connector(
            uri,
            lapin::runtime::default_runtime()?,
            async move |uri: AMQPUri, _runtime| {
                let tcp = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port)).await?;
                tcp.set_nodelay(true)?;
                let tcp = tcp.into_std()?;
                *socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(tcp.try_clone()?);
                let tcp = TcpStream::from_std(tcp)?;
                Ok(AsyncTcpStream::Plain(tcp.compat()).into_rustls(&connector, &uri.authority.host).await?)
            },
            properties,
        )
    };
    match tokio::time::timeout(target.timeout, connecting).await {
        Ok(connection) => Ok(connection?),
        Err(_) => {
            if let Some(socket) = socket.lock().unwrap_or_else(PoisonError::into_inner).take() {
                // Already closed is as good.
                let _ = socket.shutdown(Shutdown::Both);
            }
            Err(Error::Timeout)
        }
    }
}

fn lapin_connector(tls: Arc<ClientConfig>) -> lapin::tcp::RustlsConnector {
    tls.into()
}
