//! The isolation check between two tenants: connects with the first tenant's real certificate, and in the ways an
//! attacker would try, and reports the broker's answers. Only an administrator may run it.

use std::{io, sync::Arc, time::Duration};

use lapin::auth::AuthProvider;
use rustls::{ClientConfig, RootCertStore};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    broker::{
        connection::{
            connect::{External, Socket, Target, connect},
            context::ConnectionContext,
        },
        error::Error,
        handle::Broker,
    },
    config::Endpoint,
    names::TenantId,
    pki::Authority,
    tenant::Administrator,
};

/// How long a broker may take to answer a connection without TLS.
const PLAINTEXT_TIMEOUT: Duration = Duration::from_secs(5);

/// One attempt and the broker's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsolationAttempt {
    /// A description of the attempt.
    pub description: String,
    /// Whether this is a control attempt, which must succeed.
    pub is_control: bool,
    /// Its result.
    pub finding: Finding,
    /// The broker's answer.
    pub answer: String,
}

/// The result of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// The broker accepted the connection.
    Accepted,
    /// The broker refused it.
    Refused,
    /// Neither of them: a timeout or a lost connection proves nothing.
    Inconclusive,
}

impl IsolationAttempt {
    /// Whether the finding is the one that isolation requires.
    pub fn is_as_required(&self) -> bool {
        self.finding == if self.is_control { Finding::Accepted } else { Finding::Refused }
    }
}

/// RFC 4616's PLAIN mechanism with a password that no user has.
struct Plain(String);

impl AuthProvider for Plain {
    fn mechanism(&self) -> lapin::types::ShortString {
        "PLAIN".into()
    }

    fn auth_starter(&self) -> Result<lapin::types::LongString, String> {
        Ok(format!("\0{0}\0{0}", self.0).into())
    }
}

/// How an attempt logs in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Login {
    Certificate,
    Password,
}

/// One attempt to be made at a node.
struct Attempt<'a> {
    description: &'static str,
    vhost: &'a str,
    tls: &'a Arc<ClientConfig>,
    login: Login,
    is_control: bool,
}

/// Checks the isolation between two tenants, from the first one's side, at every broker node.
///
/// # Errors
/// When no certificate can be issued for the attempts.
pub async fn check_isolation(
    broker: &Broker,
    _requested_by: &Administrator,
    tenant: &TenantId,
    other: &TenantId,
) -> Result<Vec<IsolationAttempt>, Error> {
    let context = broker.context();
    let own = &context.identity(tenant)?.tls;
    let none = &Arc::new(ClientConfig::builder().with_root_certificates(context.roots()).with_no_client_auth());
    let forged = &forged(&context.roots(), tenant)?;
    let (vhost, other_vhost) = (&*tenant.vhost(), &*other.vhost());
    let attempt = |description, vhost, tls| {
        let (login, is_control) = (Login::Certificate, false);
        Attempt { description, vhost, tls, login, is_control }
    };
    let control = |description| Attempt { is_control: true, ..attempt(description, vhost, own) };
    let attempts = [
        control("its own certificate on its own vhost"),
        attempt("its own certificate on the other tenant's vhost", other_vhost, own),
        attempt("its own certificate on the broker's default vhost", "/", own),
        attempt("no certificate", vhost, none),
        attempt("a self-signed certificate with its name", vhost, forged),
        Attempt { login: Login::Password, ..attempt("its own certificate, and a password", vhost, own) },
        // A closed connection is a refusal only if the node still answers.
        control("its own certificate on its own vhost again"),
    ];
    let mut all = Vec::new();
    for endpoint in &context.options.endpoints {
        let mut at_node = Vec::new();
        for attempt in &attempts {
            at_node.push(attempt.run(context, endpoint, tenant).await);
        }
        at_node.push(plaintext(endpoint).await);
        let is_alive = at_node.iter().filter(|attempt| attempt.is_control).all(IsolationAttempt::is_as_required);
        if !is_alive {
            at_node.iter_mut().filter(|attempt| !attempt.is_control).for_each(make_inconclusive);
        }
        all.extend(at_node);
    }
    Ok(all)
}

/// A refusal by a node on which the control attempt fails proves nothing.
fn make_inconclusive(attempt: &mut IsolationAttempt) {
    if attempt.finding == Finding::Refused {
        attempt.finding = Finding::Inconclusive;
        attempt.answer = format!("inconclusive, because a control attempt failed: {}", attempt.answer);
    }
}

