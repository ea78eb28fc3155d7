//! Options of a private broker.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

/// The files of the broker's identity, which must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFiles {
    /// The authority of clients and of other nodes: PEM certificates.
    pub authority: PathBuf,
    /// The broker's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Definitions that the broker loads when it starts, with at least one administrator.
    pub definitions: PathBuf,
}

/// Receives progress messages for people.
pub type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// How to run a private broker. Begin with [`NodeOptions::new`] and change what differs.
#[derive(Clone)]
pub struct NodeOptions {
    /// The node's folder: data, logs, cookie, generated configuration. It is created if it does not exist.
    pub dir: PathBuf,
    /// Certificates and definitions.
    pub files: NodeFiles,
    /// The AMQPS port on loopback; `None` for any free one.
    pub amqps_port: Option<u16>,
    /// The management port on loopback; `None` for any free one.
    pub management_port: Option<u16>,
    /// A RabbitMQ installation other than the system's: see [`Installation::find`](super::Installation::find).
    pub installation: Option<PathBuf>,
    /// Lines to append to the broker's configuration, for tests of limits and alarms.
    pub extra_config: String,
    /// How long starting may take.
    pub start_within: Duration,
    /// How long an orderly stop may take before the broker is killed.
    pub stop_within: Duration,
    /// Receives progress messages.
    pub progress: Progress,
}

impl NodeOptions {
    /// A node in this folder with these files, on free ports, without progress messages.
    pub fn new(dir: impl Into<PathBuf>, files: NodeFiles) -> Self {
        Self {
            dir: dir.into(),
            files,
            amqps_port: None,
            management_port: None,
            installation: None,
            extra_config: String::new(),
            start_within: Duration::from_secs(90),
            stop_within: Duration::from_secs(20),
            progress: Arc::new(|_| {}),
        }
    }
}

impl fmt::Debug for NodeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeOptions")
            .field("dir", &self.dir)
            .field("files", &self.files)
            .field("amqps_port", &self.amqps_port)
            .field("management_port", &self.management_port)
            .field("installation", &self.installation)
            .finish_non_exhaustive()
    }
}
