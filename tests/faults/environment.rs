//! The environment of a run, in two parts: two gateways on one RabbitMQ, and one gateway on a cluster of three. Each
//! part has its own store in PostgreSQL and its own tenants.
//!
//! All processes end with the run; their logs are below target/.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use warrengate::{
    client::{Client, ClientOptions, Credentials},
    pb,
    pki::{Account, CertsDir, Item, Sans},
    stack,
    store::EncryptionKey,
};
use warrengate_testkit::{
    folder::RunFolder,
    node::{Cluster, ClusterOptions, Node, NodeOptions},
    postgres::Postgres,
    proxy::Proxy,
};

use crate::{
    gateways::Gateway,
    management::Management,
    message::{EXCHANGE, POISON, POISON_ATTEMPTS, POISON_BACKOFF, POISON_MAX_BACKOFF, WORK},
    reaper::Reaper,
    routes::Routes,
};

/// A tenant, and a client that may do everything in it.
#[derive(Clone)]
pub struct Tenant {
    pub id: String,
    pub client_id: String,
    pub secret: SecretString,
}

/// One node, or several.
pub enum Broker {
    One(Box<Node>),
    Cluster(Cluster),
}

impl Broker {
    pub fn nodes(&self) -> &[Node] {
        match self {
            Self::One(node) => std::slice::from_ref(node),
            Self::Cluster(cluster) => cluster.nodes(),
        }
    }
}

/// The description of an environment.
pub struct Plan {
    /// The name of its folder and its database.
    pub name: &'static str,
    /// The names of its gateways.
    pub gateways: &'static [&'static str],
    pub cluster: bool,
    /// The prefix of its tenants' ids, and their number.
    pub tenants: (&'static str, usize),
    /// The number of its first route.
    pub first_route: usize,
}

/// Gateways on one broker and one store, and their tenants.
pub struct Environment {
    pub name: &'static str,
    // Fields are dropped in this order.
    pub gateways: Vec<Gateway>,
    pub broker: Broker,
    pub management: Management,
    pub ca: String,
    pub tenants: Vec<Tenant>,
    pub routes: Routes,
    admin: Client,
}

/// The folder of this run. It is kept until the next run, for its logs.
pub fn folder() -> anyhow::Result<RunFolder> {
    RunFolder::create(Path::new(env!("CARGO_TARGET_TMPDIR")), "faults").context("cannot create the folder of the run")
}

/// The RabbitMQ that `./scripts/test --broker PATH` names.
fn installation() -> Option<PathBuf> {
    std::env::var_os("WARRENGATE_TEST_BROKER").map(PathBuf::from)
}

impl Environment {
    pub async fn start(plan: Plan, folder: &Path, postgres: &Postgres, reaper: &Arc<Reaper>) -> anyhow::Result<Self> {
        let folder = folder.join(plan.name);
        std::fs::create_dir_all(&folder)?;
        postgres.create_database(plan.name)?;
        let certs = CertsDir::new(folder.join("certs"));
        certs.ensure(&Sans::default())?;
        let account = Account::ensure(certs.path())?;
        let files = stack::broker_files(&certs)?;
        let options = NodeOptions { installation: installation(), ..NodeOptions::new(folder.join("broker"), files) };
        let broker = match plan.cluster {
            true => Broker::Cluster(Box::pin(Cluster::start(ClusterOptions::new(options))).await?),
            false => Broker::One(Box::new(Box::pin(Node::start(options)).await?)),
        };
        let key = EncryptionKey::generate();
        let mut gateways = Vec::new();
        let mut secret = None;
        for name in plan.gateways {
            let (mut amqps, mut management) = (Vec::new(), Vec::new());
            for node in broker.nodes() {
                amqps.push(Proxy::to(node.amqps_port()).await);
                management.push(Proxy::to(node.management_port()).await);
            }
            let mut settings = settings(&certs, account.password(), &amqps, &management);
            settings.push(("WARRENGATE_STORE__URL".into(), postgres.database_url(plan.name)));
            settings.push(("WARRENGATE_STORE__ENCRYPTION_KEY".into(), key.expose_secret().to_owned()));
            let log = folder.join(format!("gateway-{name}.log"));
            amqps.append(&mut management);
            let gateway = Gateway::new(name, settings, amqps, log, reaper)?;
            secret = secret.or(gateway.start().await?);
            gateways.push(gateway);
        }
        let secret = secret.context("the first gateway reported no administrator")?;
        let ca = std::fs::read_to_string(certs.certificate(Item::GatewayCa))?;
        let endpoint = format!("https://127.0.0.1:{}", gateways[0].grpc());
        let admin = connect(&endpoint, &ca, "admin", &secret).await?;
        let routes = Routes::to(gateways.iter().map(Gateway::grpc).collect(), plan.first_route);
        let management = Management::new(&broker.nodes()[0], &certs, account.password())?;
        let mut environment =
            Self { name: plan.name, gateways, broker, management, ca, tenants: Vec::new(), routes, admin };
        let (prefix, count) = plan.tenants;
        for number in 1..=count {
            let tenant = environment.tenant(&format!("{prefix}{number:02}")).await?;
            environment.tenants.push(tenant);
        }
        Ok(environment)
    }