impl Attempt<'_> {
    async fn run(&self, context: &ConnectionContext, endpoint: &Endpoint, tenant: &TenantId) -> IsolationAttempt {
        let target = Target {
            endpoint,
            vhost: self.vhost,
            tls: Arc::clone(self.tls),
            heartbeat: context.options.heartbeat,
            timeout: context.options.connect_timeout,
            name: format!("warrengate isolation check of {tenant}"),
        };
        let answer = match self.login {
            Login::Password => connect(target, Plain(tenant.vhost())).await,
            Login::Certificate => connect(target, External).await,
        };
        let (finding, answer) = evaluate(answer).await;
        let description = format!("{}, at {}:{}", self.description, endpoint.host, endpoint.port);
        IsolationAttempt { description, is_control: self.is_control, finding, answer }
    }
}

async fn evaluate(answer: Result<(lapin::Connection, Socket), Error>) -> (Finding, String) {
    match answer {
        Ok((connection, _socket)) => {
            let closing = connection.close(200, "isolation check".into());
            let _ = tokio::time::timeout(Duration::from_secs(1), closing).await;
            (Finding::Accepted, "accepted".to_owned())
        }
        Err(Error::Refused(Some(error))) => (Finding::Refused, error.to_string()),
        Err(Error::Unreachable(Some(error))) if closed_by_broker(&error) => (Finding::Refused, error.to_string()),
        Err(Error::Unreachable(Some(error))) => inconclusive(&error.to_string()),
        Err(error) => inconclusive(&error.to_string()),
    }
}

fn inconclusive(answer: &str) -> (Finding, String) {
    (Finding::Inconclusive, format!("inconclusive: {answer}"))
}

/// Whether the broker closed the connection, in the TLS handshake or after it: by an alert, or without one when its
/// alert was overtaken by the reset that follows it.
fn closed_by_broker(error: &lapin::Error) -> bool {
    use lapin::ErrorKind::{IOError, ProtocolError};
    match error.kind() {
        ProtocolError(_) => true,
        IOError(error) => {
            let is_alert = error.get_ref().is_some_and(|inner| {
                matches!(inner.downcast_ref::<rustls::Error>(), Some(rustls::Error::AlertReceived(_)))
            });
            let closed =
                [io::ErrorKind::ConnectionReset, io::ErrorKind::ConnectionAborted, io::ErrorKind::UnexpectedEof];
            is_alert || closed.contains(&error.kind()) || error.kind() == io::ErrorKind::BrokenPipe
        }
        _ => false,
    }
}

/// A certificate with the tenant's name that another authority signed.
fn forged(roots: &Arc<RootCertStore>, tenant: &TenantId) -> Result<Arc<ClientConfig>, Error> {
    let issued = Authority::generate("not the broker CA", 1)
        .and_then(|authority| authority.client(&tenant.vhost(), Duration::from_secs(3600)));
    let leaf = issued.map_err(|error| {
        tracing::error!(%error, "cannot issue the forged certificate for the isolation check");
        Error::Unreachable(None)
    })?;
    let config = ClientConfig::builder()
        .with_root_certificates(Arc::clone(roots))
        .with_client_auth_cert(leaf.chain_der(), leaf.key_der())
        .map_err(|_| Error::Unreachable(None))?;
    Ok(Arc::new(config))
}

/// A broker that listens without TLS would answer the protocol header with `connection.start` (a method frame, type 1),
/// or with a protocol header of its own.
async fn plaintext(endpoint: &Endpoint) -> IsolationAttempt {
    let answer = async {
        let mut tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        tcp.write_all(b"AMQP\x00\x00\x09\x01").await?;
        let mut first = [0_u8; 4];
        let length = tcp.read(&mut first).await?;
        Ok::<_, io::Error>(first[..length].to_vec())
    };
    let (finding, answer) = match tokio::time::timeout(PLAINTEXT_TIMEOUT, answer).await {
        Ok(Ok(bytes)) if bytes.starts_with(b"AMQP") || bytes.first() == Some(&1) => {
            (Finding::Accepted, "AMQP without TLS".to_owned())
        }
        Ok(Ok(bytes)) if bytes.is_empty() => (Finding::Refused, "closed the connection".to_owned()),
        // Usually a TLS alert.
        Ok(Ok(_)) => (Finding::Refused, "did not answer in AMQP".to_owned()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => (Finding::Refused, error.to_string()),
        Ok(Err(error)) => inconclusive(&error.to_string()),
        Err(_) => inconclusive("no response in time"),
    };
    let description = format!("AMQP without TLS, at {}:{}", endpoint.host, endpoint.port);
    IsolationAttempt { description, is_control: false, finding, answer }
}
