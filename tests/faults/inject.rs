//! Injects the faults of a plan one after another, and measures how long detection and recovery take.
//!
//! A fault is over when it was undone and every stream works again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::{
    gateways::DRAIN_DEADLINE,
    ledger::{Direction, Ledger},
    load::Load,
    message::WORK,
    plan::{Fault, Leg, Step},
    report::say,
    wait,
    world::{Broker, Side},
};

/// How long it is waited for streams that do not come back, before the next fault comes.
const TIMEOUT: Duration = Duration::from_secs(45);

/// A fault may touch what happens so long before it, and after it: what has gathered is worked off.
const BEFORE: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_secs(5);

/// A fault that was.
#[derive(Debug)]
pub struct Injected {
    pub fault: Fault,
    pub leg: Leg,
    pub began: Instant,
    /// When what was broken was whole again.
    pub whole: Instant,
    /// When every stream worked again.
    pub ended: Instant,
    /// The slowest stream after that; or how many did not come back.
    pub recovery: Result<(Duration, String), String>,
    /// The slowest stream to say that it is interrupted, where everyone must.
    pub notice: Option<Result<(Duration, String), String>>,
    /// What else went wrong.
    pub wrong: Option<String>,
}

impl Injected {
    /// Whether it may have touched what happened between these two.
    pub fn touches(&self, from: Instant, to: Instant) -> bool {
        from < self.ended + AFTER && to > self.began - BEFORE
    }
}

/// Injects all steps, counted from `began`.
pub async fn all(
    side: &Side,
    cluster: &Side,
    load: &mut Load,
    steps: &[Step],
    began: Instant,
) -> anyhow::Result<Vec<Injected>> {
    let mut injected = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        tokio::time::sleep_until((began + step.at).into()).await;
        let done = match step.fault {
            Fault::LeaderKill => leader(cluster, &load.ledger, step).await,
            _ => one(side, load, step).await,
        };
        let done = done.with_context(|| format!("{} cannot be injected", step.fault.name()))?;
        say(&format!("{}/{} {}", number + 1, steps.len(), line(step, &done)));
        injected.push(done);
    }
    Ok(injected)
}

fn line(step: &Step, done: &Injected) -> String {
    let place = match (step.fault, step.leg) {
        (Fault::Cut | Fault::HalfOpen, Leg::Broker) => format!(" between gateway {} and the broker", step.gateway),
        (Fault::Cut | Fault::HalfOpen, Leg::Clients) => format!(" between clients and gateway {}", step.gateway),
        (Fault::GatewayKill | Fault::GatewayStop, _) => format!(" ({})", step.gateway),
        _ => String::new(),
    };
    let notice = match &done.notice {
        Some(Ok((after, _))) => format!(", noticed after {:.1} s", after.as_secs_f32()),
        Some(Err(why)) => format!(", NOT NOTICED: {why}"),
        None => String::new(),
    };
    let recovery = match &done.recovery {
        Ok((after, name)) => format!("every stream works {:.1} s later (last {name})", after.as_secs_f32()),
        Err(why) => format!("NOT BACK: {why}"),
    };
    let wrong = done.wrong.as_ref().map(|wrong| format!("; {wrong}")).unwrap_or_default();
    format!("{}{place}: {:.1} s{notice}; {recovery}{wrong}", step.fault.name(), (done.whole - done.began).as_secs_f32())
}

