//! The memory cost of many idle subscriptions for the gateway and the broker, and of many idle publish streams. The
//! streams of a tenant share one classic queue, because the streams are measured.

use super::{Named, ScenarioReport, named};
use crate::{
    Error,
    figures::{Figure, number},
    job::{Account, Load, Mode, Path},
    plan::{Cell, Plan, QueueKind, Scenario},
    process::Worker,
    rig::{Rig, names},
};

/// The name, the targets for the gateway, and the direction of a kind of stream.
struct Kind {
    name: &'static str,
    target: &'static str,
    mode: Mode,
}

const KINDS: [Kind; 2] = [
    Kind { name: "publish stream", target: "≤ 12", mode: Mode::Publish },
    Kind { name: "subscription", target: "≤ 40", mode: Mode::Consume },
];

pub(super) async fn run(rig: &mut Rig, plan: &Plan) -> Result<ScenarioReport, Error> {
    let (streams, tenants) = plan.idle;
    let each = streams.div_ceil(tenants.max(1));
    plan.say(&format!("creating {tenants} tenants"));
    let names = names("quiet", tenants);
    let accounts = rig.accounts_sharing(&names, &plan.tenant_plan, QueueKind::Classic, (each, 1)).await?;
    let mut figures = Vec::new();
    for kind in &KINDS {
        plan.say(&format!("opening {} streams: {}", each * tenants, kind.name));
        figures.extend(open(rig, plan, kind, &accounts, each * tenants).await?);
    }
    rig.delete(&accounts).await?;
    let description =
        format!("{} idle publish streams, then as many idle subscriptions, of {tenants} tenants", each * tenants);
    Ok(ScenarioReport { scenario: Scenario::IdleStreams, description, figures })
}

async fn open(
    rig: &mut Rig,
    plan: &Plan,
    kind: &Kind,
    accounts: &[Account],
    opened: usize,
) -> Result<Vec<Named>, Error> {
    // A gateway of its own for each kind, so that memory which the first kind has returned is not used by the second.
    let served = rig.another_gateway("idle", &[]).await?;
    let mut meter = rig.meter(None, Some(&served));
    let before = meter.read(None);
    let cell = Cell { queue: QueueKind::Classic, ..plan.first_cell() };
    let job_kind = (Path::Gateway, kind.mode, Load::Idle);
    let mut job = rig.job(plan, &cell, &served, job_kind, accounts.to_vec());
    // The gateway's default window, as for an application that sets none.
    job.tuning.prefetch = 256;
    let worker = Worker::start(&job).await?;
    let after = meter.read(Some(&before));
    worker.end().await?;
    served.end().await?;
    let grown = |after: Option<u64>, before: Option<u64>| Some(number(after?.saturating_sub(before?)) / 1024.0);
    let gateway = grown(after.memory.gateway, before.memory.gateway);
    let broker = grown(after.memory.broker, before.memory.broker);
    let (name, opened) = (kind.name, number(opened as u64));
    let all = after.memory.gateway.map(|bytes| number(bytes) / 1_048_576.0);
    Ok(named([
        (format!("{name}: gateway memory each"), "KiB", Figure::of(gateway.map(|kib| kib / opened)), kind.target),
        (format!("{name}: gateway memory, all"), "MiB", Figure::of(all), ""),
        (format!("{name}: broker memory each"), "KiB", Figure::of(broker.map(|kib| kib / opened)), ""),
    ]))
}
