//! The components of a gateway, created in dependency order and without any background task.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use secrecy::SecretString;

use super::{Error, REGISTRY_POLL, record};
use crate::{
    audit::{Audit, AuditWriter},
    auth::Issuer,
    broker::Broker,
    config::Config,
    memory::{MemoryBudget, TenantBudgets},
    names::ClientId,
    pb,
    pki::{self, Authority, TenantCertificates, Watched},
    provision::{Inspector, Provisioner},
    service::{AdminService, AuthService, GatewayState, MessagingService, TopologyService},
    store::{EncryptionKey, GatewayEntry, Store},
    stream::{
        drain::Drain,
        open_streams::OpenStreams,
        session::SessionContext,
        subscribe::{Policies, SubscribeContext},
    },
    telemetry::{Certificate, Metrics, Traces},
    tenant::Tenants,
    transport::{Services, ops::Readiness},
};

/// The components that serve and are watched.
pub(super) struct Parts {
    pub(super) memory: TenantBudgets,
    pub(super) metrics: Metrics,
    pub(super) traces: Traces,
    pub(super) store: Store,
    pub(super) audit: Audit,
    pub(super) audit_writer: AuditWriter,
    pub(super) issuer: Arc<Issuer>,
    pub(super) first_administrator: Option<(ClientId, SecretString)>,
    pub(super) tenants: Arc<Tenants>,
    pub(super) authority_files: Watched,
    pub(super) certificates: Arc<TenantCertificates>,
    pub(super) broker: Broker,
    pub(super) provisioner: Arc<Provisioner>,
    pub(super) inspector: Arc<Inspector>,
}

impl Parts {
    pub(super) async fn create(config: &Config) -> Result<Self, Error> {
        let memory = TenantBudgets::new(MemoryBudget::of_gateway(
            config.limits.max_buffered_bytes,
            config.limits.max_message_bytes,
        ));
        let metrics = Metrics::new(pb::method_paths());
        let store = Store::open(&config.store.url, EncryptionKey::parse(&config.store.encryption_key)?).await?;
        let store = store.timed_by(Arc::clone(metrics.process().store()));
        let (audit, audit_writer) = Audit::new(store.clone(), &config.audit);
        let issuer = Arc::new(Issuer::start(store.clone(), &config.auth).await?);
        let first_administrator = Issuer::bootstrap_admin(&store).await?;
        let tenants = Tenants::load(store.clone(), REGISTRY_POLL).await?;
        let tenants = Arc::new(tenants.with_outage_grace(config.store.outage_grace));

        // Before the authority is read, so that no change is missed.
        let authority_files = Watched::new([config.broker.ca_certificate.clone(), config.broker.ca_key.clone()]);
        let authority = Authority::load(&config.broker.ca_certificate, &config.broker.ca_key)
            .map_err(|error| Error::Authority(error, config.broker.ca_certificate.clone()))?;
        let certificates = Arc::new(TenantCertificates::new(Arc::new(authority), config.broker.certificate_lifetime));
        let broker = Broker::new(config.broker.clone(), Arc::clone(&certificates), Arc::clone(metrics.process()))?;
        let provisioner = Arc::new(Provisioner::new(&config.management, &config.broker.ca_certificate)?);
        let inspector = Arc::new(Inspector::new(&config.management, &config.broker.ca_certificate, memory.gateway())?);
        let traces = Traces::start(&config.telemetry.traces)?;
        Ok(Self {
            memory,
            metrics,
            traces,
            store,
            audit,
            audit_writer,
            issuer,
            first_administrator,
            tenants,
            authority_files,
            certificates,
            broker,
            provisioner,
            inspector,
        })
    }

