//! The fault suite: brokers, gateways, networks and consumers fail under load, and a ledger records what became of
//! every message.
//!
//! It is a test target without libtest, because it is one long run with a table at its end: `./scripts/faults --minutes
//! 10 --seed 7`. docs/reliability.md describes what it proves.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod args;
mod attempts;
mod gateways;
mod inject;
mod ledger;
mod load;
mod management;
mod memory;
mod message;
mod plan;
mod poison;
mod reaper;
mod report;
mod roads;
mod run;
mod verdict;
mod wait;
mod world;

use std::process::ExitCode;

use args::Order;

fn main() -> ExitCode {
    args::check();
    plan::check();
    let order = match args::read(std::env::args().skip(1)) {
        Ok(order) => order,
        Err(error) => {
            report::print(&format!("{error:#}\n"));
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match order {
        Order::Say(text) => {
            report::print(&text);
            ExitCode::SUCCESS
        }
        Order::Consume => runtime.block_on(load::processes::run()).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        Order::Run { minutes, seed, tell_times } => runtime.block_on(one_run(minutes, seed, tell_times)),
    }
}

/// Until its end, or until somebody stops it; either way everything it started is gone then.
async fn one_run(minutes: f64, seed: u64, tell_times: bool) -> ExitCode {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    let ended = tokio::select! {
        ended = Box::pin(run::run(minutes, seed, tell_times)) => ended,
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
