//! The environment of a measurement: a private broker, a gateway in a separate process, tenants and their queues.
//!
//! Every path to the broker uses the same queues, which the gateway created. Dropping the environment ends all of its
//! processes.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use secrecy::{ExposeSecret as _, SecretString};

use super::{
    Error,
    job::{Account, Endpoints, Job, Load, Mode, Path},
    machine::Machine,
    meter::{Meter, PerProcess},
    plan::{Cell, Plan, QueueKind},
    process::{Folder, GatewayProcess, Worker, free_address},
};
use warrengate::{
    client::{Client, ClientOptions, Credentials},
    pb,
    pki::{Authority, CertsDir, Item, Sans},
    stack::{self, StackOptions},
};
use warrengate_testkit::{
    node::{Node, NodeOptions},
    otlp::Collector,
};

/// The maximum number of queues of a tenant.
const QUEUES: usize = 10;
/// Attempts to declare a queue.
const MAX_ATTEMPTS: usize = 10;
const RETRY_DELAY: Duration = Duration::from_secs(1);
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(86_400);

/// The environment: a broker, a gateway, and the credentials for both.
pub(super) struct Rig {
    // Fields are dropped in this order.
    gateway: GatewayProcess,
    node: Node,
    _collector: Collector,
    folder: Folder,
    certs: CertsDir,
    authority: Authority,
    gateway_ca: String,
    broker_ca: String,
    administrator: (String, SecretString),
    admin: Client,
    tenants: HashMap<String, Tenant>,
    options: StackOptions,
    program: PathBuf,
    queues: u64,
}

/// A tenant and its only client.
struct Tenant {
    client: Client,
    certificate: String,
    key: String,
}

impl Rig {
    pub(super) async fn start(plan: &Plan) -> Result<Self, Error> {
        let folder = Folder::create(plan.dir.clone())?;
        let certs = CertsDir::new(folder.path().join("certs"));
        certs.ensure(&Sans::default())?;
        let node = Node::start(NodeOptions {
            installation: plan.installation.clone(),
            progress: plan.progress.clone(),
            ..NodeOptions::new(folder.path().join("broker"), stack::broker_files(&certs)?)
        })
        .await?;
        plan.say("starting the gateway");
        let collector = Collector::counting().await;
        let mut options = StackOptions::new(folder.path());
        options.settings.clone_from(&plan.settings);
        // The same issuer for all of its gateways, so that each accepts the tokens of the others.
        options.settings.push(("WARRENGATE_AUTH__ISSUER".to_owned(), "https://bench.invalid".to_owned()));
        if let Some(ratio) = plan.sample_ratio {
            options.settings.extend(tracing(&collector.endpoint(), ratio));
        }
        let mut gateway = start_gateway(&plan.gateway, &mut options, &certs, &node, "gateway", &[]).await?;
        let none = || Error::Gateway("no administrator was announced".to_owned());
        let administrator = gateway.take_first_administrator().ok_or_else(none)?;
        let authority = certs.broker_authority()?;
        let gateway_ca = read(certs.certificate(Item::GatewayCa))?;
        let admin = connect(&gateway.endpoint(), &gateway_ca, &administrator.0, &administrator.1).await?;
        Ok(Self {
            gateway,
            node,
            _collector: collector,
            folder,
            broker_ca: authority.certificate_pem().to_owned(),
            certs,
            authority,
            gateway_ca,
            administrator,
            admin,
            tenants: HashMap::new(),
            options,
            program: plan.gateway.clone(),
            queues: 0,
        })
    }

    /// Starts another gateway with other settings on the same broker and store.
    pub(super) async fn another_gateway(
        &mut self,
        name: &str,
        settings: &[(String, String)],
    ) -> Result<GatewayProcess, Error> {
        start_gateway(&self.program, &mut self.options, &self.certs, &self.node, name, settings).await
    }

    pub(super) fn gateway(&self) -> &GatewayProcess {
        &self.gateway
    }

    /// The broker.
    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    pub(super) fn admin(&self) -> &Client {
        &self.admin
    }

    pub(super) fn administrator(&self) -> &(String, SecretString) {
        &self.administrator
    }

    /// The gateway's settings as environment variables.
    pub(super) fn settings(&self) -> Result<Vec<(String, String)>, Error> {
        Ok(stack::settings(&self.options, &self.certs, std::slice::from_ref(&self.node))?)
    }

