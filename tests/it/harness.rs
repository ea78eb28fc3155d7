//! The stack that all tests share, and the tenants that each test creates.

pub mod amqp_frames;
pub mod broker;
pub mod browser;
pub mod bytes_codec;
pub mod collector;
pub mod command;
pub mod consumer;
pub mod dead_letters;
pub mod dedicated;
pub mod http2;
pub mod issuer;
pub mod jaeger;
pub mod plans;
pub mod publisher;
pub mod raw;
pub mod run;
pub mod serve;
pub mod tenant;
pub mod traced;
pub mod values;
pub mod wait;
pub mod web;

use std::{
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use secrecy::SecretString;
use tokio::runtime::Runtime;
use warrengate::{
    client::{Client, ClientOptions, Credentials},
    gateway::RunningGateway,
    pb,
    stack::{Stack, StackOptions},
};

pub use tenant::Tenant;
pub use warrengate_testkit::{postgres, proxy};

use postgres::Postgres;
use warrengate_testkit::folder::RunFolder;

/// The stack that all tests of this process share. It has a separate runtime, because the runtime of a test ends with
/// the test; the node's guard ends the broker with the process.
pub struct SharedStack {
    pub stack: Stack,
    /// Keeps the stack's folder.
    _runtime: Runtime,
    second: Option<Second>,
    admin_secret: SecretString,
    ca: String,
}

/// A second gateway on the same PostgreSQL, used by half of the clients (`./scripts/test --store postgres`).
struct Second {
    gateway: RunningGateway,
    clients: AtomicUsize,
    /// Its guard ends it with the process.
    _postgres: Postgres,
}

/// A folder for this process. Folders of processes that have ended are deleted.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<RunFolder> = OnceLock::new();
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    FOLDER.get_or_init(|| RunFolder::create(parent, "it").unwrap()).path()
}

/// Reports that a check is skipped because a program that `./scripts/test` installs is missing. With `CI=true` it is an
/// error.
pub fn missing(program: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{program} is missing, and CI must run every check");
    eprintln!("skipped: {program} is not installed (./scripts/test installs it where it can)");
}

/// The same for Jaeger and the toolchains of other languages, which this repository does not require. They are required
/// when `WARRENGATE_TEST_ALL_TOOLS=true`, as in the CI workflow.
pub fn missing_toolchain(program: &str) {
    let required = std::env::var_os("WARRENGATE_TEST_ALL_TOOLS").is_some_and(|all| all == "true");
    assert!(!required, "{program} is missing, and this run must execute every check");
    eprintln!("skipped: {program} is not installed");
}

/// The RabbitMQ that `./scripts/test --broker PATH` names.
pub fn installation() -> Option<PathBuf> {
    std::env::var_os("WARRENGATE_TEST_BROKER").map(PathBuf::from)
}

impl SharedStack {
    pub fn get() -> &'static Self {
        static SHARED: OnceLock<SharedStack> = OnceLock::new();
        SHARED.get_or_init(|| std::thread::spawn(Self::start).join().expect("the stack starts"))
    }

    fn start() -> Self {
        if std::env::var_os("WARRENGATE_TEST_LOG").is_some() {
            tracing_subscriber::fmt().with_env_filter("warrengate=debug,lapin=warn").init();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut options = StackOptions::new(folder());
        options.installation = installation();
        options.shared = run::stack();
        options.console = Some(([127, 0, 0, 1], 0).into());
        let postgres = (std::env::var_os("WARRENGATE_TEST_STORE").is_some_and(|store| store == "postgres"))
            .then(|| Postgres::start().expect("PostgreSQL starts"));
        options.settings = postgres.iter().map(|server| ("WARRENGATE_STORE__URL".into(), server.url())).collect();
        // All tests share one address, like clients behind a proxy.
        options.settings.push(("WARRENGATE_AUTH__FAILED_LOGINS_PER_MINUTE_PER_ADDRESS".into(), "100000".into()));
        let mut stack = runtime.block_on(Stack::start(options)).unwrap();
        let (_, admin_secret) = stack.take_first_administrator().expect("the folder is new");
        let ca = std::fs::read_to_string(stack.gateway_ca()).unwrap();
        let second = postgres.map(|server| Second {
            gateway: runtime.block_on(Box::pin(stack.another_gateway())).unwrap(),
            clients: AtomicUsize::new(0),
            _postgres: server,
        });
        Self { stack, _runtime: runtime, second, admin_secret, ca }
    }

    pub fn admin_secret(&self) -> &SecretString {
        &self.admin_secret
    }

    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// A client of the shared gateway.
    pub async fn client(&self, id: &str, secret: &SecretString) -> Client {
        let credentials = Credentials::Secret { client_id: id.into(), secret: secret.clone() };
        let Some(second) = &self.second else { return self.client_at(&self.stack.endpoint(), credentials).await };
        let endpoint = match second.clients.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => self.stack.endpoint(),
            _ => format!("https://{}", second.gateway.grpc_address()),
        };
        let client = self.client_at(&endpoint, credentials).await;
        // It may have just been created through the other gateway.
        tenant::known(&client).await;
        client
    }

    /// A client of any gateway of the stack.
    pub async fn client_at(&self, endpoint: &str, credentials: Credentials) -> Client {
        let options = ClientOptions::new(endpoint, credentials).ca_certificate(self.ca.clone());
        Client::connect(options).await.unwrap()
    }

    /// The platform administrator.
    pub async fn admin(&self) -> Client {
        self.client("admin", &self.admin_secret).await
    }
}

/// Publishes to a queue through the default exchange.
pub fn to_queue(queue: &str, body: impl Into<bytes::Bytes>) -> pb::Publication {
    pb::Publication {
        routing_key: queue.into(),
        message: Some(pb::Message { body: body.into(), ..pb::Message::default() }),
        ..pb::Publication::default()
    }
}
