//! A private broker's process: start, stop, kill, pause.

use std::{
    env,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use super::{
    Error, Installation, NodeOptions, control, epmd,
    explain::explain,
    guard::Guard,
    layout::{Layout, Ports},
    ports::{self, Reservation},
    process,
};

const AMQPS: &str = "the broker's AMQPS";
const MANAGEMENT: &str = "the broker's management";
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A running private broker. Dropping it kills it at once; [`Node::stop`] stops it in order.
#[derive(Debug)]
pub struct Node {
    options: NodeOptions,
    installation: Installation,
    ports: Ports,
    /// `None` for a node of another process.
    reservation: Option<Reservation>,
    /// Set in a cluster.
    member: Option<Member>,
    // Declared before `layout`, so that the processes end before the folder's lock is released.
    processes: Mutex<Processes>,
    layout: Layout,
    /// Serialises starts and stops.
    start_stop: tokio::sync::Mutex<()>,
}

/// What a node of a cluster shares with the others.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) cookie: String,
    /// The port and the process group of the cluster's epmd.
    pub(super) epmd: (u16, u32),
    /// The node that a new node joins; `None` for the first.
    pub(super) seed: Option<String>,
}

#[derive(Debug)]
struct Processes {
    guard: Guard,
    epmd: Option<Child>,
    broker: Option<Child>,
}

impl Drop for Processes {
    fn drop(&mut self) {
        for mut child in [self.broker.take(), self.epmd.take()].into_iter().flatten() {
            let _ = process::signal(child.id(), "KILL");
            let _ = child.wait();
        }
        // The guard drops next and must not kill process groups whose ids may have been reused.
        let _ = self.watch();
    }
}

impl Node {
    /// Starts a broker and returns when it accepts AMQPS.
    ///
    /// # Errors
    /// When RabbitMQ is missing, a port is taken, the folder is in use, or the broker does not start. The error
    /// explains what to do.
    pub async fn start(options: NodeOptions) -> Result<Self, Error> {
        Self::start_as(options, None).await
    }

    pub(super) async fn start_as(options: NodeOptions, member: Option<Member>) -> Result<Self, Error> {
        let installation = Installation::find(options.installation.as_deref())?;
        let layout = Layout::lock(&options.dir, member.as_ref().map(|member| member.cookie.as_str()))?;
        end_leftovers(&layout, &options).await?;
        let reservation = Reservation::new()?;
        let requested = |port: Option<u16>, number, purpose| match port {
            Some(port) => ports::check(port, purpose),
            None => Ok(reservation.port(number)),
        };
        let ports = Ports {
            amqps: requested(options.amqps_port, 0, AMQPS)?,
            management: requested(options.management_port, 1, MANAGEMENT)?,
            epmd: member.as_ref().map_or(reservation.port(2), |member| member.epmd.0),
            distribution: reservation.port(3),
            tools: reservation.port(4),
        };
        let processes = Mutex::new(Processes { guard: Guard::start()?, epmd: None, broker: None });
        let start_stop = tokio::sync::Mutex::default();
        let node = Self {
            options,
            installation,
            ports,
            reservation: Some(reservation),
            member,
            processes,
            layout,
            start_stop,
        };
        node.start_broker().await?;
        Ok(node)
    }

    /// The node that another process runs in this folder. It is reached with [`Node::control`] and its ports, and only
    /// the other process can stop it.
    ///
    /// # Errors
    /// When RabbitMQ is missing, or the folder does not contain a node.
    pub fn of_another_process(options: NodeOptions) -> Result<Self, Error> {
        let installation = Installation::find(options.installation.as_deref())?;
        let (layout, ports) = Layout::of_another_process(&options.dir)?;
        let processes = Mutex::new(Processes { guard: Guard::start()?, epmd: None, broker: None });
        let start_stop = tokio::sync::Mutex::default();
        Ok(Self { options, installation, ports, reservation: None, member: None, processes, layout, start_stop })
    }

    /// Fails for a node of another process.
    fn check_ours(&self) -> Result<(), Error> {
        if self.reservation.is_some() { Ok(()) } else { Err(Error::OfAnotherProcess(self.dir().to_owned())) }
    }

    /// The AMQPS port, on 127.0.0.1.
    pub fn amqps_port(&self) -> u16 {
        self.ports.amqps
    }

    /// The management port (HTTPS), on 127.0.0.1.
    pub fn management_port(&self) -> u16 {
        self.ports.management
    }