    /// This machine, with the broker's versions from its log.
    pub(super) fn machine(&self) -> Machine {
        let log = std::fs::read_to_string(self.node.log()).unwrap_or_default();
        let version = log.lines().find_map(|line| Some(line.split_once("Starting RabbitMQ ")?.1));
        Machine::read(version.map_or_else(|| "RabbitMQ".to_owned(), |version| format!("RabbitMQ {version}")))
    }

    /// A meter of the worker, a gateway and the broker.
    pub(super) fn meter(&self, worker: Option<&Worker>, gateway: Option<&GatewayProcess>) -> Meter {
        Meter::new(PerProcess {
            application: worker.and_then(Worker::pid),
            gateway: gateway.and_then(GatewayProcess::pid),
            broker: self.node.pid(),
        })
    }

    pub(super) fn endpoints(&self, gateway: &GatewayProcess) -> Endpoints {
        Endpoints {
            gateway: gateway.endpoint(),
            gateway_ca: self.gateway_ca.clone(),
            broker_host: "127.0.0.1".to_owned(),
            broker_port: self.node.amqps_port(),
            broker_ca: self.broker_ca.clone(),
        }
    }

    /// Creates the tenant, with one client that may do everything, unless it exists.
    pub(super) async fn tenant(&mut self, name: &str, plan: &str) -> Result<(), Error> {
        if self.tenants.contains_key(name) {
            return Ok(());
        }
        let tenant = pb::Tenant { id: name.to_owned(), plan: plan.to_owned(), ..pb::Tenant::default() };
        let request = pb::CreateTenantRequest { tenant: Some(tenant), ..pb::CreateTenantRequest::default() };
        self.admin.admin().create_tenant(request).await.map_err(warrengate::client::Error::from)?;
        let everything = pb::Grants {
            publish: vec![pb::PublishGrant { exchange: "#".to_owned(), routing_key: "#".to_owned() }],
            subscribe: vec!["#".to_owned()],
            configure: vec!["#".to_owned()],
            ..pb::Grants::default()
        };
        let id = format!("{name}.bench");
        let client = pb::Client { client_id: id.clone(), grants: Some(everything), ..pb::Client::default() };
        let request = pb::CreateClientRequest { client: Some(client), ..pb::CreateClientRequest::default() };
        let created = self.admin.admin().create_client(request).await.map_err(warrengate::client::Error::from)?;
        let secret = created.into_inner().client_secret.into();
        let client = connect(&self.gateway.endpoint(), &self.gateway_ca, &id, &secret).await?;
        let leaf = self.authority.client(&format!("wg.{name}"), CERTIFICATE_LIFETIME)?;
        let (certificate, key) = (leaf.certificate_pem().to_owned(), leaf.key_pem().to_owned());
        self.tenants.insert(name.to_owned(), Tenant { client, certificate, key });
        Ok(())
    }

    /// Tenants with new queues, as a job needs them: at most ten for the streams of each, because with a thousand
    /// quorum queues the broker's leader elections would be measured. [`Rig::delete`] deletes the queues.
    pub(super) async fn accounts(
        &mut self,
        names: &[String],
        plan: &str,
        queue_type: QueueKind,
        streams: usize,
    ) -> Result<Vec<Account>, Error> {
        // Each consumer of a stream queue receives all messages, so stream queues are not shared.
        let queues = if queue_type == QueueKind::Stream { streams } else { streams.min(QUEUES) };
        self.accounts_sharing(names, plan, queue_type, (streams, queues)).await
    }

