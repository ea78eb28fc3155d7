//! A private RabbitMQ as a child process, for `warrengate dev`, tests and benches. A folder and certificates enter; a broker
//! that accepts AMQPS leaves, with a name, cookie, epmd, ports, data and logs of its own. Invariants: it listens on loopback
//! only, it never touches the system's node, and nothing of it outlives this process, not even when this process is killed.

mod account;
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

use std::{borrow::Cow, path::PathBuf, time::Duration};

pub use account::{Account, DEFINITIONS_FILE, PASSWORD_FILE};
pub use cluster::{Cluster, ClusterOptions};
pub use guard::Guard;
pub use install::Installation;
pub use options::{NodeOptions, Progress};
pub use private::Node;

use crate::error::{Classify, Kind};

/// How to get RabbitMQ here.
const HOW_TO_INSTALL: &str = if cfg!(target_os = "macos") {
    "brew install rabbitmq"
} else {
    "\"sudo apt-get install rabbitmq-server\" on Debian and Ubuntu, \"sudo dnf install rabbitmq-server\" on Fedora, \
     or https://www.rabbitmq.com/docs/download"
};

/// Why there is no private broker.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No `rabbitmq-server` was found.
    #[error("RabbitMQ is not installed here (no rabbitmq-server found). Install it: {HOW_TO_INSTALL}")]
    NotInstalled,
    /// The path given is neither an installation nor a start script.
    #[error("{} is no RabbitMQ: give the folder that holds sbin/rabbitmq-server, or the script itself", .0.display())]
    NoSuchInstallation(PathBuf),
    /// Erlang's port mapper is missing.
    #[error(
        "epmd, a part of Erlang, was not found beside erl or in PATH. Install RabbitMQ with its Erlang: {HOW_TO_INSTALL}"
    )]
    NoEpmd,
    /// Somebody else listens there.
    #[error("port {port} ({purpose}) is taken by another program. Stop it, or choose another port")]
    PortTaken {
        /// The port.
        port: u16,
        /// What it was wanted for.
        purpose: &'static str,
    },
    /// No free port was found.
    #[error("no free port was found on this machine")]
    NoFreePort,
    /// Another process runs a node in the same folder.
    #[error("another warrengate is using {}. Stop it, or choose another folder", .0.display())]
    InUse(PathBuf),
    /// The broker ended before it was ready.
    #[error("the broker stopped while starting. It said ({}):\n{said}", log.display())]
    Stopped {
        /// Its log.
        log: PathBuf,
        /// What it said about it.
        said: String,
    },
    /// The broker was not ready in time.
    #[error("the broker was not ready after {} s. It said ({}):\n{said}", after.as_secs(), log.display())]
    TooSlow {
        /// How long it was waited for.
        after: Duration,
        /// Its log.
        log: PathBuf,
        /// What it said about it.
        said: String,
    },
    /// Nothing is running that could be paused or asked.
    #[error("the broker is not running")]
    NotRunning,
    /// A file of the node's folder.
    #[error("cannot {act} {}", path.display())]
    File {
        /// "read", "write" …
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// `rabbitmqctl` did not do it.
    #[error("rabbitmqctl {what} failed: {why}")]
    Control {
        /// What it was told.
        what: String,
        /// What it said.
        why: String,
    },
    /// A secret could not be written.
    #[error(transparent)]
    Pki(#[from] crate::pki::Error),
    /// A process could not be started or reached.
    #[error("cannot {act}")]
    Process {
        /// "start epmd" …
        act: &'static str,
        /// The system's reason.
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

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::NotInstalled | Self::NoSuchInstallation(_) | Self::NoEpmd | Self::PortTaken { .. } => {
                Kind::Precondition
            }
            Self::InUse(_) | Self::NotRunning => Kind::Precondition,
            Self::NoFreePort | Self::Stopped { .. } | Self::TooSlow { .. } | Self::Control { .. } => Kind::Unavailable,
            Self::Pki(error) => error.kind(),
            Self::File { .. } | Self::Process { .. } => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotInstalled | Self::NoSuchInstallation(_) => "BROKER_NOT_INSTALLED",
            Self::NoEpmd => "EPMD_NOT_INSTALLED",
            Self::PortTaken { .. } => "PORT_TAKEN",
            Self::NoFreePort => "NO_FREE_PORT",
            Self::InUse(_) => "NODE_IN_USE",
            Self::Stopped { .. } => "BROKER_STOPPED",
            Self::TooSlow { .. } => "BROKER_TOO_SLOW",
            Self::NotRunning => "BROKER_NOT_RUNNING",
            Self::Control { .. } => "BROKER_CONTROL",
            Self::File { .. } => "NODE_FILE",
            Self::Pki(error) => error.reason(),
            Self::Process { .. } => "NODE_PROCESS",
        }
    }

    fn message(&self) -> Cow<'static, str> {
        // Only ever shown to whoever runs the node, at a terminal.
        self.to_string().into()
    }
}
