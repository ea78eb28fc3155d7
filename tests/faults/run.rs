//! One run: setup, load, faults, recovery, and the verdict.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use warrengate_testkit::postgres::Postgres;

use crate::{
    inject,
    ledger::Direction,
    load::Load,
    management::Open,
    memory::Memory,
    plan, poison,
    reaper::Reaper,
    report::{self, say},
    verdict::{self, Evidence},
    wait, world,
    world::{Plan, Side},
};

const TENANTS: usize = 20;
const MAIN: Plan = Plan { name: "main", gateways: &["a", "b"], cluster: false, tenants: ("f", TENANTS), first_road: 0 };
const CLUSTER: Plan = Plan { name: "cluster", gateways: &["c"], cluster: true, tenants: ("c", 3), first_road: 1_000 };
/// From this many minutes on a gateway's memory is judged, not only told.
const MEMORY_TELLS: f64 = 5.0;
/// RabbitMQ writes down which files belong to which quorum queue up to 3 s after the declaration; killed before, it makes
/// the queue anew, empty and without a leader. The first retries make queues, too.
const SETTLES_WITHIN: Duration = Duration::from_secs(8);

/// Whether every promise was kept.
///
/// With `tell_times` what is only late is told, and is no failure.
pub async fn run(minutes: f64, seed: u64, tell_times: bool) -> anyhow::Result<bool> {
    say(&format!("seed {seed}, {minutes} minutes: the same with ./scripts/faults --minutes {minutes} --seed {seed}"));
    let run_folder = world::folder()?;
    let folder = run_folder.path().to_owned();
    let reaper = Arc::new(Reaper::start()?);
    let postgres = tokio::task::spawn_blocking(Postgres::start).await??;
    let main = Box::pin(Side::start(MAIN, &folder, &postgres, &reaper));
    let cluster = Box::pin(Side::start(CLUSTER, &folder, &postgres, &reaper));
    let (mut main, mut cluster) = tokio::try_join!(main, cluster)?;
    say("PostgreSQL, RabbitMQ with two gateways, three RabbitMQs with another, and all tenants are up");
    let mut load = Load::new(seed);
    load.ledger.mark();
    load.add(&mut main, &reaper).await?;
    load.add(&mut cluster, &reaper).await?;
    wait::until("every stream to work", Duration::from_secs(90), async || load.ledger.all_work().is_ok()).await?;
    tokio::time::sleep(SETTLES_WITHIN).await;
    say("every stream works; now the faults");

    let memory = Memory::follow(main.gateways[0].gauge());
    let began = Instant::now();
    let steps = plan::make(minutes, seed);
    let injected = inject::all(&main, &cluster, &mut load, &steps, began).await?;
    tokio::time::sleep_until((began + Duration::from_secs_f64(minutes * 60.0)).into()).await;
    // A quarter of a short run is one fault long.
    let memory = memory.judge(began, Instant::now()).map(|judged| judged.only_if(minutes >= MEMORY_TELLS));

    let mut broken = Vec::new();
    if !load.come_to_rest(&mut broken).await {
        for side in [&main, &cluster] {
            let holding = side.management.holding().await;
            say(&format!("the {} broker holds: {holding:?}", side.name));
        }
    }
    poison::redrive(&[&main, &cluster], &load, &injected, &mut broken).await?;
    leftovers(&[&main, &cluster], &mut load, &mut broken).await?;
    let verdict = verdict::judge(Evidence { ledger: &load.ledger, injected: &injected, began, memory, broken });
    let (main, cluster) = tokio::join!(main.stop(), cluster.stop());
    main.and(cluster)?;
    report::print(&verdict.table);
    for line in &verdict.broken {
        report::print(&format!("not kept: {line}\n"));
    }
    let late = if tell_times { "late (told, not judged)" } else { "not kept" };
    for line in &verdict.late {
        report::print(&format!("{late}: {line}\n"));
    }
    let kept = verdict.broken.is_empty() && (tell_times || verdict.late.is_empty());
    if !kept {
        report::print(&format!("what the processes said: {}\n", folder.display()));
    }
    report::print(&format!("{}\n", verdict.last_line));
    Ok(kept)
}

/// Consumers and channels that a broker has and nobody uses: first beside open streams, then without any.
async fn leftovers(sides: &[&Side], load: &mut Load, broken: &mut Vec<String>) -> anyhow::Result<()> {
    for side in sides {
        let streams = load.ledger.open_streams(|s| s.direction == Direction::Subscribe && side.has(&s.tenant)).len();
        // A channel to consume by, and perhaps one to send back what is to be tried again.
        let fits = |open: Open| open.consumers == streams && open.channels <= 2 * streams;
        let open = side.management.until(fits).await?;
        say(&format!("the broker has {open} for {streams} subscriptions"));
        if !fits(open) {
            broken.push(format!("the broker has {open} for {streams} open subscriptions"));
        }
    }
    load.stop_consumers().await;
    for side in sides {
        let open = side.management.until(Open::is_nothing).await?;
        say(&format!("the broker has {open} for none"));
        if !open.is_nothing() {
            broken.push(format!("the broker has {open} when no stream is open"));
        }
    }
    Ok(())
}
