//! The fault suite: brokers, gateways, networks and consumers fail under load, while the history of every message is
//! recorded and then checked.
//!
//! It is a test target without libtest, because it is one long run with a table at its end: `./scripts/faults --minutes
//! 10 --seed 7`. docs/reliability.md describes what it proves.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod args;
mod attempts;
mod environment;
mod evaluation;
mod gateways;
mod history;
mod inject;
mod load;
mod management;
mod memory;
mod message;
mod plan;
mod poison;
mod reaper;
mod report;
mod routes;
mod run;
mod wait;

use std::process::ExitCode;

use args::Command;

fn main() -> ExitCode {
    args::check();
    plan::check();
    let command = match args::read(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            report::print(&format!("{error:#}\n"));
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match command {
        Command::Print(text) => {
            report::print(&text);
            ExitCode::SUCCESS
        }
        Command::Consume => runtime.block_on(load::processes::run()).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        Command::Run { minutes, seed, tolerate_delays } => runtime.block_on(one_run(minutes, seed, tolerate_delays)),
    }
}

/// Runs until the end or until it is interrupted; in both cases all started processes end.
async fn one_run(minutes: f64, seed: u64, tolerate_delays: bool) -> ExitCode {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    let ended = tokio::select! {
        ended = Box::pin(run::run(minutes, seed, tolerate_delays)) => ended,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("stopped by Ctrl-C")),
        _ = terminate.recv() => Err(anyhow::anyhow!("stopped")),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            report::say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
