//! The cost of tracing: gateways with different settings do the same work in turn on the same broker. Each one's
//! throughput is divided by that of the untraced one.

use warrengate_testkit::otlp::{Collector, SilentServer};

use super::{ScenarioReport, named};
use crate::{
    Error,
    figures::Figure,
    job::Path,
    plan::{Plan, Scenario},
    process::GatewayProcess,
    rig::{Rig, tracing},
    rounds::{Run, Setting, Shape, line, run},
};

pub(super) async fn sampling(rig: &mut Rig, plan: &Plan) -> Result<ScenarioReport, Error> {
    let collector = Collector::counting().await;
    let none = rig.another_gateway("untraced", &tracing("", 0.0)).await?;
    let some = rig.another_gateway("sampled", &tracing(&collector.endpoint(), 0.01)).await?;
    let all = rig.another_gateway("traced", &tracing(&collector.endpoint(), 1.0)).await?;
    let rounds = in_turn(rig, plan, &[("off", &none), ("1 %", &some), ("100 %", &all)]).await?;
    let figures = named([
        ("throughput traced at 1 % ÷ untraced", "", ratio(&rounds, 1), "≥ 0.97"),
        ("throughput traced at 100 % ÷ untraced", "", ratio(&rounds, 2), "≥ 0.75"),
    ]);
    plan.say(&format!("the collector received {} spans", collector.count()));
    for gateway in [none, some, all] {
        gateway.end().await?;
    }
    let description = format!("{}, through gateways that trace 0 %, 1 % and 100 %", plan.first_cell().title());
    Ok(ScenarioReport { scenario: Scenario::Sampling, description, figures })
}

pub(super) async fn collector(rig: &mut Rig, plan: &Plan) -> Result<ScenarioReport, Error> {
    let collector = SilentServer::start().await;
    let none = rig.another_gateway("untraced", &tracing("", 0.0)).await?;
    let hangs = rig.another_gateway("hanging", &tracing(&collector.endpoint(), 0.01)).await?;
    let rounds = in_turn(rig, plan, &[("off", &none), ("hangs", &hangs)]).await?;
    let figures = named([("throughput with a collector that hangs ÷ untraced", "", ratio(&rounds, 1), "≥ 0.97")]);
    for gateway in [none, hangs] {
        gateway.end().await?;
    }
    let description =
        format!("{}, at 1 %, to a collector that accepts connections and never answers", plan.first_cell().title());
    Ok(ScenarioReport { scenario: Scenario::Collector, description, figures })
}

/// A run through each gateway in each round; the first gateway changes from round to round.
async fn in_turn(rig: &mut Rig, plan: &Plan, gateways: &[(&str, &GatewayProcess)]) -> Result<Vec<Vec<Run>>, Error> {
    let cell = plan.first_cell();
    let mut rounds = Vec::new();
    for round in 0..plan.rounds {
        let mut runs = Vec::new();
        for turn in 0..gateways.len() {
            let index = (round + turn) % gateways.len();
            let (name, gateway) = gateways[index];
            let setting =
                Setting { plan, cell: &cell, gateway: Some(gateway), tenants: "bench", load: Shape::default() };
            let run = Box::pin(run(rig, &setting, Path::Gateway, None, round)).await?;
            plan.say(&format!("{name:6} {}", line(&run, plan.rounds)));
            runs.push((index, run));
        }
        runs.sort_by_key(|(index, _)| *index);
        rounds.push(runs.into_iter().map(|(_, run)| run).collect());
    }
    Ok(rounds)
}

fn ratio(rounds: &[Vec<Run>], index: usize) -> Option<Figure> {
    Figure::of(rounds.iter().map(|runs| runs[index].messages_per_second / runs[0].messages_per_second))
}