    /// Whether this tenant belongs to this environment.
    pub fn has(&self, tenant: &str) -> bool {
        self.tenants.iter().any(|known| known.id == tenant)
    }

    /// Stops everything in order.
    pub async fn stop(self) -> anyhow::Result<()> {
        drop(self.gateways);
        match self.broker {
            Broker::One(node) => node.stop().await?,
            Broker::Cluster(cluster) => cluster.stop().await?,
        }
        Ok(())
    }

    /// Creates a tenant with its exchange, its queues, and a client.
    async fn tenant(&self, id: &str) -> anyhow::Result<Tenant> {
        let tenant = pb::Tenant { id: id.into(), ..pb::Tenant::default() };
        let request = pb::CreateTenantRequest { tenant: Some(tenant), ..pb::CreateTenantRequest::default() };
        self.admin.admin().create_tenant(request).await?;
        let client_id = format!("{id}.app");
        let client = pb::Client { client_id: client_id.clone(), grants: Some(all_grants()), ..pb::Client::default() };
        let request = pb::CreateClientRequest { client: Some(client), ..pb::CreateClientRequest::default() };
        let secret: SecretString = self.admin.admin().create_client(request).await?.into_inner().client_secret.into();
        let endpoint = format!("https://127.0.0.1:{}", self.gateways[0].grpc());
        let client = connect(&endpoint, &self.ca, &client_id, &secret).await?;
        let mut topology = client.topology();
        let exchange =
            pb::Exchange { name: EXCHANGE.into(), r#type: pb::ExchangeType::Topic.into(), ..pb::Exchange::default() };
        topology
            .declare_exchange(pb::DeclareExchangeRequest { exchange: Some(exchange), validate_only: false })
            .await?;
        for name in [WORK, POISON] {
            let mut queue = pb::Queue { name: name.into(), ..pb::Queue::default() };
            if name == POISON {
                queue.max_delivery_attempts = POISON_ATTEMPTS;
                queue.retry_policy = Some(pb::RetryPolicy {
                    min_backoff: POISON_BACKOFF.try_into().ok(),
                    max_backoff: POISON_MAX_BACKOFF.try_into().ok(),
                    multiplier: Some(2.0),
                    jitter: Some(0.0),
                });
            }
            topology.declare_queue(pb::DeclareQueueRequest { queue: Some(queue), validate_only: false }).await?;
            let binding = pb::Binding {
                source: EXCHANGE.into(),
                destination: name.into(),
                routing_key: format!("{name}.#"),
                ..pb::Binding::default()
            };
            topology.bind(pb::BindRequest { binding: Some(binding) }).await?;
        }
        Ok(Tenant { id: id.into(), client_id, secret })
    }
}

/// A client of the gateway to which the address leads.
pub async fn connect(endpoint: &str, ca: &str, id: &str, secret: &SecretString) -> anyhow::Result<Client> {
    let credentials = Credentials::Secret { client_id: id.into(), secret: secret.clone() };
    let options = ClientOptions::new(endpoint, credentials)
        .ca_certificate(ca)
        .server_name("127.0.0.1")
        .connect_timeout(Duration::from_secs(3));
    Ok(Client::connect(options).await?)
}

fn settings(certs: &CertsDir, password: &SecretString, amqps: &[Proxy], management: &[Proxy]) -> Vec<(String, String)> {
    let all = |proxies: &[Proxy], scheme: &str| {
        proxies.iter().map(|proxy| format!("{scheme}{}", proxy.endpoint())).collect::<Vec<_>>().join(",")
    };
    let path = |item: PathBuf| item.display().to_string();
    let settings = [
        ("GRPC__CERTIFICATE", path(certs.certificate(Item::Gateway))),
        ("GRPC__KEY", path(certs.key(Item::Gateway))),
        ("BROKER__ENDPOINTS", all(amqps, "")),
        ("BROKER__CA_CERTIFICATE", path(certs.certificate(Item::BrokerCa))),
        ("BROKER__CA_KEY", path(certs.key(Item::BrokerCa))),
        ("BROKER__IDLE_TIMEOUT", "5s".to_owned()),
        ("MANAGEMENT__ENDPOINTS", all(management, "https://")),
        ("MANAGEMENT__CERTIFICATE", path(certs.certificate(Item::Provisioner))),
        ("MANAGEMENT__KEY", path(certs.key(Item::Provisioner))),
        ("MANAGEMENT__PASSWORD", password.expose_secret().to_owned()),
        // Both gateways have the same issuer, so that each accepts tokens of the other.
        ("AUTH__ISSUER", "https://warrengate.test".to_owned()),
        ("TELEMETRY__LOG", std::env::var("WARRENGATE_TEST_LOG").map_or("info", |_| "warrengate=debug,info").to_owned()),
        ("TELEMETRY__LOG_FORMAT", "human".to_owned()),
    ];
    settings.into_iter().map(|(name, value)| (format!("WARRENGATE_{name}"), value)).collect()
}

/// All permissions in the tenant except administration.
fn all_grants() -> pb::Grants {
    pb::Grants {
        publish: vec![pb::PublishGrant { exchange: "#".into(), routing_key: "#".into() }],
        subscribe: vec!["#".into()],
        configure: vec!["#".into()],
        administer: false,
        observe: true,
    }
}
