//! The node's folder: the files that RabbitMQ reads, and the environment variables that point to them.
//!
//! The base configuration is `broker-config/`, unchanged. What differs for a private node is in an overlay that
//! RabbitMQ reads after it.

use std::{
    ffi::OsString,
    fs,
    fs::File,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rand::Rng as _;

use super::{Error, NodeOptions};

const BASE: &str = include_str!("../../../../broker-config/rabbitmq.conf");
const ADVANCED: &str = include_str!("../../../../broker-config/advanced.config");
const PLUGINS: &str = include_str!("../../../../broker-config/enabled_plugins");
/// The file with the Erlang node's name.
const NAME: &str = "node-name";
/// The file with the ports, for other processes that use the node.
const PORTS: &str = "ports";

/// The ports of a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) amqps: u16,
    pub(super) management: u16,
    /// The private epmd, Erlang's port mapper.
    pub(super) epmd: u16,
    /// Distribution, between Erlang nodes.
    pub(super) distribution: u16,
    /// The first of six for the command-line tools.
    pub(super) tools: u16,
}

impl Ports {
    fn to_text(self) -> String {
        let Self { amqps, management, epmd, distribution, tools } = self;
        format!("{amqps} {management} {epmd} {distribution} {tools}\n")
    }

    fn from_text(text: &str) -> Option<Self> {
        let ports: Vec<u16> = text.split_whitespace().map_while(|port| port.parse().ok()).collect();
        let [amqps, management, epmd, distribution, tools] = ports[..] else { return None };
        Some(Self { amqps, management, epmd, distribution, tools })
    }
}

/// A node's folder.
#[derive(Debug)]
pub(super) struct Layout {
    dir: PathBuf,
    name: String,
    /// The system releases the lock when this process ends. `None` for a node of another process.
    _lock: Option<File>,
}

