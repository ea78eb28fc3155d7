//! Direct access to the broker: the management API as the provisioner, and AMQP with any identity.

use std::{sync::Arc, time::Duration};

use async_compat::CompatExt as _;
use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties,
    auth::AuthProvider,
    types::{LongString, ShortString},
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri},
};
use reqwest::{Certificate, Identity, Method, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use warrengate::{
    config::Config,
    pki::{Authority, Leaf},
};

use super::SharedStack;

/// Major and minor version of the broker of the shared stack.
pub async fn version() -> (u32, u32) {
    let overview = Management::new().get("overview").await.expect("the overview");
    let version = overview["rabbitmq_version"].as_str().expect("a version").to_owned();
    let mut parts = version.split('.').map(|part| part.parse().expect("a number"));
    (parts.next().expect("major"), parts.next().expect("minor"))
}

/// The broker's HTTP API.
pub struct Management {
    http: reqwest::Client,
    root: String,
    user: String,
    password: String,
}

impl Management {
    /// As the provisioner.
    pub fn new() -> Self {
        Self::of(SharedStack::get().stack.config())
    }

    /// As the provisioner of another stack.
    pub fn of(config: &Config) -> Self {
        let mut identity = std::fs::read(&config.management.key).unwrap();
        identity.extend(std::fs::read(&config.management.certificate).unwrap());
        // The current password, which may have been rotated.
        let password = std::fs::read_to_string(config.management.password_file.as_ref().unwrap()).unwrap();
        Self::at(config, Some(identity), &config.management.user, password.lines().next().unwrap())
    }

    /// With any certificate and key (PEM), user and password.
    pub fn with(identity: Option<Vec<u8>>, user: &str, password: &str) -> Self {
        Self::at(SharedStack::get().stack.config(), identity, user, password)
    }

    /// As the provisioner of another stack, with this certificate and key (PEM) and this password.
    pub fn with_at(config: &Config, identity: Vec<u8>, password: &str) -> Self {
        Self::at(config, Some(identity), &config.management.user, password)
    }

    fn at(config: &Config, identity: Option<Vec<u8>>, user: &str, password: &str) -> Self {
        let ca = std::fs::read(&config.broker.ca_certificate).unwrap();
        let mut http = reqwest::Client::builder()
            .tls_certs_only(Certificate::from_pem_bundle(&ca).unwrap())
            .timeout(Duration::from_secs(20));
        if let Some(pem) = identity {
            http = http.identity(Identity::from_pem(&pem).unwrap());
        }
        let root = config.management.endpoints[0].clone();
        Self { http: http.build().unwrap(), root, user: user.into(), password: password.into() }
    }

    /// Sends a request; returns the status, and the body if it is JSON.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, Value), reqwest::Error> {
        let mut request = self.http.request(method, format!("{}/api/{path}", self.root));
        if !self.user.is_empty() {
            request = request.basic_auth(&self.user, Some(&self.password));
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await?;
        let status = answer.status();
        Ok((status, serde_json::from_str(&answer.text().await?).unwrap_or_default()))
    }

    /// A resource; `None` for 404.
    pub async fn get(&self, path: &str) -> Option<Value> {
        let (status, body) = self.ask(Method::GET, path, None).await.unwrap();
        match status {
            StatusCode::NOT_FOUND => None,
            status if status.is_success() => Some(body),
            other => panic!("{path}: {other} {body}"),
        }
    }

    /// Changes a resource.
    pub async fn change(&self, method: Method, path: &str, body: Option<Value>) {
        let (status, body) = self.ask(method, path, body).await.unwrap();
        assert!(status.is_success(), "{path}: {status} {body}");
    }

    /// The tenant's connections as the broker reports them, which takes some seconds for a new one.
    pub async fn connections(&self, tenant: &str) -> Vec<Value> {
        let all = self.get("connections").await.unwrap();
        let of_tenant = |connection: &&Value| {
            let mine = format!("wg.{tenant}");
            connection["vhost"] == mine.as_str() || connection["user"] == mine.as_str()
        };
        all.as_array().unwrap().iter().filter(of_tenant).cloned().collect()
    }
}

/// A leaf certificate with its key as the PEM that reqwest expects.
pub fn pem_of(leaf: &Leaf) -> Vec<u8> {
    format!("{}\n{}", leaf.key_pem(), leaf.certificate_pem()).into_bytes()
}

/// The authority that the broker trusts.
pub fn broker_ca() -> Authority {
    SharedStack::get().stack.certs().broker_authority().unwrap()
}

/// The tenant's own certificate, as the gateway creates it.
pub fn certificate_of(tenant: &str) -> Leaf {
    broker_ca().client(&format!("wg.{tenant}"), Duration::from_secs(3600)).unwrap()
}

/// TLS to the broker, with a client certificate if one is given.
pub fn tls(leaf: Option<&Leaf>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(broker_ca().certificate_der()).unwrap();
    let builder = ClientConfig::builder().with_root_certificates(roots);
    Arc::new(match leaf {
        Some(leaf) => builder.with_client_auth_cert(leaf.chain_der(), leaf.key_der()).unwrap(),
        None => builder.with_no_client_auth(),
    })
}

/// How to log in.
#[derive(Clone)]
pub enum Login {
    /// With the certificate.
    External,
    /// With the certificate, claiming another user name.
    ExternalAs(String),
    /// With a name and a password.
    Plain(String, String),
}

impl AuthProvider for Login {
    fn mechanism(&self) -> ShortString {
        match self {
            Self::External | Self::ExternalAs(_) => "EXTERNAL".into(),
            Self::Plain(..) => "PLAIN".into(),
        }
    }

    fn auth_starter(&self) -> Result<LongString, String> {
        Ok(match self {
            Self::External => "".into(),
            Self::ExternalAs(user) => user.as_str().into(),
            Self::Plain(user, password) => format!("\0{user}\0{password}").into(),
        })
    }
}

/// How the broker refuses a connection. Any other failure, such as a wrong port or a stopped broker, does not count.
#[derive(Debug, Clone, Copy)]
pub enum Refusal {
    /// It ends the TLS handshake with an alert.
    Tls,
    /// It does not offer or accept the login. RabbitMQ 3.10 closes the connection without an answer when the mechanism
    /// is not offered; a test that expects this also shows that another login over the same connection settings is
    /// accepted.
    Login,
    /// The user has no access to the vhost, or may open no further connection to it.
    Vhost,
}

impl Refusal {
    fn matches(self, error: &str) -> bool {
        let error = error.to_uppercase().replace('-', "_");
        let signs: &[&str] = match self {
            Self::Tls => &["FATAL ALERT"],
            Self::Login => &["ACCESS_REFUSED", "COMMAND_INVALID", "MECHANISM", "CONNECTION ABORTED"],
            Self::Vhost => &["NOT_ALLOWED"],
        };
        signs.iter().any(|sign| error.contains(sign))
    }
}

/// Checks that the broker refuses this connection in this way.
pub async fn assert_refused(tls: Arc<ClientConfig>, vhost: &str, login: Login, by: Refusal) {
    match amqp(tls, vhost, login).await {
        Ok(_) => panic!("the broker accepted the connection to {vhost:?}"),
        Err(error) => assert!(by.matches(&error), "{vhost:?}: refused by {error:?}, not by {by:?}"),
    }
}

/// AMQP directly to the broker, bypassing the gateway.
pub async fn amqp(tls: Arc<ClientConfig>, vhost: &str, login: Login) -> Result<Connection, String> {
    let uri = AMQPUri {
        scheme: AMQPScheme::AMQPS,
        authority: AMQPAuthority {
            host: "127.0.0.1".into(),
            port: SharedStack::get().stack.node().amqps_port(),
            ..AMQPAuthority::default()
        },
        vhost: vhost.into(),
        query: AMQPQueryString { frame_max: Some(131_072), heartbeat: Some(10), ..AMQPQueryString::default() },
    };
    let connector: lapin::tcp::RustlsConnector = tls.into();
    let connecting = Connection::connector(
        uri,
        lapin::runtime::default_runtime().unwrap(),
        async move |uri: AMQPUri, _runtime| {
            let tcp = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port)).await?;
            Ok(AsyncTcpStream::Plain(tcp.compat()).into_rustls(&connector, &uri.authority.host).await?)
        },
        ConnectionProperties::default().with_auth_provider(login),
    );
    super::wait::within("the broker's answer", connecting).await.map_err(|error| error.to_string())
}
