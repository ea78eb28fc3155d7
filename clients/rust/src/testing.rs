//! A new tenant for each test, on a development stack (feature `testing`).
//!
//! The stack is `warrengate dev` from `PATH` or `WARRENGATE_BINARY`, on free ports, started once for a test process; or
//! the gateway of `WARRENGATE_TEST_ENDPOINT`, `WARRENGATE_TEST_CA` and `WARRENGATE_TEST_ADMIN_SECRET`, for example one
//! in a container.
//!
//! ```no_run
//! # async fn example() -> Result<(), warrengate_client::Error> {
//! let tenant = warrengate_client::testing::TestTenant::create().await;
//! let client = tenant.connect().await;
//! client.declare_queue(warrengate_client::pb::Queue { name: "orders".into(), ..Default::default() }).await?;
//! # Ok(())
//! # }
//! ```

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    thread,
};

use uuid::Uuid;

use crate::{Client, ClientOptions, Credentials, pb};

/// Ends the stack and removes its folder after the test process has ended for any reason, because its end of the pipe
/// is closed.
const SUPERVISOR: &str = r#"
cd "$1" || exit 1
shift
"$@" </dev/null 2>&1 &
child=$!
cat >/dev/null
kill -INT $child
wait $child
rm -rf "$PWD"
"#;

#[derive(Debug)]
struct Stack {
    endpoint: String,
    ca: PathBuf,
    admin_secret: String,
}

static STACK: OnceLock<Stack> = OnceLock::new();

/// A tenant, with a client that has every grant. Dropping it deletes the tenant, with all of its queues.
#[derive(Debug)]
pub struct TestTenant {
    name: String,
    client_id: String,
    secret: String,
}

impl TestTenant {
    /// Creates a tenant; starts the stack for the first one.
    ///
    /// # Panics
    /// When the stack cannot be started or used.
    pub async fn create() -> Self {
        let stack = tokio::task::spawn_blocking(|| STACK.get_or_init(Stack::start)).await.expect("a stack");
        let name = format!("test-{}", &Uuid::now_v7().simple().to_string()[14..]);
        let client_id = format!("{name}.app");
        let admin = stack.admin().await;
        let tenant = pb::Tenant { id: name.clone(), plan: "unlimited".into(), ..Default::default() };
        let request = pb::CreateTenantRequest { tenant: Some(tenant), ..Default::default() };
        admin.admin().create_tenant(request).await.expect("a tenant");
        let everything = pb::Grants {
            publish: vec![pb::PublishGrant { exchange: "#".into(), routing_key: "#".into() }],
            subscribe: vec!["#".into()],
            configure: vec!["#".into()],
            ..Default::default()
        };
        let client = pb::Client { client_id: client_id.clone(), grants: Some(everything), ..Default::default() };
        let request = pb::CreateClientRequest { client: Some(client), ..Default::default() };
        let created = admin.admin().create_client(request).await.expect("a client").into_inner();
        Self { name, client_id, secret: created.client_secret }
    }

    /// The tenant's id.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The options of its client.
    ///
    /// # Panics
    /// When the stack's CA certificate cannot be read.
    pub fn options(&self) -> ClientOptions {
        let credentials = Credentials::Secret { client_id: self.client_id.clone(), secret: self.secret.clone().into() };
        stack().options(credentials)
    }

    /// Connects its client.
    ///
    /// # Panics
    /// When the gateway cannot be reached.
    pub async fn connect(&self) -> Client {
        Client::connect(self.options()).await.expect("a connection")
    }

    /// The variables that [`ClientOptions::from_env`] reads, for programs under test.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("WARRENGATE_ENDPOINT", stack().endpoint.clone()),
            ("WARRENGATE_CA", stack().ca.display().to_string()),
            ("WARRENGATE_CLIENT_ID", self.client_id.clone()),
            ("WARRENGATE_CLIENT_SECRET", self.secret.clone()),
        ]
    }
}

