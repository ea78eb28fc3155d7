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

use super::consumers::{Medicine, consume};
use crate::{
    ledger::{Ledger, Seen, StreamId},
    reaper::Reaper,
    world,
};

/// The argument that makes this program a consumer.
pub const ARGUMENT: &str = "--consume";

/// One subscription of a process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    pub stream: StreamId,
    pub road: usize,
    pub endpoint: String,
    pub client_id: String,
    pub secret: String,
    pub queue: String,
}

#[derive(Serialize, Deserialize)]
struct Orders {
    ca: String,
    tasks: Vec<Task>,
}

#[derive(Serialize, Deserialize)]
struct Fact {
    stream: StreamId,
    seen: Seen,
}

/// A process of consumers.
pub struct Process {
    ca: String,
    tasks: Vec<Task>,
    ledger: Arc<Ledger>,
    reaper: Arc<Reaper>,
    running: Option<(Child, ChildStdin)>,
}

impl Process {
    pub async fn start(
        ca: String,
        tasks: Vec<Task>,
        ledger: &Arc<Ledger>,
        reaper: &Arc<Reaper>,
    ) -> anyhow::Result<Self> {
        let mut process = Self { ca, tasks, ledger: Arc::clone(ledger), reaper: Arc::clone(reaper), running: None };
        process.spawn().await?;
        Ok(process)
    }

    /// As a crash would end it; then a new one takes its place.
    pub async fn kill_and_replace(&mut self) -> anyhow::Result<()> {
        self.end().await;
        self.spawn().await
    }

    async fn end(&mut self) {
        let Some((mut child, _)) = self.running.take() else { return };
        let id = child.id();
        self.tasks.iter().for_each(|task| self.ledger.open(task.stream, false));
        let _ = child.kill().await;
        self.tasks.iter().for_each(|task| self.ledger.breaks(task.road));
        id.into_iter().for_each(|id| self.reaper.forget(id));
    }

    /// Tells it to stop in good order, and waits.
    pub async fn stop(mut self) {
        let Some((mut child, stdin)) = self.running.take() else { return };
        drop(stdin);
        let id = child.id();
        if tokio::time::timeout(std::time::Duration::from_secs(30), child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
        self.tasks.iter().for_each(|task| self.ledger.open(task.stream, false));
        id.into_iter().for_each(|id| self.reaper.forget(id));
    }

    async fn spawn(&mut self) -> anyhow::Result<()> {
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.arg(ARGUMENT).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Command::from(command).kill_on_drop(true).spawn().context("cannot start a consumer")?;
        child.id().into_iter().for_each(|id| self.reaper.watch(id));
        let mut stdin = child.stdin.take().context("no pipe")?;
        let output = child.stdout.take().context("no pipe")?;
        let orders = Orders { ca: self.ca.clone(), tasks: self.tasks.clone() };
        stdin.write_all(format!("{}\n", serde_json::to_string(&orders)?).as_bytes()).await?;
        let ledger = Arc::clone(&self.ledger);
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // The last line of a process that was killed may be cut off.
                if let Ok(Fact { stream, seen }) = serde_json::from_str(&line) {
                    ledger.seen(stream, seen);
                }
            }
        });
        self.tasks.iter().for_each(|task| self.ledger.open(task.stream, true));
        self.running = Some((child, stdin));
        Ok(())
    }
}

/// This program as a consumer.
pub async fn run() -> anyhow::Result<()> {
    let mut input = BufReader::new(tokio::io::stdin());
    let mut line = String::new();
    input.read_line(&mut line).await?;
    let orders: Orders = serde_json::from_str(&line)?;
    let stop = CancellationToken::new();
    let output = Arc::new(Mutex::new(std::io::stdout()));
    let mut consumers = tokio::task::JoinSet::new();
    for task in orders.tasks {
        let (ca, stop, output) = (orders.ca.clone(), stop.clone(), Arc::clone(&output));
        consumers.spawn(async move {
            let say = move |seen| {
                let Ok(line) = serde_json::to_string(&Fact { stream: task.stream, seen }) else { return };
                let mut output = output.lock().unwrap();
                // Nobody reads when the parent is gone; then this ends, too.
                let _ = writeln!(output, "{line}").and_then(|()| output.flush());
            };
            let client = loop {
                match world::connect(&task.endpoint, &ca, &task.client_id, &task.secret.clone().into()).await {
                    Ok(client) => break client,
                    Err(error) => say(Seen::Failed { error: error.to_string() }),
                }
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            };
            consume(client, task.queue, Medicine::default(), stop, say).await;
        });
    }
    // The pipe is closed when the parent says stop, or is no more.
    let _ = input.read_to_end(&mut Vec::new()).await;
    stop.cancel();
    while consumers.join_next().await.is_some() {}
    Ok(())
}
