//! Private RabbitMQ nodes as child processes, alone or as a cluster.
//!
//! A node has its own name, cookie, epmd, ports, data and logs. It listens on the loopback address only, never touches
//! the system's RabbitMQ, and does not outlive this process, even if this process is killed.

mod cluster;
mod control;
mod epmd;
mod explain;
mod guard;
mod install;
mod layout;
mod options;
mod ports;
mod private;
mod process;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

pub use cluster::{Cluster, ClusterOptions};
pub use guard::Guard;
pub use install::Installation;
pub use options::{NodeFiles, NodeOptions, Progress};
pub use private::Node;

/// How to install RabbitMQ on this system.
const HOW_TO_INSTALL: &str = if cfg!(target_os = "macos") {
    "brew install rabbitmq"
} else {
    "\"sudo apt-get install rabbitmq-server\" on Debian and Ubuntu, \"sudo dnf install rabbitmq-server\" on Fedora, \
     or https://www.rabbitmq.com/docs/download"
};

/// Why a private broker did not start or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `rabbitmq-server` was not found.
    #[error("RabbitMQ is not installed (rabbitmq-server was not found). Install it: {HOW_TO_INSTALL}")]
    NotInstalled,
    /// The path given is neither an installation nor a start script.
    #[error("{} is not a RabbitMQ installation: use the folder that contains sbin/rabbitmq-server, or the script itself", .0.display())]
    NoSuchInstallation(PathBuf),
    /// Erlang's port mapper is missing.
    #[error("epmd, which is part of Erlang, was not found. Install RabbitMQ with its Erlang: {HOW_TO_INSTALL}")]
    NoEpmd,
    /// The port is in use.
    #[error("port {port} ({purpose}) is used by another program. Stop it, or choose another port")]
    PortTaken {
        /// The port.
        port: u16,
        /// What it is needed for.
        purpose: &'static str,
    },
    /// There is no free port.
    #[error("no free port was found on this machine")]
    NoFreePort,
    /// Another process runs a node in the same folder.
    #[error("another process is using {}. Stop it, or choose another folder", .0.display())]
    InUse(PathBuf),
    /// The broker exited before it was ready.
    #[error("the broker exited during start-up. From its log ({}):\n{lines}", log.display())]
    Stopped {
        /// Its log.
        log: PathBuf,
        /// The relevant lines.
        lines: String,
    },
    /// The broker was not ready in time.
    #[error("the broker was not ready after {} s. From its log ({}):\n{lines}", after.as_secs(), log.display())]
    TooSlow {
        /// The time limit.
        after: Duration,
        /// Its log.
        log: PathBuf,
        /// The relevant lines.
        lines: String,
    },
    /// The broker does not run.
    #[error("the broker is not running")]
    NotRunning,
    /// Another process started the broker, and it alone can stop it.
    #[error("the broker in {} belongs to another process, which alone can stop or restart it", .0.display())]
    OfAnotherProcess(PathBuf),
    /// A file of the node's folder.
    #[error("cannot {act} {}", path.display())]
    File {
        /// The attempted action: "read", "write" …
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// `rabbitmqctl` failed.
    #[error("rabbitmqctl {what} failed: {why}")]
    Control {
        /// Its arguments.
        what: String,
        /// Its error output.
        why: String,
    },
    /// A process could not be started or signalled.
    #[error("cannot {act}")]
    Process {
        /// The attempted action: "start epmd" …
        act: &'static str,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    fn file(act: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { act, path: path.to_owned(), source }
    }

    fn process(act: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Process { act, source }
    }
}
