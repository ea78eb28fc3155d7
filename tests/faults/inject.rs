//! Injects the faults of a plan one after another, and measures how long detection and recovery take.
//!
//! A fault is over when it was undone and every stream works again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::{
    environment::{Broker, Environment},
    gateways::DRAIN_DEADLINE,
    history::{Direction, History},
    load::Load,
    message::WORK,
    plan::{Fault, Network, Step},
    report::say,
    wait,
};

/// The time limit for all streams to work again before the next fault.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(45);

/// The times before and after a fault in which it may affect messages: backlogs must be worked off.
const BEFORE: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_secs(5);

/// A fault that was injected.
#[derive(Debug)]
pub struct Injected {
    pub fault: Fault,
    pub network: Network,
    pub began: Instant,
    /// When the fault was undone.
    pub restored: Instant,
    /// When every stream worked again.
    pub ended: Instant,
    /// The slowest stream to recover, or how many did not.
    pub recovery: Result<(Duration, String), String>,
    /// The slowest stream to report an interruption, if all must report it.
    pub notice: Option<Result<(Duration, String), String>>,
    /// Any other failure.
    pub failure: Option<String>,
}

impl Injected {
    /// Whether the fault may have affected events between these times.
    pub fn affects(&self, from: Instant, to: Instant) -> bool {
        from < self.ended + AFTER && to > self.began - BEFORE
    }
}

/// Injects all steps at their times after `began`.
pub async fn all(
    environment: &Environment,
    cluster: &Environment,
    load: &mut Load,
    steps: &[Step],
    began: Instant,
) -> anyhow::Result<Vec<Injected>> {
    let mut injected = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        tokio::time::sleep_until((began + step.at).into()).await;
        let done = match step.fault {
            Fault::LeaderKill => kill_leader(cluster, &load.history, step).await,
            _ => inject(environment, load, step).await,
        };
        let done = done.with_context(|| format!("{} cannot be injected", step.fault.name()))?;
        say(&format!("{}/{} {}", number + 1, steps.len(), line(step, &done)));
        injected.push(done);
    }
    Ok(injected)
}

fn line(step: &Step, done: &Injected) -> String {
    let location = match (step.fault, step.network) {
        (Fault::Cut | Fault::HalfOpen, Network::Broker) => format!(" between gateway {} and the broker", step.gateway),
        (Fault::Cut | Fault::HalfOpen, Network::Clients) => format!(" between clients and gateway {}", step.gateway),
        (Fault::GatewayKill | Fault::GatewayStop, _) => format!(" ({})", step.gateway),
        _ => String::new(),
    };
    let notice = match &done.notice {
        Some(Ok((after, _))) => format!(", noticed after {:.1} s", after.as_secs_f32()),
        Some(Err(why)) => format!(", NOT NOTICED: {why}"),
        None => String::new(),
    };
    let recovery = match &done.recovery {
        Ok((after, name)) => format!("all streams recovered {:.1} s later (last {name})", after.as_secs_f32()),
        Err(why) => format!("NOT RECOVERED: {why}"),
    };
    let failure = done.failure.as_ref().map(|failure| format!("; {failure}")).unwrap_or_default();
    format!(
        "{}{location}: {:.1} s{notice}; {recovery}{failure}",
        step.fault.name(),
        (done.restored - done.began).as_secs_f32()
    )
}

