//! The hostile suite: each attack of docs/security.md against a separate `warrengate serve` process, whose memory and
//! open connections are measured, together with the calls of other tenants.
//!
//! It is a test target without libtest, because it is a single run that ends with a table: `./scripts/hostile`. A bound
//! on memory, on open connections, or on the correctness of an answer fails the run. Bounds on time fail it in the long
//! form only, because the short form runs without optimisation and on machines with other load.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::large_futures, reason = "a test has its stack to itself")]
// Only a part of the harness of tests/it is used.
#![allow(dead_code)]

#[path = "../it/harness/consumer.rs"]
mod consumer;
#[path = "../it/harness/wait.rs"]
mod wait;

mod audit;
mod console;
mod consumers;
mod control_tenant;
mod dead_letters;
mod grants;
mod http2;
mod report;
mod secrets;

mod environment;
mod target;
mod tenant;
mod unauthenticated;

use std::{process::ExitCode, sync::Arc, time::Duration};

use environment::Environment;
use report::Report;

/// The threads of the attackers.
const ATTACKERS: usize = 2;
/// Their nice value.
#[cfg(target_os = "linux")]
const LOWEST_PRIORITY: i32 = 19;

/// The size of the attacks.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// How long a flood lasts.
    pub flood: Duration,
    /// Streams of an attack.
    pub streams: usize,
    /// Repetitions of a measurement.
    pub rounds: usize,
    /// Messages of 2 MB in the queue of the consumer that settles nothing.
    pub large_messages: usize,
    /// Megabytes of dead letters.
    pub dead_megabytes: usize,
    /// Whether an exceeded bound on time fails the run.
    pub enforces_times: bool,
}

impl Scale {
    const SHORT: Self = Self {
        flood: Duration::from_secs(5),
        streams: 40,
        rounds: 3,
        large_messages: 30,
        dead_megabytes: 20,
        enforces_times: false,
    };
    const LONG: Self = Self {
        flood: Duration::from_secs(60),
        streams: 200,
        rounds: 50,
        large_messages: 60,
        dead_megabytes: 300,
        enforces_times: true,
    };
}

fn main() -> ExitCode {
    let (mut scale, mut only) = (Scale::LONG, None);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--short" => scale = Scale::SHORT,
            "--report-times" => scale.enforces_times = false,
            name if !name.starts_with('-') => only = Some(name.to_owned()),
            _ => {}
        }
    }
    let report = attack(scale, only.as_deref());
    report.print();
    if report.is_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the attacks beside the environment and the control tenant, which have a runtime of their own. The attackers have
/// a lower priority, because they share the processors with the gateway: otherwise the control tenant would measure how
/// long its own process waits for them.
fn attack(scale: Scale, only: Option<&str>) -> Report {
    let builder = |threads| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads).enable_all();
        builder
    };
    let runtime = builder(1).build().unwrap();
    let environment = Arc::new(runtime.block_on(Box::pin(Environment::start())));
    // Processes and threads inherit the priority, so it is changed when the environment has started.
    lower_priority();
    let attackers = builder(ATTACKERS).thread_name("attacker").on_thread_start(lower_priority).build().unwrap();
    let report = attackers.block_on(Box::pin(run(&environment, scale, only)));
    drop(attackers);
    let environment = Arc::into_inner(environment).expect("the attacks have ended");
    runtime.block_on(environment.stop());
    report
}

fn lower_priority() {
    // On Linux it applies to the calling thread only (setpriority(2)).
    #[cfg(target_os = "linux")]
    rustix::process::setpriority_process(None, LOWEST_PRIORITY).unwrap();
}

async fn run(environment: &Arc<Environment>, scale: Scale, only: Option<&str>) -> Report {
    let mut report = Report::new(scale);
    let is_wanted = |name: &str| only.is_none_or(|only| name.contains(only));
    macro_rules! attack {
        ($name:literal, $attack:expr) => {
            if is_wanted($name) {
                report::say($name);
                $attack(environment, scale, &mut report).await;
            }
        };
    }
    attack!("unauthenticated", unauthenticated::mix);
    attack!("crowd", unauthenticated::crowd);
    attack!("http1", console::crowds);
    attack!("console", console::signed_in);
    attack!("elements", tenant::element_floods);
    attack!("decoding", tenant::decoding);
    attack!("unread", tenant::unread_responses);
    attack!("windows", tenant::large_windows);
    attack!("leases", tenant::lease_flood);
    attack!("headers", tenant::headers_only);
    attack!("consumers", consumers::settles_nothing);
    attack!("grants", grants::removed);
    attack!("dead-letters", dead_letters::parallel);
    attack!("secrets", secrets::floods);
    attack!("audit", audit::crowded);
    report
}
