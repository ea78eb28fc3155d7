//! A gateway with a private broker, for development, tests and measurements: certificates, RabbitMQ, a SQLite store,
//! and a real [`Gateway`].
//!
//! All of its files are in one folder, and none of its processes outlive it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use secrecy::{ExposeSecret as _, SecretString};
use warrengate_testkit::node::{self, Cluster, ClusterOptions, Node, NodeFiles, NodeOptions};

use crate::{
    config::{self, Config},
    gateway::{self, Gateway, RunningGateway},
    names::ClientId,
    pki::{self, Account, CertsDir, Item, PASSWORD_FILE, Sans},
    store::EncryptionKey,
};

/// How to run a stack.
pub struct StackOptions {
    /// The folder of all files.
    pub dir: PathBuf,
    /// The gRPC address; port 0 for a free one.
    pub grpc: SocketAddr,
    /// The address of metrics, keys and tokens; port 0 for a free one.
    pub ops: SocketAddr,
    /// The address of the web console; `None` for no console.
    pub console: Option<SocketAddr>,
    /// The broker's AMQPS port; `None` for a free one.
    pub amqps_port: Option<u16>,
    /// The broker's management port; `None` for a free one.
    pub management_port: Option<u16>,
    /// The number of broker nodes; more than one form a cluster, on free ports.
    pub nodes: usize,
    /// A RabbitMQ installation other than the system's.
    pub installation: Option<PathBuf>,
    /// The folder of a running stack, whose broker and certificates are used instead of new ones.
    pub shared: Option<PathBuf>,
    /// Further settings by their environment names (`WARRENGATE_LIMITS__…`).
    pub settings: Vec<(String, String)>,
    /// Receives progress messages.
    pub progress: Arc<dyn Fn(&str) + Send + Sync>,
}

impl StackOptions {
    /// A stack in this folder, on free ports of the loopback address, without progress messages.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            dir: dir.into(),
            grpc: any,
            ops: any,
            console: None,
            amqps_port: None,
            management_port: None,
            nodes: 1,
            installation: None,
            shared: None,
            settings: Vec::new(),
            progress: Arc::new(|_| {}),
        }
    }
}

