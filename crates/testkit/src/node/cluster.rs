//! A private cluster: several nodes that form one broker. Each can be killed, paused and restarted separately.
//!
//! The nodes share one cookie and one private epmd; the system's are not touched.

use std::{fs, path::PathBuf};

use futures_util::future::{join_all, try_join_all};
use serde_json::Value;

use super::{
    Error, Installation, Node, NodeOptions, epmd,
    layout::{new_cookie, read_or_create},
    private::Member,
};

/// How to run a private cluster.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Options of each node; `dir` is the folder in which each has its own. The ports are free ones.
    pub node: NodeOptions,
    /// How many nodes; at least one.
    pub size: usize,
}

impl ClusterOptions {
    /// Three nodes with these options.
    pub fn new(node: NodeOptions) -> Self {
        Self { node, size: 3 }
    }
}

/// A running cluster. Dropping it kills every node at once; [`Cluster::stop`] stops it in order.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    // Declared after the nodes, which would otherwise start separate epmds.
    _epmd: epmd::SharedEpmd,
}

impl Cluster {
    /// Starts the first node, and then the others, which join it. Returns when all accept AMQPS.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start(options: ClusterOptions) -> Result<Self, Error> {
        let ClusterOptions { node, size } = options;
        let dir: PathBuf = node.dir.clone();
        fs::create_dir_all(&dir).map_err(Error::file("create", &dir))?;
        let installation = Installation::find(node.installation.as_deref())?;
        let cookie = read_or_create(&dir.join("cookie"), new_cookie)?;
        let epmd = epmd::SharedEpmd::start(&installation, &dir).await?;
        let of = |index: usize| NodeOptions {
            dir: dir.join(format!("node-{}", index + 1)),
            amqps_port: None,
            management_port: None,
            ..node.clone()
        };
        let member = |seed| Member { cookie: cookie.clone(), epmd: epmd.address(), seed };
        let first = Node::start_as(of(0), Some(member(None))).await?;
        let seed = first.name().to_owned();
        let others = (1..size).map(|index| Node::start_as(of(index), Some(member(Some(seed.clone())))));
        let mut nodes = vec![first];
        nodes.extend(try_join_all(others).await?);
        Ok(Self { nodes, _epmd: epmd })
    }

    /// All nodes, running or not, in the order in which they were started.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The leader of a quorum queue or stream, according to any running node; `None` if the queue does not exist or has
    /// no leader.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn leader_of(&self, vhost: &str, queue: &str) -> Result<Option<&Node>, Error> {
        let mut last = Error::NotRunning;
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            let arguments = ["-t", "10", "-p", vhost, "list_queues", "name", "leader", "--formatter", "json"];
            match node.control(&arguments).await {
                Ok(answer) => return Ok(self.nodes.iter().find(|node| leads(&answer, queue, node.name()))),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Stops all running nodes in an orderly way, at the same time.
    ///
    /// # Errors
    /// As [`Node::stop`].
    pub async fn stop(self) -> Result<(), Error> {
        join_all(self.nodes.iter().map(Node::stop)).await.into_iter().collect()
    }
}

fn leads(answer: &str, queue: &str, node: &str) -> bool {
    let queues: Value = serde_json::from_str(answer).unwrap_or_default();
    queues.as_array().is_some_and(|all| all.iter().any(|one| one["name"] == queue && one["leader"] == node))
}
