//! A stack for one test, which may kill or restart its broker.

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use warrengate::{
    client::{Client, ClientOptions, Credentials},
    stack::{Stack, StackOptions},
};

use warrengate_testkit::folder::RunFolder;

use super::{Tenant, installation, wait::until};

pub struct DedicatedStack {
    pub stack: Stack,
    /// Locked until the test ends, so that a concurrent run does not delete it.
    _folder: RunFolder,
    admin_secret: SecretString,
    ca: String,
}

impl DedicatedStack {
    /// Starts a stack on the test's runtime, in a folder for this name and process, with settings in addition to the
    /// defaults.
    pub async fn start(name: &str, settings: &[(&str, &str)]) -> Self {
        Self::with_nodes(1, name, settings).await
    }

    /// Like [`Self::start`], with several broker nodes.
    pub async fn with_nodes(nodes: usize, name: &str, settings: &[(&str, &str)]) -> Self {
        let folder = RunFolder::create(Path::new(env!("CARGO_TARGET_TMPDIR")), name).unwrap();
        let mut options = StackOptions::new(folder.path().join("stack"));
        options.installation = installation();
        options.nodes = nodes;
        options.settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let mut stack = Box::pin(Stack::start(options)).await.unwrap();
        let (_, admin_secret) = stack.take_first_administrator().expect("the folder is new");
        let ca = std::fs::read_to_string(stack.gateway_ca()).unwrap();
        Self { stack, _folder: folder, admin_secret, ca }
    }

    /// Waits until a quorum queue survives a kill. RabbitMQ records the files of a quorum queue up to 3 s after the
    /// declaration; if it is killed before that, the queue is empty and has no leader after the restart.
    pub async fn queue_is_on_disk(&self, tenant: &Tenant, queue: &str) {
        let name = format!("wg.{}_{queue}", tenant.id);
        until("the queue's name on disk", async || {
            let found = files(self.stack.node().dir(), "names.dets").into_iter().any(|file| {
                let content = std::fs::read(file).unwrap_or_default();
                content.windows(name.len()).any(|window| window == name.as_bytes())
            });
            found.then_some(())
        })
        .await;
    }

    /// The secret of the platform administrator.
    pub fn admin_secret(&self) -> &SecretString {
        &self.admin_secret
    }

    /// The platform administrator.
    pub async fn admin(&self) -> Client {
        self.client("admin", &self.admin_secret).await
    }

    async fn client(&self, id: &str, secret: &SecretString) -> Client {
        self.client_at(&self.stack.endpoint(), id, secret).await
    }

    /// A client of any gateway of the stack, through its address or a proxy's.
    pub async fn client_at(&self, endpoint: &str, id: &str, secret: &SecretString) -> Client {
        let credentials = Credentials::Secret { client_id: id.into(), secret: secret.clone() };
        let options = ClientOptions::new(endpoint, credentials).ca_certificate(self.ca.clone());
        Client::connect(options).await.unwrap()
    }

    /// A client of the first gateway with these credentials.
    pub async fn client_with(&self, credentials: Credentials) -> Client {
        let options = ClientOptions::new(self.stack.endpoint(), credentials).ca_certificate(self.ca.clone());
        Client::connect(options).await.unwrap()
    }

    pub async fn tenant(&self) -> Tenant {
        let admin = self.admin().await;
        Tenant::made_by(&admin, async |id, secret| self.client(id, secret).await).await
    }
}

/// All files of this name below a folder.
fn files(folder: &Path, name: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path(), name),
            _ if entry.file_name() == name => vec![entry.path()],
            _ => Vec::new(),
        })
        .collect()
}