    /// Its Erlang node name, as in the management API.
    pub fn name(&self) -> &str {
        self.layout.name()
    }

    /// The node's folder.
    pub fn dir(&self) -> &Path {
        self.layout.dir()
    }

    /// The broker's log.
    pub fn log(&self) -> PathBuf {
        self.layout.log()
    }

    /// The id of the broker's process, for its processor time and memory; `None` while it does not run.
    pub fn pid(&self) -> Option<u32> {
        self.lock().broker.as_ref().map(Child::id)
    }

    /// Whether the broker's process runs.
    pub fn is_running(&self) -> bool {
        self.lock().broker.as_mut().is_some_and(|broker| matches!(broker.try_wait(), Ok(None)))
    }

    /// Kills the broker with SIGKILL. [`Node::restart`] starts it again.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn kill(&self) -> Result<(), Error> {
        self.check_ours()?;
        let mut processes = self.lock();
        let Some(mut broker) = processes.broker.take() else { return Ok(()) };
        process::signal(broker.id(), "KILL")?;
        let _ = broker.wait();
        processes.watch()
    }

    /// Suspends the broker's process: connections stay open and idle, as in a network that drops packets.
    ///
    /// # Errors
    /// When the broker is not running.
    pub fn pause(&self) -> Result<(), Error> {
        self.signal("STOP")
    }

    /// Ends a [`Node::pause`].
    ///
    /// # Errors
    /// When the broker is not running.
    pub fn resume(&self) -> Result<(), Error> {
        self.signal("CONT")
    }

    /// Runs `rabbitmqctl` with these arguments and returns its output, for operations that have no other interface,
    /// such as `set_vm_memory_high_watermark`.
    ///
    /// # Errors
    /// When it cannot be run, or fails.
    pub async fn control(&self, words: &[&str]) -> Result<String, Error> {
        let words: Vec<&str> = ["-n", self.name(), "-q"].iter().chain(words).copied().collect();
        control::run(&self.installation.control(), self.layout.environment(self.ports), &words).await
    }

    /// Stops the broker in an orderly way within [`NodeOptions::stop_within`], then kills it. Only its folder remains.
    /// Stopping it twice is not an error.
    ///
    /// # Errors
    /// When a process cannot be signalled, or belongs to another process.
    pub async fn stop(&self) -> Result<(), Error> {
        self.check_ours()?;
        let _start_stop = self.start_stop.lock().await;
        self.stop_broker().await?;
        let epmd = self.lock().epmd.take();
        if let Some(mut epmd) = epmd {
            process::signal(epmd.id(), "KILL")?;
            process::ended(&mut epmd, self.options.stop_within).await;
        }
        self.lock().watch()?;
        let groups = self.layout.groups();
        fs::write(&groups, "").map_err(Error::file("write", &groups))
    }

    /// Stops the broker if it runs, and starts it again with the same ports and data. It may be called after
    /// [`Node::kill`] and [`Node::stop`].
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn restart(&self) -> Result<(), Error> {
        self.check_ours()?;
        let _start_stop = self.start_stop.lock().await;
        self.stop_broker().await?;
        ports::check(self.ports.amqps, AMQPS)?;
        ports::check(self.ports.management, MANAGEMENT)?;
        self.start_broker().await
    }

    async fn stop_broker(&self) -> Result<(), Error> {
        let taken = self.lock().broker.take();
        let Some(mut broker) = taken else { return Ok(()) };
        self.say("stopping the broker");
        let group = broker.id();
        process::signal(group, "CONT")?;
        process::signal(group, "TERM")?;
        if !process::ended(&mut broker, self.options.stop_within).await {
            tracing::warn!(within = ?self.options.stop_within, "broker did not stop in time, killing it");
            process::signal(group, "KILL")?;
            let _ = broker.wait();
        }
        process::finish(group).await?;
        self.lock().watch()
    }

    async fn start_broker(&self) -> Result<(), Error> {
        let began = Instant::now();
        let console = self.layout.console();
        let output = File::create(&console).map_err(Error::file("create", &console))?;
        let seed = self.member.as_ref().and_then(|member| member.seed.as_deref());
        self.layout.write(&self.options, self.ports, seed)?;
        if self.member.is_none() {
            self.start_epmd(&output).await?;
        }
        self.say("starting the broker");
        let seen = fs::metadata(self.layout.log()).map_or(0, |log| log.len());
        self.spawn_broker(&output)?;
        while TcpStream::connect(ports::loopback(self.ports.amqps)).await.is_err() {
            if !self.is_running() {
                self.kill()?;
                return Err(Error::Stopped { log: self.layout.log(), lines: self.new_lines(seen) });
            }
            if began.elapsed() >= self.options.start_within {
                self.kill()?;
                let after = self.options.start_within;
                return Err(Error::TooSlow { after, log: self.layout.log(), lines: self.new_lines(seen) });
            }
            sleep(POLL_INTERVAL).await;
        }
        self.say(&format!("broker ready after {:.1} s", began.elapsed().as_secs_f32()));
        Ok(())
    }

    async fn start_epmd(&self, output: &File) -> Result<(), Error> {
        {
            let mut processes = self.lock();
            if processes.epmd.as_mut().is_some_and(|epmd| matches!(epmd.try_wait(), Ok(None))) {
                return Ok(());
            }
            processes.epmd = Some(epmd::spawn(&self.installation, self.ports.epmd, output)?);
            self.remember(&mut processes)?;
        }
        epmd::listens(self.ports.epmd).await
    }

    fn spawn_broker(&self, output: &File) -> Result<(), Error> {
        let mut command = command(self.installation.server(), output)?;
        command.envs(self.layout.environment(self.ports)).current_dir(self.layout.dir());
        let mut processes = self.lock();
        processes.broker = Some(command.spawn().map_err(Error::process("start rabbitmq-server"))?);
        self.remember(&mut processes)
    }

    /// Records this node's process groups for the guard and for a later start.
    fn remember(&self, processes: &mut Processes) -> Result<(), Error> {
        processes.watch()?;
        let shared = self.member.as_ref().map(|member| member.epmd.1);
        let groups = processes.groups().into_iter().chain(shared);
        let groups = groups.map(|group| group.to_string()).collect::<Vec<_>>().join(" ");
        fs::write(self.layout.groups(), groups).map_err(Error::file("write", &self.layout.groups()))
    }

    fn signal(&self, signal: &str) -> Result<(), Error> {
        self.check_ours()?;
        match &self.lock().broker {
            Some(broker) => process::signal(broker.id(), signal),
            None => Err(Error::NotRunning),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Processes> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, line: &str) {
        tracing::debug!(dir = %self.layout.dir().display(), line, "private broker");
        (self.options.progress)(line);
    }

    /// The relevant lines that this start wrote to its console or log.
    fn new_lines(&self, seen: u64) -> String {
        let log = fs::read(self.layout.log()).unwrap_or_default();
        let fresh = log.get(usize::try_from(seen).unwrap_or(0)..).unwrap_or(&log);
        let console = fs::read(self.layout.console()).unwrap_or_default();
        explain(&String::from_utf8_lossy(&console), &String::from_utf8_lossy(fresh))
    }
}

