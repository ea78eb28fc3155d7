//! The client process: it reads a job from standard input, connects, warms up, reports "ready", waits for "go", works,
//! and reports the outcome as a line of JSON.
//!
//! It ends with its standard input, so it never outlives the benchmark.

mod amqp;
mod direct;
mod feed;
mod gateway;
mod in_flight;
mod ordinary;
mod run;
mod tally;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines, Stdin},
    sync::oneshot,
};

pub(super) use self::{amqp::connect as connect_to_broker, gateway::connect as connect_to_gateway};
use super::{Error, job::Job};

/// The line that the client process writes when it is ready.
pub(super) const READY: &str = "ready";
/// The line that starts the measured time.
pub(super) const GO: &str = "go";

/// Executes one job from standard input, and returns when that is closed.
///
/// # Errors
/// When the job has the wrong form, or standard output is closed.
pub async fn serve() -> Result<(), Error> {
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let Some(job) = input.next_line().await.map_err(Error::Pipe)? else { return Ok(()) };
    let job: Job = serde_json::from_str(&job).map_err(Error::Job)?;
    let (ready, is_ready) = oneshot::channel();
    let (go, started) = oneshot::channel();
    let mut work = tokio::spawn(run::run(job, ready, started));
    let ready = tokio::select! {
        ready = is_ready => ready.is_ok(),
        () = end(&mut input) => return Ok(()),
    };
    if ready {
        say(READY).await?;
        match input.next_line().await.map_err(Error::Pipe)? {
            Some(line) if line == GO => drop(go.send(())),
            _ => return Ok(()),
        }
    }
    let outcome = tokio::select! {
        outcome = &mut work => outcome.map_err(|error| Error::Worker(error.to_string()))?,
        () = end(&mut input) => return Ok(()),
    };
    say(&serde_json::to_string(&outcome).map_err(Error::Job)?).await?;
    end(&mut input).await;
    Ok(())
}

async fn end(input: &mut Lines<BufReader<Stdin>>) {
    while let Ok(Some(_)) = input.next_line().await {}
}

async fn say(line: &str) -> Result<(), Error> {
    let mut out = tokio::io::stdout();
    out.write_all(format!("{line}\n").as_bytes()).await.map_err(Error::Pipe)?;
    out.flush().await.map_err(Error::Pipe)
}
