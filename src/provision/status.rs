//! The state of the broker's nodes, as the management API reports it.

use std::time::Duration;

use serde_json::Value;

use super::{Error, Provisioner};

/// The state of the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerState {
    /// The version of RabbitMQ on the node that answered.
    pub version: String,
    /// The version of Erlang on it.
    pub erlang_version: String,
    /// The cluster's name.
    pub cluster_name: String,
    /// Whether statistics are collected.
    pub collects_statistics: bool,
    /// The nodes, by name.
    pub nodes: Vec<NodeState>,
}

/// The state of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub is_running: bool,
    /// Whether it blocks publishers because of a memory alarm.
    pub has_memory_alarm: bool,
    /// Whether it blocks publishers because of a disk alarm.
    pub has_disk_alarm: bool,
    /// Bytes of memory in use.
    pub memory_used: u64,
    /// Bytes of memory in use that cause an alarm.
    pub memory_limit: u64,
    /// Free bytes on its disk.
    pub disk_free: u64,
    /// Free bytes that cause an alarm.
    pub disk_free_limit: u64,
    /// How long it has been running.
    pub uptime: Duration,
    /// Nodes that it is partitioned from.
    pub partitions: Vec<String>,
}

impl Provisioner {
    /// The state of the broker's nodes.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn broker_state(&self) -> Result<BrokerState, Error> {
        let (overview, nodes) = tokio::try_join!(self.client().overview(), self.client().nodes())?;
        Ok(read(&overview, &nodes))
    }
}

fn read(overview: &Value, nodes: &[Value]) -> BrokerState {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut nodes: Vec<_> = nodes.iter().map(node).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    BrokerState {
        version: text(&overview["rabbitmq_version"]),
        erlang_version: text(&overview["erlang_version"]),
        cluster_name: text(&overview["cluster_name"]),
        collects_statistics: overview["disable_stats"] != true,
        nodes,
    }
}

fn node(row: &Value) -> NodeState {
    let flag = |key: &str| row[key].as_bool().unwrap_or_default();
    let number = |key: &str| row[key].as_u64().unwrap_or_default();
    let partitions = row["partitions"].as_array().map(Vec::as_slice).unwrap_or_default();
    NodeState {
        name: row["name"].as_str().unwrap_or_default().to_owned(),
        is_running: flag("running"),
        has_memory_alarm: flag("mem_alarm"),
        has_disk_alarm: flag("disk_free_alarm"),
        memory_used: number("mem_used"),
        memory_limit: number("mem_limit"),
        disk_free: number("disk_free"),
        disk_free_limit: number("disk_free_limit"),
        uptime: Duration::from_millis(number("uptime")),
        partitions: partitions.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_that_does_not_run_has_no_figures_and_an_alarm_is_shown() {
        let overview = json!({"rabbitmq_version": "4.3.6", "erlang_version": "29", "disable_stats": true});
        let nodes = [
            json!({"name": "rabbit@b", "running": false}),
            json!({"name": "rabbit@a", "running": true, "mem_alarm": true, "mem_used": 7, "uptime": 2_000,
                   "partitions": ["rabbit@b"]}),
        ];
        let state = read(&overview, &nodes);
        assert!(!state.collects_statistics && state.version == "4.3.6");
        let first = NodeState {
            name: "rabbit@a".into(),
            is_running: true,
            has_memory_alarm: true,
            memory_used: 7,
            uptime: Duration::from_secs(2),
            partitions: vec!["rabbit@b".into()],
            ..NodeState::default()
        };
        assert_eq!(state.nodes, [first, NodeState { name: "rabbit@b".into(), ..NodeState::default() }]);
    }
}
