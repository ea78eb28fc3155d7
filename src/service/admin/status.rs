//! The state of this gateway, the broker and the store, in one response. The response reports a component that cannot
//! be reached; the call does not fail.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use uuid::Uuid;

use super::{context::AdminContext, error::Error, fields::timestamp};
use crate::{
    error::{Classify, Failure},
    memory::TenantBudgets,
    pb,
    provision::{BrokerState, NodeState},
    store::{self, GatewayRow},
    stream::{drain::Drain, open_streams::OpenStreams},
    tenant::Administrator,
};

/// How long the store may take before it counts as unreachable.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the broker may take: the management client tries several endpoints.
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of the gateway that only its composition root can read.
pub struct GatewayState {
    /// Administrative calls of a tenant's own clients per second.
    pub calls_per_second_per_tenant: u32,
    /// Identifies this run of the gateway.
    pub id: Uuid,
    /// Its version.
    pub version: String,
    /// When it started.
    pub started: SystemTime,
    /// The state of its shutdown.
    pub drain: Drain,
    /// Its open streams.
    pub open_streams: OpenStreams,
    /// Its memory.
    pub memory: TenantBudgets,
    /// Why it is not ready; empty when it is.
    pub not_ready: Box<dyn Fn() -> Vec<&'static str> + Send + Sync>,
    /// The expiry of its certificates, by use.
    pub certificates: Box<dyn Fn() -> Vec<(&'static str, SystemTime)> + Send + Sync>,
}

impl std::fmt::Debug for GatewayState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayState").field("id", &self.id).finish_non_exhaustive()
    }
}

pub(super) async fn get(
    context: Arc<AdminContext>,
    _who: Administrator,
    _request: pb::GetStatusRequest,
) -> Result<pb::GetStatusResponse, Error> {
    let gateway = Arc::clone(&context.gateway);
    let (broker, (store, gateways)) = tokio::join!(broker(&context), store(&context));
    let not_ready: Vec<_> = (gateway.not_ready)().into_iter().map(str::to_owned).collect();
    let mut certificates: Vec<_> = (gateway.certificates)()
        .into_iter()
        .map(|(what, end)| pb::CertificateStatus { r#use: what.to_owned(), expires: timestamp(end) })
        .collect();
    certificates.sort_by(|a, b| a.r#use.cmp(&b.r#use));
    Ok(pb::GetStatusResponse {
        gateway: gateway.id.simple().to_string(),
        version: gateway.version.clone(),
        started: timestamp(gateway.started),
        ready: not_ready.is_empty(),
        not_ready,
        draining: gateway.drain.is_begun(),
        open_streams: u32::try_from(gateway.open_streams.len()).unwrap_or(u32::MAX),
        broker: Some(broker),
        store: Some(store),
        certificates,
        gateways,
    })
}

/// The state of the store, and the gateways that it has.
async fn store(context: &AdminContext) -> (pb::StoreStatus, Vec<pb::GatewayStatus>) {
    let began = Instant::now();
    let answer = tokio::time::timeout(STORE_TIMEOUT, async {
        context.store.ready().await?;
        let latency = began.elapsed();
        Ok::<_, store::Error>((latency, context.store.gateways().await?))
    });
    let kind = context.store.kind().to_owned();
    let failure = match answer.await {
        Ok(Ok((latency, rows))) => {
            let status =
                pb::StoreStatus { kind, reachable: true, latency: latency.try_into().ok(), failure: String::new() };
            return (status, rows.into_iter().map(|row| gateway(row, &context.gateway.version)).collect());
        }
        Ok(Err(error)) => sentence(&error),
        Err(_) => "STORE_UNAVAILABLE: the gateway's database did not answer within 2 s".to_owned(),
    };
    (pb::StoreStatus { kind, reachable: false, latency: None, failure }, Vec::new())
}

fn gateway(row: GatewayRow, own_version: &str) -> pb::GatewayStatus {
    let GatewayRow { entry, last_seen, is_seen } = row;
    pb::GatewayStatus {
        gateway: entry.id.simple().to_string(),
        version_differs: entry.version != own_version,
        version: entry.version,
        host: entry.host,
        grpc_address: entry.grpc_address,
        started: timestamp(entry.started),
        last_seen: timestamp(last_seen),
        not_seen: !is_seen,
    }
}

async fn broker(context: &AdminContext) -> pb::BrokerStatus {
    let failure = match tokio::time::timeout(BROKER_TIMEOUT, context.provisioner.broker_state()).await {
        Ok(Ok(state)) => return to_proto(state),
        Ok(Err(error)) => sentence(&error),
        Err(_) => "BROKER_ADMIN_UNAVAILABLE: the broker's management API did not answer within 5 s".to_owned(),
    };
    pb::BrokerStatus { failure, ..pb::BrokerStatus::default() }
}

/// `CODE: sentence`.
pub(super) fn sentence(error: &impl Classify) -> String {
    Failure::new(error.kind(), error.reason(), error.message()).to_string()
}

fn to_proto(state: BrokerState) -> pb::BrokerStatus {
    let BrokerState { version, erlang_version, cluster_name, collects_statistics, nodes } = state;
    let nodes = nodes.into_iter().map(node).collect();
    let (reachable, failure) = (true, String::new());
    pb::BrokerStatus { reachable, failure, version, erlang_version, cluster_name, collects_statistics, nodes }
}

fn node(node: NodeState) -> pb::BrokerNode {
    pb::BrokerNode {
        name: node.name,
        running: node.is_running,
        memory_alarm: node.has_memory_alarm,
        disk_alarm: node.has_disk_alarm,
        memory_used_bytes: node.memory_used,
        memory_limit_bytes: node.memory_limit,
        disk_free_bytes: node.disk_free,
        disk_free_limit_bytes: node.disk_free_limit,
        uptime: node.uptime.try_into().ok(),
        partitions: node.partitions,
    }
}
