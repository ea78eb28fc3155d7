//! The proof of the wall: tries it from a tenant's side with the tenant's real certificate, and with what an attacker would
//! try instead of one. Only an administrator may ask; what leaves is each attempt with the broker's own answer.

use std::{sync::Arc, time::Duration};

use lapin::auth::AuthProvider;
use rustls::{ClientConfig, RootCertStore};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    broker::{
        Broker, Error,
        connection::connect::{External, Socket, Target, connect},
    },
    config::Endpoint,
    names::TenantId,
    pki::Authority,
    tenant::Administrator,
};

/// One attempt and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What was tried, in words.
    pub attempt: String,
    /// Whether it should be let in; only the control attempt should.
    pub is_control: bool,
    /// Whether it was let in.
    pub let_in: bool,
    /// What the broker answered.
    pub answer: String,
}

impl Probe {
    /// Whether the wall did what it should.
    pub fn is_as_it_should(&self) -> bool {
        self.let_in == self.is_control
    }
}

/// RFC 4616's PLAIN, with a password that nobody has.
struct Plain(String);

impl AuthProvider for Plain {
    fn mechanism(&self) -> lapin::types::ShortString {
        "PLAIN".into()
    }

    fn auth_starter(&self) -> Result<lapin::types::LongString, String> {
        Ok(format!("\0{0}\0{0}", self.0).into())
    }
}

/// Tries the wall between two tenants, from the first one's side, at every broker node.
///
/// # Errors
/// When there is no certificate to try with.
pub async fn isolation(
    broker: &Broker,
    _asked_by: &Administrator,
    tenant: &TenantId,
    other: &TenantId,
) -> Result<Vec<Probe>, Error> {
    let shared = broker.shared();
    let own = shared.identity(tenant)?.tls;
    let none = Arc::new(ClientConfig::builder().with_root_certificates(shared.roots()).with_no_client_auth());
    let forged = forged(&shared.roots(), tenant)?;
    let mut probes = Vec::new();
    for endpoint in &shared.options.endpoints {
        let at = format!("at {}:{}", endpoint.host, endpoint.port);
        let vhosts = |whose: &str| format!("{whose}, {at}");
        let mut attempt = async |words: String, vhost: &str, tls: &Arc<ClientConfig>, control: bool, password: bool| {
            let target = Target {
                endpoint,
                vhost,
                tls: Arc::clone(tls),
                heartbeat: shared.options.heartbeat,
                timeout: shared.options.connect_timeout,
                name: format!("warrengate isolation proof of {tenant}"),
            };
            let answer = match password {
                true => connect(target, Plain(tenant.vhost())).await,
                false => connect(target, External).await,
            };
            probes.push(probe(words, control, answer).await);
        };
        attempt(vhosts("its own certificate on its own vhost"), &tenant.vhost(), &own, true, false).await;
        attempt(vhosts("its own certificate on the other tenant's vhost"), &other.vhost(), &own, false, false).await;
        attempt(vhosts("its own certificate on the broker's default vhost"), "/", &own, false, false).await;
        attempt(vhosts("no certificate"), &tenant.vhost(), &none, false, false).await;
        attempt(vhosts("a self-made certificate in its name"), &tenant.vhost(), &forged, false, false).await;
        attempt(vhosts("its own certificate, and a password"), &tenant.vhost(), &own, false, true).await;
        probes.push(plaintext(endpoint, vhosts("AMQP without TLS")).await);
    }
    Ok(probes)
}

async fn probe(attempt: String, is_control: bool, answer: Result<(lapin::Connection, Socket), Error>) -> Probe {
    let (let_in, answer) = match answer {
        Ok((connection, _socket)) => {
            let closing = connection.close(200, "isolation proof".into());
            let _ = tokio::time::timeout(Duration::from_secs(1), closing).await;
            (true, "let in".to_owned())
        }
        Err(Error::Refused(Some(error)) | Error::Unreachable(Some(error))) => (false, error.to_string()),
        Err(error) => (false, error.to_string()),
    };
    Probe { attempt, is_control, let_in, answer }
}

/// A certificate with the tenant's name that another authority signed.
fn forged(roots: &Arc<RootCertStore>, tenant: &TenantId) -> Result<Arc<ClientConfig>, Error> {
    let made = Authority::generate("not the broker CA", 1)
        .and_then(|authority| authority.client(&tenant.vhost(), Duration::from_secs(3600)));
    let leaf = made.map_err(|error| {
        tracing::error!(%error, "no certificate to forge with");
        Error::Unreachable(None)
    })?;
    let config = ClientConfig::builder()
        .with_root_certificates(Arc::clone(roots))
        .with_client_auth_cert(leaf.chain_der(), leaf.key_der())
        .map_err(|_| Error::Unreachable(None))?;
    Ok(Arc::new(config))
}

/// A broker that listens without TLS would answer the protocol header with `connection.start` (a method frame, type 1), or
/// with a header of its own.
async fn plaintext(endpoint: &Endpoint, attempt: String) -> Probe {
    let answer = async {
        let mut tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        tcp.write_all(b"AMQP\x00\x00\x09\x01").await?;
        let mut first = [0_u8; 4];
        let length = tcp.read(&mut first).await?;
        Ok::<_, std::io::Error>(first[..length].to_vec())
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), answer).await;
    let (let_in, answer) = match answer {
        Ok(Ok(bytes)) if bytes.starts_with(b"AMQP") || bytes.first() == Some(&1) => {
            (true, "AMQP in the clear".to_owned())
        }
        Ok(Ok(bytes)) if bytes.is_empty() => (false, "closed the connection".to_owned()),
        // A TLS alert, most likely.
        Ok(Ok(_)) => (false, "did not answer in AMQP".to_owned()),
        Ok(Err(error)) => (false, error.to_string()),
        Err(_) => (false, "did not answer".to_owned()),
    };
    Probe { attempt, is_control: false, let_in, answer }
}