async fn one(side: &Side, load: &mut Load, step: &Step) -> anyhow::Result<Injected> {
    let ledger = Arc::clone(&load.ledger);
    let began = ledger.mark();
    let (mut notice, mut wrong) = (None, None);
    let (gateway, node) = (&side.gateways[step.gateway], &side.broker.nodes()[0]);
    // What is measured from its beginning, since another gateway is there.
    let mut whole = None;
    match step.fault {
        Fault::BrokerKill => {
            node.kill()?;
            tokio::time::sleep(step.hold).await;
            node.restart().await?;
        }
        Fault::BrokerFreeze => {
            node.pause()?;
            notice = Some(noticed(&ledger, |road| side.roads.has(road), began, step.hold).await);
            tokio::time::sleep_until((began + step.hold).into()).await;
            node.resume()?;
        }
        Fault::MemoryAlarm => {
            node.control(&["set_vm_memory_high_watermark", "absolute", "1MB"]).await?;
            tokio::time::sleep(step.hold).await;
            node.control(&["set_vm_memory_high_watermark", "0.4"]).await?;
        }
        Fault::GatewayKill => {
            gateway.kill();
            side.roads.divert(step.gateway);
            whole = Some(began);
        }
        Fault::GatewayStop => {
            gateway.terminate();
            side.roads.divert(step.gateway);
            let (took, status) = gateway.ended(began).await?;
            if took > DRAIN_DEADLINE + Duration::from_secs(2) || !status.success() {
                wrong = Some(format!("the drain took {took:?} and ended with {status}"));
            }
            whole = Some(began);
        }
        Fault::Cut if step.leg == Leg::Clients => {
            side.roads.cut(step.gateway, &ledger);
            tokio::time::sleep(step.hold).await;
            side.roads.resume(&ledger);
        }
        Fault::Cut => {
            gateway.legs().iter().for_each(|leg| leg.cut());
            tokio::time::sleep(step.hold).await;
            gateway.legs().iter().for_each(|leg| leg.resume());
        }
        Fault::HalfOpen if step.leg == Leg::Clients => {
            side.roads.hold(step.gateway);
            tokio::time::sleep(step.hold).await;
            side.roads.resume(&ledger);
        }
        Fault::HalfOpen => {
            gateway.legs().iter().for_each(|leg| leg.hold());
            let affected = |road| side.roads.leads_to(road, step.gateway);
            notice = Some(noticed(&ledger, affected, began, step.hold).await);
            gateway.legs().iter().for_each(|leg| leg.resume());
        }
        Fault::ConsumerKill => {
            let victim = step.victim % load.processes.len();
            load.processes[victim].kill_and_replace().await?;
        }
        Fault::LeaderKill => bail!("a fault of the cluster"),
    }
    if whole.is_none() {
        whole = Some(ledger.mark());
    }
    let recovery = all_work(&ledger).await;
    if matches!(step.fault, Fault::GatewayKill | Fault::GatewayStop) {
        gateway.start().await?;
        ledger.mark();
        side.roads.home(&ledger);
        if let Err(why) = all_work(&ledger).await {
            wrong = Some(format!("after the streams went home: {why}"));
        }
    }
    let whole = whole.unwrap_or(began);
    Ok(Injected { fault: step.fault, leg: step.leg, began, whole, ended: Instant::now(), recovery, notice, wrong })
}

/// Kills the node that leads a tenant's queue, and brings it back when every stream works without it.
async fn leader(cluster: &Side, ledger: &Ledger, step: &Step) -> anyhow::Result<Injected> {
    let Broker::Cluster(nodes) = &cluster.broker else { bail!("no cluster") };
    let tenant = &cluster.tenants[step.victim % cluster.tenants.len()].id;
    let found = nodes.leader_of(&format!("wg.{tenant}"), WORK).await?;
    let leader = found.with_context(|| format!("nobody leads {WORK} of {tenant}"))?;
    // The two others are there: measured from the kill.
    let began = ledger.mark();
    leader.kill()?;
    let recovery = all_work(ledger).await;
    leader.restart().await?;
    ledger.mark();
    let wrong = all_work(ledger).await.err().map(|why| format!("when the killed node was back: {why}"));
    let (fault, leg) = (step.fault, step.leg);
    Ok(Injected { fault, leg, began, whole: began, ended: Instant::now(), recovery, notice: None, wrong })
}

/// Waits until every open stream has worked since the mark.
async fn all_work(ledger: &Ledger) -> Result<(Duration, String), String> {
    let waited = wait::until("streams to work", TIMEOUT, async || ledger.all_work().is_ok()).await;
    match (waited, ledger.all_work()) {
        (Ok(()), Ok(last)) => Ok(last),
        (_, Err((count, name))) => Err(format!("{count} streams are not back after {TIMEOUT:?}, {name} for one")),
        (Err(error), Ok(_)) => Err(error.to_string()),
    }
}

/// Waits until every consumer on these roads has said that it is interrupted.
async fn noticed(
    ledger: &Ledger,
    affected: impl Fn(usize) -> bool,
    began: Instant,
    within: Duration,
) -> Result<(Duration, String), String> {
    let streams = ledger.open_streams(|stream| stream.direction == Direction::Subscribe && affected(stream.road));
    let left = within.saturating_sub(began.elapsed());
    let _ = wait::until("everyone to notice", left, async || ledger.all_noticed(&streams).is_ok()).await;
    ledger
        .all_noticed(&streams)
        .map_err(|(count, name)| format!("{count} of {} streams after {within:?}, {name} for one", streams.len()))
}
