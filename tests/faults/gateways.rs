//! A gateway in a separate process with proxies to its broker. It can be killed, stopped, and restarted on the same
//! ports.

use std::{
    fs::{File, OpenOptions},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use secrecy::SecretString;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use warrengate_testkit::proxy::Proxy;

use crate::{
    reaper::{Reaper, signal},
    wait,
};

/// How long a drain may take.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

pub struct Gateway {
    pub name: String,
    grpc: u16,
    ops: u16,
    settings: Vec<(String, String)>,
    /// The proxies to the broker's AMQP and HTTP API.
    proxies: Vec<Proxy>,
    log: PathBuf,
    process: Arc<Mutex<Option<Child>>>,
    reaper: Arc<Reaper>,
}

impl Gateway {
    /// A gateway that is not started yet. The proxies belong to the broker's endpoints in `settings`.
    pub fn new(
        name: &str,
        mut settings: Vec<(String, String)>,
        proxies: Vec<Proxy>,
        log: PathBuf,
        reaper: &Arc<Reaper>,
    ) -> anyhow::Result<Self> {
        let (grpc, ops) = (wait::free_port()?, wait::free_port()?);
        let mut set = |name: &str, value: String| settings.push((format!("WARRENGATE_{name}"), value));
        set("GRPC__LISTEN", format!("127.0.0.1:{grpc}"));
        set("OPS__LISTEN", format!("127.0.0.1:{ops}"));
        set("LIMITS__DRAIN_DEADLINE", format!("{}s", DRAIN_DEADLINE.as_secs()));
        let process = Arc::default();
        Ok(Self { name: name.into(), grpc, ops, settings, proxies, log, process, reaper: Arc::clone(reaper) })
    }

    pub fn grpc(&self) -> u16 {
        self.grpc
    }

    pub fn proxies(&self) -> &[Proxy] {
        &self.proxies
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.lock().unwrap().as_ref().map(Child::id)
    }

    /// Starts the gateway and returns when it is ready, with the first administrator's secret if it was created.
    pub async fn start(&self) -> anyhow::Result<Option<SecretString>> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut process = self.command(log).spawn().context("cannot start a gateway")?;
        self.reaper.watch(process.id());
        let output = process.stdout.take().map(tokio::process::ChildStdout::from_std).transpose()?;
        *self.process.lock().unwrap() = Some(process);
        let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
        let address = format!("http://127.0.0.1:{}/readyz", self.ops);
        wait::until(&format!("gateway {} to be ready", self.name), Duration::from_secs(60), async || {
            http.get(&address).send().await.is_ok_and(|answer| answer.status().is_success())
        })
        .await?;
        let Some(output) = output else { return Ok(None) };
        let mut lines = BufReader::new(output).lines();
        // If there is a secret, it is printed before the gateway is ready.
        let line = tokio::time::timeout(Duration::from_millis(100), lines.next_line()).await;
        let secret = line.ok().and_then(Result::ok).flatten().and_then(|line| {
            let secret = line.split_once("secret ")?.1.split(':').next()?;
            Some(SecretString::from(secret.to_owned()))
        });
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(secret)
    }

    fn command(&self, log: File) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_warrengate"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WARRENGATE_")) {
            command.env_remove(name);
        }
        command.arg("serve").envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        command
    }

    /// Kills the process, like a crash.
    pub fn kill(&self) {
        let Some(mut process) = self.process.lock().unwrap().take() else { return };
        let _ = process.kill();
        let _ = process.wait();
        self.reaper.forget(process.id());
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        if let Some(pid) = self.pid() {
            signal(pid, "TERM");
        }
    }

    /// Waits for the exit after [`Self::terminate`]; returns the duration and the exit status.
    pub async fn ended(&self, since: Instant) -> anyhow::Result<(Duration, ExitStatus)> {
        let mut process = self.process.lock().unwrap().take().context("no process")?;
        let mut status = None;
        let waited = wait::until("a gateway to stop", DRAIN_DEADLINE * 3, async || {
            status = process.try_wait().ok().flatten();
            status.is_some()
        })
        .await;
        let took = since.elapsed();
        if waited.is_err() {
            let _ = process.kill();
            let _ = process.wait();
        }
        self.reaper.forget(process.id());
        waited?;
        let status = status.context("no status")?;
        ensure!(took > Duration::ZERO, "the clock did not advance");
        Ok((took, status))
    }

    /// Returns a function that reads the resident memory of the current process, in KiB.
    pub fn gauge(&self) -> impl Fn() -> Option<u64> + Send + Sync + 'static {
        let process = Arc::clone(&self.process);
        move || resident(process.lock().unwrap().as_ref().map(Child::id)?)
    }
}

fn resident(pid: u32) -> Option<u64> {
    if let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) {
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        return line.split_whitespace().next()?.parse().ok();
    }
    let listed = Command::new("ps").args(["-o", "rss=", "-p", &pid.to_string()]).output().ok()?;
    String::from_utf8_lossy(&listed.stdout).trim().parse().ok()
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}