async fn inject(environment: &Environment, load: &mut Load, step: &Step) -> anyhow::Result<Injected> {
    let history = Arc::clone(&load.history);
    let began = history.checkpoint();
    let (mut notice, mut failure) = (None, None);
    let (gateway, node) = (&environment.gateways[step.gateway], &environment.broker.nodes()[0]);
    // Recovery is measured from the start of a fault if another gateway remains available.
    let mut restored = None;
    match step.fault {
        Fault::BrokerKill => {
            node.kill()?;
            tokio::time::sleep(step.duration).await;
            node.restart().await?;
        }
        Fault::BrokerFreeze => {
            node.pause()?;
            notice = Some(noticed(&history, |route| environment.routes.has(route), began, step.duration).await);
            tokio::time::sleep_until((began + step.duration).into()).await;
            node.resume()?;
        }
        Fault::MemoryAlarm => {
            node.control(&["set_vm_memory_high_watermark", "absolute", "1MB"]).await?;
            tokio::time::sleep(step.duration).await;
            node.control(&["set_vm_memory_high_watermark", "0.4"]).await?;
        }
        Fault::GatewayKill => {
            gateway.kill();
            environment.routes.divert(step.gateway);
            restored = Some(began);
        }
        Fault::GatewayStop => {
            gateway.terminate();
            environment.routes.divert(step.gateway);
            let (took, status) = gateway.ended(began).await?;
            if took > DRAIN_DEADLINE + Duration::from_secs(2) || !status.success() {
                failure = Some(format!("the drain took {took:?} and ended with {status}"));
            }
            restored = Some(began);
        }
        Fault::Cut if step.network == Network::Clients => {
            environment.routes.cut(step.gateway, &history);
            tokio::time::sleep(step.duration).await;
            environment.routes.resume(&history);
        }
        Fault::Cut => {
            gateway.proxies().iter().for_each(|proxy| proxy.cut());
            tokio::time::sleep(step.duration).await;
            gateway.proxies().iter().for_each(|proxy| proxy.resume());
        }
        Fault::HalfOpen if step.network == Network::Clients => {
            environment.routes.hold(step.gateway);
            tokio::time::sleep(step.duration).await;
            environment.routes.resume(&history);
        }
        Fault::HalfOpen => {
            gateway.proxies().iter().for_each(|proxy| proxy.hold());
            let affected = |route| environment.routes.leads_to(route, step.gateway);
            notice = Some(noticed(&history, affected, began, step.duration).await);
            gateway.proxies().iter().for_each(|proxy| proxy.resume());
        }
        Fault::ConsumerKill => {
            let victim = step.victim % load.processes.len();
            load.processes[victim].kill_and_replace().await?;
        }
        Fault::LeaderKill => bail!("a fault of the cluster environment"),
    }
    if restored.is_none() {
        restored = Some(history.checkpoint());
    }
    let recovery = all_work(&history).await;
    if matches!(step.fault, Fault::GatewayKill | Fault::GatewayStop) {
        gateway.start().await?;
        history.checkpoint();
        environment.routes.restore(&history);
        if let Err(why) = all_work(&history).await {
            failure = Some(format!("after the streams returned to their gateway: {why}"));
        }
    }
    let restored = restored.unwrap_or(began);
    Ok(Injected {
        fault: step.fault,
        network: step.network,
        began,
        restored,
        ended: Instant::now(),
        recovery,
        notice,
        failure,
    })
}

/// Kills the leader of a tenant's queue, and restarts it when every stream works without it.
async fn kill_leader(cluster: &Environment, history: &History, step: &Step) -> anyhow::Result<Injected> {
    let Broker::Cluster(nodes) = &cluster.broker else { bail!("no cluster") };
    let tenant = &cluster.tenants[step.victim % cluster.tenants.len()].id;
    let found = nodes.leader_of(&format!("wg.{tenant}"), WORK).await?;
    let leader = found.with_context(|| format!("{WORK} of {tenant} has no leader"))?;
    // The other two nodes are available, so recovery is measured from the kill.
    let began = history.checkpoint();
    leader.kill()?;
    let recovery = all_work(history).await;
    leader.restart().await?;
    history.checkpoint();
    let failure = all_work(history).await.err().map(|why| format!("after the killed node was restarted: {why}"));
    let (fault, network) = (step.fault, step.network);
    Ok(Injected { fault, network, began, restored: began, ended: Instant::now(), recovery, notice: None, failure })
}

/// Waits until every open stream has worked since the last checkpoint.
async fn all_work(history: &History) -> Result<(Duration, String), String> {
    let waited = wait::until("streams to work", RECOVERY_TIMEOUT, async || history.all_work().is_ok()).await;
    match (waited, history.all_work()) {
        (Ok(()), Ok(last)) => Ok(last),
        (_, Err((count, name))) => {
            Err(format!("{count} streams have not recovered after {RECOVERY_TIMEOUT:?}, for example {name}"))
        }
        (Err(error), Ok(_)) => Err(error.to_string()),
    }
}

/// Waits until every consumer on these routes has reported an interruption.
async fn noticed(
    history: &History,
    affected: impl Fn(usize) -> bool,
    began: Instant,
    within: Duration,
) -> Result<(Duration, String), String> {
    let streams = history.open_streams(|stream| stream.direction == Direction::Subscribe && affected(stream.route));
    let remaining = within.saturating_sub(began.elapsed());
    let _ = wait::until("all consumers to notice", remaining, async || history.all_noticed(&streams).is_ok()).await;
    history
        .all_noticed(&streams)
        .map_err(|(count, name)| format!("{count} of {} streams after {within:?}, for example {name}", streams.len()))
}