    /// Like [`Rig::accounts`], with this number of streams on this number of queues.
    pub(super) async fn accounts_sharing(
        &mut self,
        names: &[String],
        plan: &str,
        queue_type: QueueKind,
        (streams, shared): (usize, usize),
    ) -> Result<Vec<Account>, Error> {
        let mut accounts = Vec::with_capacity(names.len());
        for name in names {
            self.tenant(name, plan).await?;
            let mut queues = Vec::new();
            for _ in 0..shared {
                self.queues += 1;
                let queue = format!("bench-{}", self.queues);
                let declared =
                    pb::Queue { name: queue.clone(), r#type: queue_type.pb().into(), ..pb::Queue::default() };
                declare(&self.tenants[name].client, &declared).await?;
                queues.push(queue);
            }
            let tenant = &self.tenants[name];
            // The client renews its token, because a long measurement outlives one.
            let token = tenant.client.token().await?;
            let token = token.map(|token| token.secret().expose_secret().to_owned()).unwrap_or_default();
            accounts.push(Account {
                vhost: format!("wg.{name}"),
                certificate: tenant.certificate.clone(),
                key: tenant.key.clone(),
                token,
                queues: queues.iter().cycle().take(streams).cloned().collect(),
            });
        }
        Ok(accounts)
    }

    /// Deletes the queues of [`Rig::accounts`].
    pub(super) async fn delete(&self, accounts: &[Account]) -> Result<(), Error> {
        for account in accounts {
            let name = account.vhost.trim_start_matches("wg.");
            let Some(tenant) = self.tenants.get(name) else { continue };
            for queue in account.queues.iter().collect::<BTreeSet<_>>() {
                let request = pb::DeleteQueueRequest { name: queue.clone(), ..pb::DeleteQueueRequest::default() };
                tenant.client.topology().delete_queue(request).await.map_err(warrengate::client::Error::from)?;
            }
        }
        Ok(())
    }

    /// Deletes a tenant with everything that belongs to it.
    pub(super) async fn remove(&mut self, name: &str) -> Result<(), Error> {
        self.tenants.remove(name);
        let request = pb::DeleteTenantRequest { tenant: name.to_owned() };
        self.admin.admin().delete_tenant(request).await.map_err(warrengate::client::Error::from)?;
        Ok(())
    }

    /// The job of a client process.
    pub(super) fn job(
        &self,
        plan: &Plan,
        cell: &Cell,
        gateway: &GatewayProcess,
        (path, mode, load): (Path, Mode, Load),
        accounts: Vec<Account>,
    ) -> Job {
        Job {
            path,
            mode,
            load,
            size: cell.size,
            sizes: Vec::new(),
            frame: cell.frame,
            is_stream_queue: cell.queue == QueueKind::Stream,
            tuning: plan.tuning.for_size(cell.size),
            endpoints: self.endpoints(gateway),
            accounts,
        }
    }

    /// Stops everything in order.
    pub(super) async fn stop(self) -> Result<(), Error> {
        self.gateway.end().await?;
        self.node.stop().await?;
        drop(self.folder);
        Ok(())
    }
}

/// Tries repeatedly, because a broker that has just written hundreds of megabytes may not elect a leader in time.
async fn declare(client: &Client, queue: &pb::Queue) -> Result<(), Error> {
    let mut attempts = 0;
    loop {
        let request = pb::DeclareQueueRequest { queue: Some(queue.clone()), validate_only: false };
        match client.topology().declare_queue(request).await {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == tonic::Code::Unavailable && attempts < MAX_ATTEMPTS => {
                attempts += 1;
                tokio::time::sleep(RETRY_DELAY).await;
            }
            Err(status) => return Err(warrengate::client::Error::from(status).into()),
        }
    }
}

/// The names of `count` tenants with this prefix.
pub(super) fn names(prefix: &str, count: usize) -> Vec<String> {
    (1..=count).map(|index| format!("{prefix}-{index}")).collect()
}

/// Settings that trace this share of the published messages and export to this endpoint.
pub(super) fn tracing(endpoint: &str, ratio: f64) -> Vec<(String, String)> {
    vec![
        ("WARRENGATE_TELEMETRY__OTLP_ENDPOINT".to_owned(), endpoint.to_owned()),
        ("WARRENGATE_TELEMETRY__SAMPLE_RATIO".to_owned(), ratio.to_string()),
    ]
}

async fn start_gateway(
    program: &std::path::Path,
    options: &mut StackOptions,
    certs: &CertsDir,
    node: &Node,
    name: &str,
    more: &[(String, String)],
) -> Result<GatewayProcess, Error> {
    let (grpc, ops): (SocketAddr, SocketAddr) = (free_address()?, free_address()?);
    (options.grpc, options.ops) = (grpc, ops);
    let mut settings = stack::settings(options, certs, std::slice::from_ref(node))?;
    settings.push(("WARRENGATE_TELEMETRY__LOG".to_owned(), "warn".to_owned()));
    settings.extend_from_slice(more);
    GatewayProcess::start(program, &settings, grpc, ops, &options.dir.join(format!("{name}.log"))).await
}

async fn connect(endpoint: &str, ca: &str, id: &str, secret: &SecretString) -> Result<Client, Error> {
    let credentials = Credentials::Secret { client_id: id.to_owned(), secret: secret.clone() };
    Ok(Client::connect(ClientOptions::new(endpoint, credentials).ca_certificate(ca)).await?)
}

fn read(path: PathBuf) -> Result<String, Error> {
    std::fs::read_to_string(&path).map_err(|error| Error::File(path.display().to_string(), error))
}
