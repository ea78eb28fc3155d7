//! A tenant at a fixed rate: alone, and while another tenant sends as much as possible or consumes without
//! acknowledging.

use super::{ScenarioReport, named};
use crate::{
    Error,
    figures::Figure,
    job::{Account, Load, Mode, Path},
    plan::{Cell, Plan, Scenario},
    process::Worker,
    rig::{Rig, names},
    rounds::{Run, Setting, Shape, line, run},
};

/// What the other tenant does.
#[derive(Clone, Copy)]
enum Misuse {
    Flood,
    Hoard,
}

pub(super) async fn busy_tenant(rig: &mut Rig, plan: &Plan) -> Result<ScenarioReport, Error> {
    let description = format!(
        "a tenant at {} messages/s both ways, alone and with a tenant of plan {} that publishes and consumes all it can",
        plan.rate, plan.misuse_plan
    );
    with_misuse(rig, plan, Scenario::BusyTenant, Misuse::Flood, description).await
}

pub(super) async fn slow_consumer(rig: &mut Rig, plan: &Plan) -> Result<ScenarioReport, Error> {
    let description = format!(
        "a tenant at {} messages/s both ways, alone and with a tenant that keeps a full window and acknowledges nothing",
        plan.rate
    );
    with_misuse(rig, plan, Scenario::SlowConsumer, Misuse::Hoard, description).await
}

async fn with_misuse(
    rig: &mut Rig,
    plan: &Plan,
    scenario: Scenario,
    misuse: Misuse,
    description: String,
) -> Result<ScenarioReport, Error> {
    let cell = Cell { mode: Mode::Both, tenants: 1, streams: 1, ..plan.first_cell() };
    let setting = Setting { plan, cell: &cell, gateway: None, tenants: "bench", load: Shape::default() };
    let mut rounds = Vec::new();
    for round in 0..plan.rounds {
        let alone = Box::pin(run(rig, &setting, Path::Gateway, Some(plan.rate), round)).await?;
        plan.say(&format!("alone  {}", line(&alone, plan.rounds)));
        let accounts = rig.accounts(&names("other", 1), &plan.misuse_plan, cell.queue, 1).await?;
        let other = start(rig, plan, &cell, misuse, &accounts).await?;
        let shared = Box::pin(run(rig, &setting, Path::Gateway, Some(plan.rate), round)).await?;
        plan.say(&format!("shared {}", line(&shared, plan.rounds)));
        other.end().await?;
        rig.delete(&accounts).await?;
        rounds.push((alone, shared));
    }
    let ratio = |of: fn(&Run) -> Option<f64>| {
        Figure::of_all(rounds.iter().map(|(alone, shared)| Some(of(shared)? / of(alone)?)))
    };
    let p99 = |run: &Run| run.end_to_end_ms.map(|ms| ms.p99);
    let figures = named([
        ("throughput with misuse ÷ alone", "", ratio(|run| Some(run.messages_per_second)), "≥ 0.9"),
        ("p99 with misuse ÷ alone", "", ratio(p99), "≤ 2"),
        ("p99 alone", "ms", Figure::of_all(rounds.iter().map(|(alone, _)| p99(alone))), ""),
        ("p99 with misuse", "ms", Figure::of_all(rounds.iter().map(|(_, shared)| p99(shared))), ""),
    ]);
    Ok(ScenarioReport { scenario, description, figures })
}

/// Starts the load of the other tenant.
async fn start(rig: &Rig, plan: &Plan, cell: &Cell, misuse: Misuse, accounts: &[Account]) -> Result<Worker, Error> {
    let job = |mode, load| rig.job(plan, cell, rig.gateway(), (Path::Gateway, mode, load), accounts.to_vec());
    // It must outlast the measured load, and is ended by the caller.
    let seconds = plan.duration.as_secs_f64() * 2.0 + 60.0;
    match misuse {
        Misuse::Flood => {
            let mut worker = Worker::start(&job(Mode::Both, Load::Full { seconds })).await?;
            worker.go().await?;
            Ok(worker)
        }
        Misuse::Hoard => {
            let mut filling = Worker::start(&job(Mode::Publish, Load::Full { seconds: 1.0 })).await?;
            filling.go().await?;
            filling.outcome().await?;
            filling.end().await?;
            Worker::start(&job(Mode::Consume, Load::Hoard)).await
        }
    }
}
