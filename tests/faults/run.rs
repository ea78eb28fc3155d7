//! One run: setup, load, faults, recovery, and the evaluation.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use warrengate_testkit::postgres::Postgres;

use crate::{
    environment,
    environment::{Environment, Plan},
    evaluation::{self, Inputs},
    history::Direction,
    inject,
    load::Load,
    management::Open,
    memory::Memory,
    plan, poison,
    reaper::Reaper,
    report::{self, say},
    wait,
};

const TENANTS: usize = 20;
const MAIN: Plan =
    Plan { name: "main", gateways: &["a", "b"], cluster: false, tenants: ("f", TENANTS), first_route: 0 };
const CLUSTER: Plan = Plan { name: "cluster", gateways: &["c"], cluster: true, tenants: ("c", 3), first_route: 1_000 };
/// The minimum duration for a check of the gateway's memory; shorter runs only report it.
const MEMORY_CHECK_MINUTES: f64 = 5.0;
/// RabbitMQ records the files of a quorum queue up to 3 s after the declaration; if it is killed before that, the queue
/// is empty and has no leader after the restart. The first retries declare queues, too.
const SETTLES_WITHIN: Duration = Duration::from_secs(8);

/// Runs the suite; true if there was no violation.
///
/// With `tolerate_delays`, delays are reported but are no violations.
pub async fn run(minutes: f64, seed: u64, tolerate_delays: bool) -> anyhow::Result<bool> {
    say(&format!("seed {seed}, {minutes} minutes: repeat it with ./scripts/faults --minutes {minutes} --seed {seed}"));
    let run_folder = environment::folder()?;
    let folder = run_folder.path().to_owned();
    let reaper = Arc::new(Reaper::start()?);
    let postgres = tokio::task::spawn_blocking(Postgres::start).await??;
    let main = Box::pin(Environment::start(MAIN, &folder, &postgres, &reaper));
    let cluster = Box::pin(Environment::start(CLUSTER, &folder, &postgres, &reaper));
    let (mut main, mut cluster) = tokio::try_join!(main, cluster)?;
    say("PostgreSQL, RabbitMQ with two gateways, a RabbitMQ cluster with another, and all tenants are ready");
    let mut load = Load::new(seed);
    load.history.checkpoint();
    load.add(&mut main, &reaper).await?;
    load.add(&mut cluster, &reaper).await?;
    wait::until("every stream to work", Duration::from_secs(90), async || load.history.all_work().is_ok()).await?;
    tokio::time::sleep(SETTLES_WITHIN).await;
    say("every stream works; injecting faults");

    let memory = Memory::sample(main.gateways[0].gauge());
    let began = Instant::now();
    let steps = plan::create(minutes, seed);
    let injected = inject::all(&main, &cluster, &mut load, &steps, began).await?;
    tokio::time::sleep_until((began + Duration::from_secs_f64(minutes * 60.0)).into()).await;
    // A quarter of a short run is about as long as one fault.
    let memory = memory.check(began, Instant::now()).map(|growth| growth.only_if(minutes >= MEMORY_CHECK_MINUTES));

    let mut violations = Vec::new();
    if !load.finish_publishing(&mut violations).await {
        for environment in [&main, &cluster] {
            let nonempty_queues = environment.management.nonempty_queues().await;
            say(&format!("messages at the {} broker: {nonempty_queues:?}", environment.name));
        }
    }
    poison::redrive(&[&main, &cluster], &load, &injected, &mut violations).await?;
    leftovers(&[&main, &cluster], &mut load, &mut violations).await?;
    let evaluation =
        evaluation::evaluate(Inputs { history: &load.history, injected: &injected, began, memory, violations });
    let (main, cluster) = tokio::join!(main.stop(), cluster.stop());
    main.and(cluster)?;
    report::print(&evaluation.table);
    for line in &evaluation.violations {
        report::print(&format!("violation: {line}\n"));
    }
    let late = if tolerate_delays { "late (tolerated)" } else { "violation" };
    for line in &evaluation.late {
        report::print(&format!("{late}: {line}\n"));
    }
    let passed = evaluation.violations.is_empty() && (tolerate_delays || evaluation.late.is_empty());
    if !passed {
        report::print(&format!("logs of the processes: {}\n", folder.display()));
    }
    report::print(&format!("{}\n", evaluation.last_line));
    Ok(passed)
}

/// Checks for leftover consumers and channels at the brokers: first with open streams, then without.
async fn leftovers(environments: &[&Environment], load: &mut Load, violations: &mut Vec<String>) -> anyhow::Result<()> {
    for environment in environments {
        let streams =
            load.history.open_streams(|s| s.direction == Direction::Subscribe && environment.has(&s.tenant)).len();
        // One channel for consuming, and possibly one for retries.
        let fits = |open: Open| open.consumers == streams && open.channels <= 2 * streams;
        let open = environment.management.until(fits).await?;
        say(&format!("the broker has {open} for {streams} subscriptions"));
        if !fits(open) {
            violations.push(format!("the broker has {open} for {streams} open subscriptions"));
        }
    }
    load.stop_consumers().await;
    for environment in environments {
        let open = environment.management.until(Open::is_empty).await?;
        say(&format!("the broker has {open} without streams"));
        if !open.is_empty() {
            violations.push(format!("the broker has {open} when no stream is open"));
        }
    }
    Ok(())
}
