//! A separate gateway on the shared broker, with a separate collector for its spans.

use std::time::Duration;

use secrecy::SecretString;
use warrengate::{
    client::{Client, Credentials},
    config::TracesConfig,
    gateway::RunningGateway,
    pb::{self, value::Kind},
};

use super::{SharedStack, Tenant, collector::Collector, to_queue};

pub struct Traced {
    pub collector: Collector,
    pub gateway: RunningGateway,
    pub admin: Client,
    /// Its client is connected to the traced gateway; its declarations are traced, too.
    pub tenant: Tenant,
}

impl Traced {
    /// Traces everything.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut TracesConfig)) -> Self {
        Self::create(None, change).await
    }

    /// With an existing tenant.
    pub async fn start_as(tenant: &Tenant, change: impl FnOnce(&mut TracesConfig)) -> Self {
        Self::create(Some(tenant), change).await
    }

    async fn create(known: Option<&Tenant>, change: impl FnOnce(&mut TracesConfig)) -> Self {
        let collector = Collector::start().await;
        let endpoint = collector.endpoint();
        let shared = SharedStack::get();
        let gateway = shared
            .stack
            .another_gateway_with(|config| {
                let traces = &mut config.telemetry.traces;
                traces.endpoint = Some(endpoint);
                traces.sample_ratio = 1.0;
                traces.interval = Duration::from_millis(50);
                change(traces);
            })
            .await
            .unwrap();
        let endpoint = format!("https://{}", gateway.grpc_address());
        let secret =
            |id: &str, secret: &SecretString| Credentials::Secret { client_id: id.into(), secret: secret.clone() };
        // Through the traced gateway, because another would learn of the tenant only by polling.
        let admin = shared.client_at(&endpoint, secret("admin", shared.admin_secret())).await;
        let connect = async |id: &str, own: &SecretString| shared.client_at(&endpoint, secret(id, own)).await;
        let tenant = match known {
            None => Tenant::made_by(&admin, connect).await,
            Some(tenant) => Tenant {
                id: tenant.id.clone(),
                client_id: tenant.client_id.clone(),
                secret: tenant.secret.clone(),
                client: connect(&tenant.client_id, &tenant.secret).await,
            },
        };
        Self { collector, gateway, admin, tenant }
    }

    pub fn endpoint(&self) -> String {
        format!("https://{}", self.gateway.grpc_address())
    }
}

/// A caller's trace context, with unique ids.
pub struct Context {
    pub trace: String,
    pub span: String,
}

impl Context {
    pub fn new() -> Self {
        let id = || uuid::Uuid::new_v4().simple().to_string();
        Self { trace: id(), span: id()[..16].to_owned() }
    }

    /// A `traceparent` that is sampled by its caller.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace, self.span)
    }

    pub fn unsampled(&self) -> String {
        format!("00-{}-{}-00", self.trace, self.span)
    }
}

/// A publication to a queue with this context in its headers.
pub fn traced(queue: &str, traceparent: &str) -> pb::Publication {
    let mut publication = to_queue(queue, "secret-body");
    with_header(&mut publication, "traceparent", traceparent);
    publication
}

pub fn with_header(publication: &mut pb::Publication, name: &str, value: &str) {
    let value = pb::Value { kind: Some(Kind::StringValue(value.into())) };
    publication.message.as_mut().expect("a message").headers.insert(name.into(), value);
}

/// A header of a delivered message.
pub fn header<'a>(message: &'a pb::Message, name: &str) -> &'a str {
    match message.headers.get(name).and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text,
        _ => "",
    }
}
