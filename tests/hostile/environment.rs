//! A broker, a store, a gateway for administration in this process, and the gateway under attack.

use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::runtime::Handle;
use warrengate::{
    client::{Client, ClientOptions, Credentials},
    pb,
    stack::{Stack, StackOptions},
};
use warrengate_testkit::folder::RunFolder;

use crate::{target::Target, wait::until};

pub struct Environment {
    /// The runtime that it was started on.
    runtime: Handle,
    pub target: Target,
    stack: Stack,
    pub ca: String,
    /// The platform administrator, connected to the gateway that is not attacked.
    pub admin: Client,
    _folder: RunFolder,
}

/// A tenant, and a client that may do everything in it, at the gateway under attack.
pub struct Tenant {
    pub id: String,
    pub client: Client,
    pub credentials: (String, SecretString),
}

impl Environment {
    pub async fn start() -> Self {
        let folder = RunFolder::create(Path::new(env!("CARGO_TARGET_TMPDIR")), "hostile").unwrap();
        let mut options = StackOptions::new(folder.path());
        options.installation = std::env::var_os("WARRENGATE_TEST_BROKER").map(Into::into);
        let mut stack = Box::pin(Stack::start(options)).await.unwrap();
        let (_, secret) = stack.take_first_administrator().expect("the folder is new");
        let ca = std::fs::read_to_string(stack.gateway_ca()).unwrap();
        let target = Target::start(&stack).await;
        let admin = connect(&stack.endpoint(), &ca, "admin", &secret).await;
        Self { runtime: Handle::current(), target, stack, ca, admin, _folder: folder }
    }

    pub async fn stop(self) {
        drop(self.target);
        self.stack.stop().await.unwrap();
    }

    /// Runs a measurement on the runtime of the environment, whose priority is higher than that of the attackers.
    pub async fn undisturbed<T: Send + 'static, F: Future<Output = T>>(
        &self,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> T {
        // A thread inherits the priority of the one that creates it, so a worker of this runtime creates it.
        let measuring =
            async { tokio::task::spawn_blocking(move || Handle::current().block_on(work())).await.unwrap() };
        self.runtime.spawn(measuring).await.unwrap()
    }

    /// A fresh tenant.
    pub async fn tenant(&self) -> Tenant {
        let id = format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let tenant = pb::Tenant { id: id.clone(), ..Default::default() };
        let request = pb::CreateTenantRequest { tenant: Some(tenant), ..Default::default() };
        self.admin.admin().create_tenant(request).await.unwrap();
        let credentials = self.client_of(&id, "app", all_grants()).await;
        let client = self.connect(&credentials).await;
        Tenant { id, client, credentials }
    }

    /// One more client of a tenant.
    pub async fn client_of(&self, tenant: &str, name: &str, grants: pb::Grants) -> (String, SecretString) {
        let client_id = format!("{tenant}.{name}");
        let client = pb::Client { client_id: client_id.clone(), grants: Some(grants), ..Default::default() };
        let request = pb::CreateClientRequest { client: Some(client), ..Default::default() };
        let made = self.admin.admin().create_client(request).await.unwrap().into_inner();
        (client_id, made.client_secret.into())
    }

    /// Removes all grants of a client at the other gateway.
    pub async fn remove_grants(&self, client_id: &str) {
        let client = pb::Client { client_id: client_id.into(), grants: Some(Default::default()), ..Default::default() };
        let update_mask = Some(prost_types::FieldMask { paths: vec!["grants".into()] });
        let request = pb::UpdateClientRequest { client: Some(client), update_mask, validate_only: false };
        self.admin.admin().update_client(request).await.unwrap();
    }

    /// A client of the gateway under attack, once that gateway has loaded it.
    pub async fn connect(&self, (id, secret): &(String, SecretString)) -> Client {
        let client = connect(&self.target.endpoint(), &self.ca, id, secret).await;
        until("the gateway to load the client", async || client.auth().who_am_i(pb::WhoAmIRequest {}).await.ok()).await;
        client
    }

    /// A token, for calls that the client library does not make.
    pub async fn token(&self, tenant: &Tenant) -> String {
        issue_token(&tenant.client, &tenant.credentials).await.unwrap()
    }
}

async fn connect(endpoint: &str, ca: &str, id: &str, secret: &SecretString) -> Client {
    let credentials = Credentials::Secret { client_id: id.into(), secret: secret.clone() };
    Client::connect(ClientOptions::new(endpoint, credentials).ca_certificate(ca)).await.unwrap()
}

pub async fn issue_token(client: &Client, (id, secret): &(String, SecretString)) -> Result<String, tonic::Status> {
    let client_secret = secret.expose_secret().to_owned();
    let request = pb::IssueTokenRequest { client_id: id.clone(), client_secret, lifetime: None };
    Ok(client.auth().issue_token(request).await?.into_inner().access_token)
}

pub fn all_grants() -> pb::Grants {
    pb::Grants {
        publish: vec![pb::PublishGrant { exchange: "#".into(), routing_key: "#".into() }],
        subscribe: vec!["#".into()],
        configure: vec!["#".into()],
        administer: false,
        observe: true,
    }
}

impl Tenant {
    pub async fn queue(&self, name: &str, kind: pb::QueueType) {
        let queue = pb::Queue { name: name.into(), r#type: kind.into(), ..Default::default() };
        let request = pb::DeclareQueueRequest { queue: Some(queue), validate_only: false };
        self.client.topology().declare_queue(request).await.unwrap();
    }

    /// Publishes messages one by one until each is confirmed: the plan may throttle them.
    pub async fn fill(&self, queue: &str, count: usize, message: pb::Message) {
        for _ in 0..count {
            until("a confirm", async || {
                let publication =
                    pb::Publication { routing_key: queue.into(), message: Some(message.clone()), ..Default::default() };
                let results = self.client.publish_batch(vec![publication]).await.ok()?;
                (results[0].outcome() == pb::Outcome::Confirmed).then_some(())
            })
            .await;
        }
    }
}

/// The stable reason of a status.
pub fn reason(status: &tonic::Status) -> String {
    use tonic_types::StatusExt as _;
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}
