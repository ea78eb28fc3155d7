//! Consumers in separate processes that can be killed: this program, started again.
//!
//! Such a process reads what to consume from standard input, writes what it sees to standard output, and ends with its
//! parent.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    process::Stdio,
    sync::{Arc, Mutex},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
};
use tokio_util::sync::CancellationToken;

use super::consumers::{PoisonSwitch, consume};
use crate::{
    environment,
    history::{History, Observation, StreamId},
    reaper::Reaper,
};

/// The argument that makes this program a consumer process.
pub const ARGUMENT: &str = "--consume";

/// One subscription of a process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    pub stream: StreamId,
    pub route: usize,
    pub endpoint: String,
    pub client_id: String,
    pub secret: String,
    pub queue: String,
}

#[derive(Serialize, Deserialize)]
struct Assignment {
    ca: String,
    tasks: Vec<Task>,
}

#[derive(Serialize, Deserialize)]
struct Report {
    stream: StreamId,
    observation: Observation,
}

/// A process of consumers.
pub struct Process {
    ca: String,
    tasks: Vec<Task>,
    history: Arc<History>,
    reaper: Arc<Reaper>,
    running: Option<(Child, ChildStdin)>,
}

impl Process {
    pub async fn start(
        ca: String,
        tasks: Vec<Task>,
        history: &Arc<History>,
        reaper: &Arc<Reaper>,
    ) -> anyhow::Result<Self> {
        let mut process = Self { ca, tasks, history: Arc::clone(history), reaper: Arc::clone(reaper), running: None };
        process.spawn().await?;
        Ok(process)
    }

    /// Kills it, like a crash, and starts a new one.
    pub async fn kill_and_replace(&mut self) -> anyhow::Result<()> {
        self.end().await;
        self.spawn().await
    }

    async fn end(&mut self) {
        let Some((mut child, _)) = self.running.take() else { return };
        let id = child.id();
        self.tasks.iter().for_each(|task| self.history.open(task.stream, false));
        let _ = child.kill().await;
        self.tasks.iter().for_each(|task| self.history.disconnected(task.route));
        id.into_iter().for_each(|id| self.reaper.forget(id));
    }

    /// Stops it in order and waits.
    pub async fn stop(mut self) {
        let Some((mut child, stdin)) = self.running.take() else { return };
        drop(stdin);
        let id = child.id();
        if tokio::time::timeout(std::time::Duration::from_secs(30), child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
        self.tasks.iter().for_each(|task| self.history.open(task.stream, false));
        id.into_iter().for_each(|id| self.reaper.forget(id));
    }

    async fn spawn(&mut self) -> anyhow::Result<()> {
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.arg(ARGUMENT).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Command::from(command).kill_on_drop(true).spawn().context("cannot start a consumer")?;
        child.id().into_iter().for_each(|id| self.reaper.watch(id));
        let mut stdin = child.stdin.take().context("no pipe")?;
        let output = child.stdout.take().context("no pipe")?;
        let assignment = Assignment { ca: self.ca.clone(), tasks: self.tasks.clone() };
        stdin.write_all(format!("{}\n", serde_json::to_string(&assignment)?).as_bytes()).await?;
        let history = Arc::clone(&self.history);
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // The last line of a killed process may be incomplete.
                if let Ok(Report { stream, observation }) = serde_json::from_str(&line) {
                    history.observed(stream, observation);
                }
            }
        });
        self.tasks.iter().for_each(|task| self.history.open(task.stream, true));
        self.running = Some((child, stdin));
        Ok(())
    }
}

/// Runs this program as a consumer process.
pub async fn run() -> anyhow::Result<()> {
    let mut input = BufReader::new(tokio::io::stdin());
    let mut line = String::new();
    input.read_line(&mut line).await?;
    let assignment: Assignment = serde_json::from_str(&line)?;
    let stop = CancellationToken::new();
    let output = Arc::new(Mutex::new(std::io::stdout()));
    let mut consumers = tokio::task::JoinSet::new();
    for task in assignment.tasks {
        let (ca, stop, output) = (assignment.ca.clone(), stop.clone(), Arc::clone(&output));
        consumers.spawn(async move {
            let report = move |observation| {
                let Ok(line) = serde_json::to_string(&Report { stream: task.stream, observation }) else { return };
                let mut output = output.lock().unwrap();
                // Writing fails when the parent has ended, and then this process ends, too.
                let _ = writeln!(output, "{line}").and_then(|()| output.flush());
            };
            let client = loop {
                match environment::connect(&task.endpoint, &ca, &task.client_id, &task.secret.clone().into()).await {
                    Ok(client) => break client,
                    Err(error) => report(Observation::Failed { error: error.to_string() }),
                }
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            };
            consume(client, task.queue, PoisonSwitch::default(), stop, report).await;
        });
    }
    // The pipe is closed when the parent stops this process, or ends.
    let _ = input.read_to_end(&mut Vec::new()).await;
    stop.cancel();
    while consumers.join_next().await.is_some() {}
    Ok(())
}