    /// The gRPC services.
    pub(super) fn services(
        &self,
        config: &Config,
        drain: &Drain,
        readiness: &Readiness,
        entry: &GatewayEntry,
    ) -> Services {
        let open_streams = OpenStreams::default();
        let session = SessionContext {
            verifier: self.issuer.verifier(),
            warn_before: config.auth.warn_before_expiry,
            drain: drain.clone(),
            open_streams: open_streams.clone(),
            metrics: self.metrics.clone(),
            traces: self.traces.clone(),
            max_body_bytes: config.limits.max_message_bytes as u64,
            memory: self.memory.clone(),
        };
        let policies = Policies::new(Arc::clone(&self.inspector));
        let subscribe = SubscribeContext {
            broker: self.broker.clone(),
            inspector: Arc::clone(&self.inspector),
            policies: policies.clone(),
            heartbeat_interval: config.limits.heartbeat_interval,
            memory: self.memory.clone(),
        };
        Services {
            messaging: MessagingService::new(Arc::clone(&self.tenants), session.clone(), subscribe),
            topology: TopologyService::new(
                Arc::clone(&self.tenants),
                self.broker.clone(),
                Arc::clone(&self.inspector),
                policies,
                session,
            ),
            auth: AuthService::new(Arc::clone(&self.issuer), Arc::clone(&self.tenants)),
            admin: AdminService::new(
                self.store.clone(),
                Arc::clone(&self.tenants),
                Arc::clone(&self.provisioner),
                self.broker.clone(),
                self.audit.clone(),
                Arc::clone(&self.issuer),
                self.state(config, drain, readiness, entry, open_streams),
            ),
            verifier: self.issuer.verifier(),
            audit: self.audit.clone(),
            traces: self.traces.clone(),
            metrics: Arc::clone(self.metrics.process()),
            memory: self.memory.clone(),
        }
    }

    /// What `GetStatus` reports of this gateway.
    fn state(
        &self,
        config: &Config,
        drain: &Drain,
        readiness: &Readiness,
        entry: &GatewayEntry,
        open_streams: OpenStreams,
    ) -> GatewayState {
        let (readiness, config, certificates) = (readiness.clone(), config.clone(), Arc::clone(&self.certificates));
        GatewayState {
            calls_per_second_per_tenant: config.limits.admin_calls_per_second_per_tenant,
            id: entry.id,
            version: entry.version.clone(),
            started: entry.started,
            drain: drain.clone(),
            open_streams,
            memory: self.memory.clone(),
            not_ready: Box::new(move || readiness.waiting()),
            certificates: Box::new(move || {
                let ends = certificate_ends(&config, &certificates);
                ends.into_iter().filter_map(|(which, end)| Some((which.as_str(), end?))).collect()
            }),
        }
    }

    /// Registers metrics that are cheaper to read at each scrape than to update continuously.
    pub(super) fn watch_metrics(&self, config: &Config) {
        let (issuer, tenants) = (Arc::clone(&self.issuer), Arc::clone(&self.tenants));
        let (traces, memory) = (self.traces.clone(), self.memory.gateway().clone());
        let (certificates, config) = (Arc::clone(&self.certificates), config.clone());
        self.metrics.before_each_reading(move |metrics| {
            let process = metrics.process();
            // Files are renewed while the gateway runs.
            for (which, end) in certificate_ends(&config, &certificates) {
                match end {
                    Some(end) => process.certificate_ends(which, end),
                    None => process.certificate_removed(which),
                }
            }
            let (running, waiting) = issuer.secret_checks();
            process.secret_checks(running, waiting);
            process.spans_dropped(traces.dropped());
            process.buffered(memory.used(), memory.limit());
            metrics.retain_tenants(|tenant| tenants.knows(tenant));
        });
    }
}

/// What this run of the gateway records of itself in the store.
pub(super) fn entry(grpc: SocketAddr) -> GatewayEntry {
    GatewayEntry {
        id: uuid::Uuid::now_v7(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: record::host_name(),
        grpc_address: grpc.to_string(),
        started: SystemTime::now(),
    }
}

/// When certificates expire: those in files, where they can be read (errors are reported where the files are used), the
/// broker's authority, the second one that is trusted during a rotation, and the tenants' certificates. `None` for the
/// second authority when none is configured.
fn certificate_ends(config: &Config, tenants: &TenantCertificates) -> Vec<(Certificate, Option<SystemTime>)> {
    let files = [
        (Certificate::Gateway, Some(&config.grpc.certificate)),
        (Certificate::Ops, config.ops.certificate.as_ref()),
        (Certificate::Console, config.console.certificate.as_ref()),
        (Certificate::Provisioner, Some(&config.management.certificate)),
    ];
    let mut ends = Vec::new();
    for (which, file) in files {
        let read = file.and_then(|file| std::fs::read_to_string(file).ok());
        if let Some(Ok(certificate)) = read.as_deref().map(pki::inspect) {
            ends.push((which, Some(certificate.not_after())));
        }
    }
    let authority = tenants.authority();
    ends.push((Certificate::BrokerCa, Some(authority.inspection().not_after())));
    let beside = authority.trusted_der().get(1).map(|beside| pki::inspect_der(beside));
    ends.push((Certificate::AlsoTrustedBrokerCa, beside.and_then(Result::ok).map(|beside| beside.not_after())));
    ends.extend(tenants.earliest_end().map(|end| (Certificate::Tenants, Some(end))));
    ends
}