impl Processes {
    fn groups(&self) -> Vec<u32> {
        [&self.broker, &self.epmd].into_iter().flatten().map(Child::id).collect()
    }

    fn watch(&mut self) -> Result<(), Error> {
        self.guard.watch(&self.groups())
    }
}

/// A child process in a separate process group, without environment variables that are meant for the system's
/// RabbitMQ and without the gateway's secrets.
pub(super) fn command(program: &Path, output: &File) -> Result<Command, Error> {
    let share = |file: &File| file.try_clone().map(Stdio::from).map_err(Error::process("share the console's file"));
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if control::is_for_others(&name.to_string_lossy()) {
            command.env_remove(&name);
        }
    }
    command.process_group(0).stdin(Stdio::null()).stdout(share(output)?).stderr(share(output)?);
    Ok(command)
}

/// Ends processes that an earlier run left behind because both it and its guard were killed.
pub(super) async fn end_leftovers(layout: &Layout, options: &NodeOptions) -> Result<(), Error> {
    let noted = fs::read_to_string(layout.groups()).unwrap_or_default();
    let noted: Vec<u32> = noted.split_whitespace().filter_map(|group| group.parse().ok()).collect();
    let marker = layout.process_marker();
    let is_ours = |process: &process::Process| {
        process.command.contains(&marker) || (noted.contains(&process.group) && process.command.contains("epmd"))
    };
    let mut groups: Vec<u32> = process::all().iter().filter(|p| is_ours(p)).map(|p| p.group).collect();
    groups.dedup();
    for group in groups {
        tracing::warn!(group, "stopping a broker left over from an earlier run");
        (options.progress)("stopping a broker left over from an earlier run");
        process::finish(group).await?;
    }
    Ok(())
}
