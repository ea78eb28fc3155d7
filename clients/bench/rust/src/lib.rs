//! What both sides have in common: commands from standard input, and times on standard output.

#![allow(clippy::print_stdout, reason = "the answers are read by the runner")]

use std::{io, time::Instant};

use serde::Deserialize;

/// What to measure.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Publish messages, and wait for their outcomes in windows.
    Publish,
    /// Consume messages, and acknowledge each.
    Consume,
}

/// One line of standard input.
#[derive(Debug, Deserialize)]
pub struct Command {
    /// What to measure.
    #[serde(rename = "do")]
    pub action: Action,
    /// The queue.
    pub queue: String,
    /// The number of messages.
    pub count: usize,
    /// The bytes of a body.
    #[serde(default)]
    pub size: usize,
    /// The number of messages that are published before their outcomes are awaited.
    #[serde(default)]
    pub window: usize,
    /// The number of unsettled deliveries.
    #[serde(default)]
    pub prefetch: u16,
}

impl Command {
    /// The sizes of the windows.
    pub fn windows(&self) -> impl Iterator<Item = usize> {
        let (count, window) = (self.count, self.window.max(1));
        (0..count).step_by(window).map(move |first| window.min(count - first))
    }
}

/// Executes one command after another, and answers each with its seconds.
///
/// # Errors
/// When a command cannot be read or executed.
pub async fn serve(mut execute: impl AsyncFnMut(Command) -> anyhow::Result<()>) -> anyhow::Result<()> {
    println!("{{\"ready\": true}}");
    while let Some(line) = tokio::task::spawn_blocking(|| io::stdin().lines().next()).await? {
        let command = serde_json::from_str(&line?)?;
        let began = Instant::now();
        execute(command).await?;
        println!("{{\"seconds\": {}}}", began.elapsed().as_secs_f64());
    }
    Ok(())
}