impl Drop for TestTenant {
    fn drop(&mut self) {
        let tenant = self.name.clone();
        // A separate runtime, because the test's own may be ending.
        let deleting = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let request = pb::DeleteTenantRequest { tenant };
                stack().admin().await.admin().delete_tenant(request).await
            })
        });
        let deleted = deleting.join();
        assert!(thread::panicking() || matches!(deleted, Ok(Ok(_))), "the tenant was not deleted: {deleted:?}");
    }
}

fn stack() -> &'static Stack {
    STACK.get().expect("a tenant exists")
}

impl Stack {
    fn start() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        match variable("WARRENGATE_TEST_ENDPOINT") {
            Some(endpoint) => Self {
                endpoint,
                ca: variable("WARRENGATE_TEST_CA").expect("WARRENGATE_TEST_CA").into(),
                admin_secret: variable("WARRENGATE_TEST_ADMIN_SECRET").expect("WARRENGATE_TEST_ADMIN_SECRET"),
            },
            None => Self::start_stack(&variable("WARRENGATE_BINARY").unwrap_or_else(|| "warrengate".to_owned())),
        }
    }

    /// Starts `warrengate dev` in a separate folder, and reads the settings that it has written.
    fn start_stack(binary: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("warrengate-test-{}", Uuid::now_v7().simple()));
        fs::create_dir(&folder).expect("a folder");
        // All ports are reserved before the first one is released.
        let listeners: Vec<_> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let ports: Vec<_> = listeners.iter().map(|one| one.local_addr().expect("an address").port()).collect();
        drop(listeners);
        let mut command = Command::new("sh");
        command.args(["-c", SUPERVISOR, "sh"]).arg(&folder).args([binary, "dev"]);
        command.args(["--grpc", &format!("127.0.0.1:{}", ports[0]), "--ops", &format!("127.0.0.1:{}", ports[1])]);
        command.args(["--amqps-port", &ports[2].to_string(), "--management-port", &ports[3].to_string()]);
        std::env::vars().filter(|(name, _)| name.starts_with("WARRENGATE_")).for_each(|(name, _)| {
            command.env_remove(name);
        });
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut supervisor = command.spawn().expect("sh");
        let mut lines = BufReader::new(supervisor.stdout.take().expect("output")).lines();
        let is_ready = lines.by_ref().map_while(Result::ok).any(|line| line.contains("Ctrl-C"));
        assert!(is_ready, "`{binary} dev` did not start: set WARRENGATE_BINARY, or add `warrengate` to PATH");
        // The gateway must not block on a full pipe.
        thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        // Not dropped, so that its standard input remains open until this process ends.
        std::mem::forget(supervisor);
        let mut settings = read_settings(&folder.join(".warrengate/dev.env"));
        let mut setting = |name| settings.remove(name).unwrap_or_else(|| panic!("dev.env has no {name}"));
        Self {
            endpoint: setting("WARRENGATE_ENDPOINT"),
            ca: folder.join(setting("WARRENGATE_CA")),
            admin_secret: setting("WARRENGATE_ADMIN_CLIENT_SECRET"),
        }
    }

    fn options(&self, credentials: Credentials) -> ClientOptions {
        let ca = fs::read_to_string(&self.ca).expect("the CA certificate");
        ClientOptions::new(&self.endpoint, credentials).ca_certificate(ca)
    }

    async fn admin(&self) -> Client {
        let credentials = Credentials::Secret { client_id: "admin".into(), secret: self.admin_secret.clone().into() };
        Client::connect(self.options(credentials)).await.expect("an administrator")
    }
}

fn read_settings(file: &Path) -> HashMap<String, String> {
    let text = fs::read_to_string(file).expect("dev.env");
    let lines = text.lines().map(|line| line.trim().trim_start_matches("export "));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches(['\'', '"']).to_owned()))
        .collect()
}