/// Why a stack did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder.
    #[error("cannot write {0:?}: {1}")]
    Folder(PathBuf, #[source] std::io::Error),
    /// The certificates.
    #[error("certificates: {0}")]
    Pki(#[from] pki::Error),
    /// The broker.
    #[error("{0}")]
    Node(#[from] node::Error),
    /// The settings.
    #[error("{0}")]
    Config(#[from] config::Error),
    /// The gateway.
    #[error("{0}")]
    Gateway(#[from] gateway::Error),
}

/// A running gateway and its broker.
pub struct Stack {
    broker: Broker,
    gateway: RunningGateway,
    settings: Vec<(String, String)>,
    config: Config,
    certs: CertsDir,
}

enum Broker {
    Node(Box<Node>),
    Cluster(Cluster),
}

impl Broker {
    async fn start(options: &StackOptions, certs: &CertsDir) -> Result<Self, Error> {
        let node = NodeOptions {
            amqps_port: options.amqps_port,
            management_port: options.management_port,
            installation: options.installation.clone(),
            progress: Arc::clone(&options.progress),
            ..NodeOptions::new(options.shared.as_ref().unwrap_or(&options.dir).join("broker"), broker_files(certs)?)
        };
        if options.shared.is_some() {
            return Ok(Self::Node(Box::new(Node::of_another_process(node)?)));
        }
        Ok(match options.nodes {
            0 | 1 => Self::Node(Box::new(Node::start(node).await?)),
            size => Self::Cluster(Cluster::start(ClusterOptions { node, size }).await?),
        })
    }

    fn nodes(&self) -> &[Node] {
        match self {
            Self::Node(node) => std::slice::from_ref(&**node),
            Self::Cluster(cluster) => cluster.nodes(),
        }
    }
}

impl Stack {
    /// # Errors
    /// When a port is in use, RabbitMQ is not installed, or the folder cannot be written; the error explains
    /// what to do.
    pub async fn start(options: StackOptions) -> Result<Self, Error> {
        let say = Arc::clone(&options.progress);
        // It contains secrets, so only its owner has access.
        let created = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&options.dir);
        created.map_err(|error| Error::Folder(options.dir.clone(), error))?;
        let certs = CertsDir::new(options.shared.as_ref().unwrap_or(&options.dir).join("certs"));
        if options.shared.is_none() && certs.ensure(&Sans::default())?.changes().next().is_some() {
            say("created certificates");
        }
        let broker = Broker::start(&options, &certs).await?;
        let mut settings = settings(&options, &certs, broker.nodes())?;
        let mut config = Config::load(None, settings.iter().cloned())?;
        say("starting the gateway");
        let gateway = Gateway::start(config.clone()).await?;
        // Further gateways of this stack accept the same tokens.
        config.auth.issuer = gateway.issuer().to_owned();
        settings.push(("WARRENGATE_AUTH__ISSUER".to_owned(), config.auth.issuer.clone()));
        Ok(Self { broker, gateway, settings, config, certs })
    }

    /// One more gateway on the same broker and the same store, on free ports.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub async fn another_gateway(&self) -> Result<RunningGateway, Error> {
        self.another_gateway_with(|_| {}).await
    }

    /// The same with other settings.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub async fn another_gateway_with(&self, change: impl FnOnce(&mut Config)) -> Result<RunningGateway, Error> {
        let mut config = self.config.clone();
        config.grpc.listen.set_port(0);
        config.ops.listen.set_port(0);
        config.console.listen = config.console.listen.map(|address| (address.ip(), 0).into());
        change(&mut config);
        Ok(Gateway::start(config).await?)
    }

    /// The broker's first node.
    pub fn node(&self) -> &Node {
        &self.broker.nodes()[0]
    }

    /// The broker's nodes, if there are several.
    pub fn cluster(&self) -> Option<&Cluster> {
        match &self.broker {
            Broker::Node(_) => None,
            Broker::Cluster(cluster) => Some(cluster),
        }
    }

    /// The gateway.
    pub fn gateway(&self) -> &RunningGateway {
        &self.gateway
    }

    /// The gateway's settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The same as environment variables, for a gateway in a separate process (`warrengate serve`). They contain
    /// secrets.
    pub fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// The certificates.
    pub fn certs(&self) -> &CertsDir {
        &self.certs
    }

    /// The certificate of the authority that clients trust.
    pub fn gateway_ca(&self) -> PathBuf {
        self.certs.certificate(Item::GatewayCa)
    }

    /// The gateway's endpoint for clients.
    pub fn endpoint(&self) -> String {
        format!("https://{}", self.gateway.grpc_address())
    }

    /// The first administrator and its secret, if this start created it.
    pub fn take_first_administrator(&mut self) -> Option<(ClientId, SecretString)> {
        self.gateway.take_first_administrator()
    }

    /// Stops the gateway, and then the broker.
    ///
    /// # Errors
    /// When the broker had to be killed, or belongs to another stack.
    pub async fn stop(self) -> Result<(), Error> {
        self.gateway.shutdown().await;
        match self.broker {
            Broker::Node(node) => node.stop().await?,
            Broker::Cluster(cluster) => cluster.stop().await?,
        }
        Ok(())
    }
}

/// The broker's files in a certificate folder, which must have been [ensured](CertsDir::ensure). Creates the
/// provisioner's account in it.
///
/// # Errors
/// When the account cannot be written.
pub fn broker_files(certs: &CertsDir) -> Result<NodeFiles, Error> {
    Ok(NodeFiles {
        authority: certs.certificate(Item::BrokerCa),
        certificate: certs.certificate(Item::Broker),
        key: certs.key(Item::Broker),
        definitions: Account::ensure(certs.path())?.definitions().to_owned(),
    })
}

/// The settings of a gateway for this broker as environment variables, for a gateway in this process or in a separate
/// one (`warrengate serve`). They contain secrets.
///
/// # Errors
/// When the store's key cannot be created.
pub fn settings(options: &StackOptions, certs: &CertsDir, nodes: &[Node]) -> Result<Vec<(String, String)>, Error> {
    let path = |item: PathBuf| item.display().to_string();
    let list = |address: &dyn Fn(&Node) -> String| nodes.iter().map(address).collect::<Vec<_>>().join(",");
    let key = encryption_key(&options.dir)?;
    let own = [
        ("GRPC__LISTEN", options.grpc.to_string()),
        ("GRPC__CERTIFICATE", path(certs.certificate(Item::Gateway))),
        ("GRPC__KEY", path(certs.key(Item::Gateway))),
        ("OPS__LISTEN", options.ops.to_string()),
        ("BROKER__ENDPOINTS", list(&|node| format!("127.0.0.1:{}", node.amqps_port()))),
        ("BROKER__CA_CERTIFICATE", path(certs.certificate(Item::BrokerCa))),
        ("BROKER__CA_KEY", path(certs.key(Item::BrokerCa))),
        ("MANAGEMENT__ENDPOINTS", list(&|node| format!("https://127.0.0.1:{}", node.management_port()))),
        ("MANAGEMENT__CERTIFICATE", path(certs.certificate(Item::Provisioner))),
        ("MANAGEMENT__KEY", path(certs.key(Item::Provisioner))),
        ("MANAGEMENT__PASSWORD_FILE", path(certs.path().join(PASSWORD_FILE))),
        ("STORE__URL", format!("sqlite:{}", options.dir.join("warrengate.db").display())),
        ("STORE__ENCRYPTION_KEY", key.expose_secret().to_owned()),
    ];
    let console = options.console.map(|address| ("CONSOLE__LISTEN", address.to_string()));
    let own = own.into_iter().chain(console).map(|(name, value)| (format!("WARRENGATE_{name}"), value));
    Ok(own.chain(options.settings.iter().cloned()).collect())
}

/// The development store's key, created once in the store's folder and readable by its owner only.
fn encryption_key(dir: &Path) -> Result<SecretString, Error> {
    let path = dir.join("store.key");
    let failed = |error| Error::Folder(path.clone(), error);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned().into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = EncryptionKey::generate();
            pki::write_secret(&path, key.expose_secret())?;
            Ok(key)
        }
        Err(error) => Err(failed(error)),
    }
}
