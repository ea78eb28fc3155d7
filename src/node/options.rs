//! What a private broker can be told.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use crate::pki::CertsDir;

/// Hears short lines about what is going on, for people.
pub type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// How to run a private broker. Begin with [`NodeOptions::new`] and change what differs.
#[derive(Clone)]
pub struct NodeOptions {
    /// Everything of the node's own lies here: data, logs, cookie, generated configuration. Made when missing.
    pub dir: PathBuf,
    /// Certificates, and the provisioner's account. Must have been ensured.
    pub certs: CertsDir,
    /// The AMQPS port on loopback; `None` for any free one.
    pub amqps_port: Option<u16>,
    /// The management port on loopback; `None` for any free one.
    pub management_port: Option<u16>,
    /// A RabbitMQ other than the one installed: see [`Installation::find`](super::Installation::find).
    pub installation: Option<PathBuf>,
    /// Lines for the end of the broker's configuration: for tests of limits and alarms.
    pub extra_config: String,
    /// How long a start may take.
    pub start_within: Duration,
    /// How long an orderly stop may take before the broker is killed.
    pub stop_within: Duration,
    /// Hears what is going on.
    pub progress: Progress,
}

impl NodeOptions {
    /// A node in this folder with these certificates, on free ports, silent.
    pub fn new(dir: impl Into<PathBuf>, certs: CertsDir) -> Self {
        Self {
            dir: dir.into(),
            certs,
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
            .field("certs", &self.certs)
            .field("amqps_port", &self.amqps_port)
            .field("management_port", &self.management_port)
            .field("installation", &self.installation)
            .finish_non_exhaustive()
    }
}
