//! `warrengate status`: the state of a gateway, the broker and the store, for platform administrators.

use serde_json::{Value, json};

use super::{
    Error, Output,
    connection::{ADMINISTRATION, ConnectionArgs},
    json,
    output::{properties, table},
    plan::limits::amount,
};
use crate::pb;

const EXAMPLES: &str = "\
Examples:
  warrengate status
  warrengate status --json
  warrengate status --endpoint https://gateway-2.example.com:8443

With several gateways, the state is that of the one that answers, and all are listed. Exits with 1 unless it is ready.";

/// The flags of `status`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let mut admin = args.connection.connect(ADMINISTRATION).await?.admin();
    let status = admin.get_status(pb::GetStatusRequest {}).await?.into_inner();
    output.result(|| object(&status), || text(&status))?;
    match status.ready {
        true => Ok(()),
        false => Err(Error::Failed(format!("the gateway is not ready: {}", status.not_ready.join(", ")))),
    }
}

fn object(status: &pb::GetStatusResponse) -> Value {
    let (broker, store) = (status.broker.clone().unwrap_or_default(), status.store.clone().unwrap_or_default());
    let node = |node: &pb::BrokerNode| {
        json!({
            "name": node.name,
            "running": node.running,
            "memory_alarm": node.memory_alarm,
            "disk_alarm": node.disk_alarm,
            "memory_used_bytes": node.memory_used_bytes,
            "memory_limit_bytes": node.memory_limit_bytes,
            "disk_free_bytes": node.disk_free_bytes,
            "disk_free_limit_bytes": node.disk_free_limit_bytes,
            "uptime": json::length(node.uptime),
            "partitions": node.partitions,
        })
    };
    let certificate = |it: &pb::CertificateStatus| json!({"use": it.r#use, "expires": json::time(it.expires)});
    let gateway = |it: &pb::GatewayStatus| {
        json!({
            "gateway": it.gateway,
            "version": it.version,
            "version_differs": it.version_differs,
            "host": it.host,
            "grpc_address": it.grpc_address,
            "started": json::time(it.started),
            "last_seen": json::time(it.last_seen),
            "not_seen": it.not_seen,
        })
    };
    json!({
        "gateway": status.gateway,
        "version": status.version,
        "started": json::time(status.started),
        "ready": status.ready,
        "not_ready": status.not_ready,
        "draining": status.draining,
        "open_streams": status.open_streams,
        "broker": {
            "reachable": broker.reachable,
            "failure": broker.failure,
            "version": broker.version,
            "erlang_version": broker.erlang_version,
            "cluster_name": broker.cluster_name,
            "collects_statistics": broker.collects_statistics,
            "nodes": broker.nodes.iter().map(node).collect::<Vec<_>>(),
        },
        "store": {
            "kind": store.kind,
            "reachable": store.reachable,
            "failure": store.failure,
            "latency": json::length(store.latency),
        },
        "certificates": status.certificates.iter().map(certificate).collect::<Vec<_>>(),
        "gateways": status.gateways.iter().map(gateway).collect::<Vec<_>>(),
    })
}

fn text(status: &pb::GetStatusResponse) -> String {
    let (broker, store) = (status.broker.clone().unwrap_or_default(), status.store.clone().unwrap_or_default());
    let ready = match (status.ready, status.draining) {
        (_, true) => "no: stopping".to_owned(),
        (true, _) => "yes".to_owned(),
        (false, _) => format!("no: {}", status.not_ready.join(", ")),
    };
    let statistics = if broker.collects_statistics { "" } else { ", collects no statistics" };
    let broker_text = match broker.reachable {
        true => format!("RabbitMQ {}, Erlang {}{statistics}", broker.version, broker.erlang_version),
        false => broker.failure.clone(),
    };
    let store_text = match store.reachable {
        true => format!("{}, answers in {}", store.kind, json::length(store.latency).unwrap_or_default()),
        false => format!("{}: {}", store.kind, store.failure),
    };
    let head = properties([
        ("gateway", status.gateway.clone()),
        ("version", status.version.clone()),
        ("started", json::time(status.started).unwrap_or_default()),
        ("ready", ready),
        ("open streams", status.open_streams.to_string()),
        ("broker", broker_text),
        ("store", store_text),
    ]);
    let node = |node: &pb::BrokerNode| {
        let alarms = [(node.memory_alarm, "memory"), (node.disk_alarm, "disk")];
        let alarms: Vec<_> = alarms.iter().filter(|(raised, _)| *raised).map(|(_, name)| *name).collect();
        [
            node.name.clone(),
            if node.running { "running".to_owned() } else { "NOT RUNNING".to_owned() },
            if alarms.is_empty() { "none".to_owned() } else { alarms.join(", ") },
            format!("{} of {}", amount(node.memory_used_bytes), amount(node.memory_limit_bytes)),
            amount(node.disk_free_bytes),
            node.partitions.join(", "),
        ]
    };
    let nodes =
        table(["node", "state", "alarms", "memory", "disk free", "partitioned from"], broker.nodes.iter().map(node));
    let certificate = |it: &pb::CertificateStatus| [it.r#use.clone(), json::time(it.expires).unwrap_or_default()];
    let certificates = table(["certificate", "expires"], status.certificates.iter().map(certificate));
    let gateway = |it: &pb::GatewayStatus| {
        [
            it.gateway.clone(),
            it.host.clone(),
            it.grpc_address.clone(),
            if it.version_differs { format!("{} (DIFFERS)", it.version) } else { it.version.clone() },
            json::time(it.started).unwrap_or_default(),
            match it.not_seen {
                true => format!("NOT SEEN since {}", json::time(it.last_seen).unwrap_or_default()),
                false => "running".to_owned(),
            },
        ]
    };
    let gateways =
        table(["gateway", "host", "grpc address", "version", "started", "state"], status.gateways.iter().map(gateway));
    format!("{head}\n\n{gateways}\n\n{nodes}\n\n{certificates}")
}