impl Layout {
    /// The folder and the ports of a node that another process runs.
    pub(super) fn of_another_process(dir: &Path) -> Result<(Self, Ports), Error> {
        let dir = fs::canonicalize(dir).map_err(Error::file("find", dir))?;
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(Error::file("read", &path))
        };
        let ports = Ports::from_text(&read(PORTS)?).ok_or(Error::NotRunning)?;
        let name = read(NAME)?.trim().to_owned();
        Ok((Self { dir, name, _lock: None }, ports))
    }

    /// Creates the folder if necessary and locks it. The cookie is the given one or a new one.
    pub(super) fn lock(dir: &Path, cookie: Option<&str>) -> Result<Self, Error> {
        for folder in [dir, &dir.join("conf.d"), &dir.join("data"), &dir.join("log")] {
            fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        }
        // Erlang does not resolve paths, so they must not depend on the working directory.
        let dir = fs::canonicalize(dir).map_err(Error::file("find", dir))?;
        let path = dir.join("lock");
        let lock = File::create(&path).map_err(Error::file("create", &path))?;
        lock.try_lock().map_err(|_| Error::InUse(dir.clone()))?;
        // RabbitMQ's data belongs to the node name under which it was created.
        let name = read_or_create(&dir.join(NAME), || format!("wg-{:08x}@localhost", rand::rng().random::<u32>()))?;
        read_or_create(&dir.join(".erlang.cookie"), || cookie.map_or_else(new_cookie, str::to_owned))?;
        Ok(Self { dir, name, _lock: Some(lock) })
    }

    /// Writes the files that RabbitMQ reads when it starts.
    pub(super) fn write(&self, options: &NodeOptions, ports: Ports, seed: Option<&str>) -> Result<(), Error> {
        let write = |name: &str, text: &str| {
            let path = self.dir.join(name);
            fs::write(&path, text).map_err(Error::file("write", &path))
        };
        write(PORTS, &ports.to_text())?;
        write("rabbitmq.conf", BASE)?;
        write("advanced.config", ADVANCED)?;
        write("enabled_plugins", PLUGINS)?;
        write("conf.d/90-node.conf", &overlay(options, ports, seed.map(|seed| (seed, self.name())))?)
    }

    /// The Erlang node's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// RabbitMQ's environment variables. They contain no secret, because other users may see them.
    pub(super) fn environment(&self, ports: Ports) -> Vec<(&'static str, OsString)> {
        let inside = |name: &str| self.dir.join(name).into_os_string();
        vec![
            // The cookie is read from a file here; as an argument it would be visible to other users.
            ("HOME", self.dir.clone().into_os_string()),
            ("RABBITMQ_NODENAME", self.name.clone().into()),
            ("RABBITMQ_CONFIG_FILE", inside("rabbitmq.conf")),
            ("RABBITMQ_CONFIG_FILES", inside("conf.d")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", inside("enabled_plugins")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", inside("advanced.config")),
            // This file does not exist; without the variable the system's own would be read.
            ("RABBITMQ_CONF_ENV_FILE", inside("none.env")),
            ("RABBITMQ_MNESIA_BASE", inside("data")),
            ("RABBITMQ_LOG_BASE", inside("log")),
            ("RABBITMQ_LOGS", self.log().into_os_string()),
            ("RABBITMQ_PID_FILE", inside("broker.pid")),
            ("RABBITMQ_DIST_PORT", ports.distribution.to_string().into()),
            ("ERL_EPMD_PORT", ports.epmd.to_string().into()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
            // No crash dump: it takes seconds and much disk space, and the log is sufficient.
            ("ERL_CRASH_DUMP_SECONDS", "0".into()),
            // Several nodes on one machine must not all be bound to the first processors.
            ("RABBITMQ_SCHEDULER_BIND_TYPE", "u".into()),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", self.arguments().into()),
            // `rabbitmqctl` starts an Erlang node, too.
            ("RABBITMQ_CTL_DIST_PORT_MIN", ports.tools.to_string().into()),
            ("RABBITMQ_CTL_DIST_PORT_MAX", (ports.tools + 5).to_string().into()),
            // The start script is replaced by the Erlang process instead of waiting for it.
            ("detached", "true".into()),
        ]
    }

    /// The text that identifies this node's process in a list of command lines.
    pub(super) fn process_marker(&self) -> String {
        format!("-warrengate_node {}", self.name)
    }

    fn arguments(&self) -> String {
        format!("-kernel inet_dist_use_interface {{127,0,0,1}} {}", self.process_marker())
    }

    /// The broker's log.
    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("log/broker.log")
    }

    /// The output of the broker and epmd.
    pub(super) fn console(&self) -> PathBuf {
        self.dir.join("log/console.log")
    }

    /// The file that records the process groups, for a later start to clean up.
    pub(super) fn groups(&self) -> PathBuf {
        self.dir.join("groups")
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

fn overlay(options: &NodeOptions, ports: Ports, formation: Option<(&str, &str)>) -> Result<String, Error> {
    let path =
        |path: &Path| fs::canonicalize(path).map(|real| real.display().to_string()).map_err(Error::file("find", path));
    let authority = path(&options.files.authority)?;
    let certificate = path(&options.files.certificate)?;
    let key = path(&options.files.key)?;
    let definitions = path(&options.files.definitions)?;
    let Ports { amqps, management, .. } = ports;
    let extra = &options.extra_config;
    // A new node joins the oldest one; a node with data rejoins its cluster by itself.
    let formation = formation.map_or(String::new(), |(seed, own)| {
        format!(
            "cluster_formation.peer_discovery_backend = classic_config\n\
             cluster_formation.classic_config.nodes.1 = {seed}\n\
             cluster_formation.classic_config.nodes.2 = {own}\n"
        )
    });
    Ok(format!(
        "# Written at every start. The settings that differ from rabbitmq.conf on this machine.\n\
         listeners.ssl.default = 127.0.0.1:{amqps}\n\
         ssl_options.cacertfile = {authority}\n\
         ssl_options.certfile = {certificate}\n\
         ssl_options.keyfile = {key}\n\
         management.ssl.ip = 127.0.0.1\n\
         management.ssl.port = {management}\n\
         management.ssl.cacertfile = {authority}\n\
         management.ssl.certfile = {certificate}\n\
         management.ssl.keyfile = {key}\n\
         load_definitions = {definitions}\n\
         {formation}{extra}\n"
    ))
}

pub(super) fn new_cookie() -> String {
    format!("{:064x}", Hex(rand::rng().random()))
}

/// The text of a file, created once; readable by its owner only.
pub(super) fn read_or_create(path: &Path, make: impl FnOnce() -> String) -> Result<String, Error> {
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        _ => {
            let text = make();
            let options = File::options().write(true).create(true).truncate(true).mode(0o600).to_owned();
            let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
            written.map_err(Error::file("write", path))?;
            Ok(text)
        }
    }
}

struct Hex([u8; 32]);

impl std::fmt::LowerHex for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
