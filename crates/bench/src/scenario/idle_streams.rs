//! The memory cost of many idle subscriptions for the gateway and the broker. The streams of a tenant share one classic
//! queue, because the streams are measured.

use super::{ScenarioReport, named};
use crate::{
    Error,
    figures::{Figure, number},
    job::{Load, Mode, Path},
    plan::{Cell, Plan, QueueKind, Scenario},
    process::Worker,
    rig::{Rig, names},
};

pub(super) async fn run(rig: &mut Rig, plan: &Plan) -> Result<ScenarioReport, Error> {
    let (streams, tenants) = plan.idle;
    let each = streams.div_ceil(tenants.max(1));
    plan.say(&format!("creating {tenants} tenants"));
    let names = names("quiet", tenants);
    let accounts = rig.accounts_sharing(&names, &plan.tenant_plan, QueueKind::Classic, (each, 1)).await?;
    let mut meter = rig.meter(None, Some(rig.gateway()));
    let before = meter.read(None);
    let cell = Cell { queue: QueueKind::Classic, ..plan.first_cell() };
    let job_kind = (Path::Gateway, Mode::Consume, Load::Idle);
    let mut job = rig.job(plan, &cell, rig.gateway(), job_kind, accounts.clone());
    // The gateway's default window, as for an application that sets none.
    job.tuning.prefetch = 256;
    plan.say(&format!("opening {} subscriptions", each * tenants));
    let worker = Worker::start(&job).await?;
    let after = meter.read(Some(&before));
    worker.end().await?;
    rig.delete(&accounts).await?;
    let grown = |after: Option<u64>, before: Option<u64>| Some(number(after?.saturating_sub(before?)) / 1024.0);
    let gateway = grown(after.memory.gateway, before.memory.gateway);
    let broker = grown(after.memory.broker, before.memory.broker);
    let opened = number((each * tenants) as u64);
    let figures = named([
        ("gateway memory each", "KiB", Figure::of(gateway.map(|kib| kib / opened)), "≤ 64"),
        ("gateway memory, all", "MiB", Figure::of(after.memory.gateway.map(|bytes| number(bytes) / 1_048_576.0)), ""),
        ("broker memory each", "KiB", Figure::of(broker.map(|kib| kib / opened)), ""),
    ]);
    let description = format!("{} idle subscriptions of {tenants} tenants", each * tenants);
    Ok(ScenarioReport { scenario: Scenario::IdleStreams, description, figures })
}
