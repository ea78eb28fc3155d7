//! Tenants with many instances, each with a stream of its own in both directions at a low rate, one message a frame:
//! the latency that the gateway adds to direct clients doing the same, and its processor time compared with that of one
//! stream at full speed.

use super::{ScenarioReport, named};
use crate::{
    Error,
    figures::Figure,
    job::{Mode, Path},
    plan::{Cell, Fleet, Plan, Scenario},
    rig::Rig,
    rounds::{Run, Setting, Shape, line, run},
};

/// The queues of each tenant. Instances of an application share queues.
const QUEUES: usize = 2;

/// The runs of one round.
struct Round {
    single: Run,
    ordinary: Run,
    direct: Run,
    gateway: Run,
}

pub(super) async fn measure(rig: &mut Rig, plan: &Plan) -> Result<ScenarioReport, Error> {
    let Fleet { tenants, instances, rate } = plan.fleet;
    let cell = Cell { mode: Mode::Both, tenants, streams: instances, frame: 1, ..plan.first_cell() };
    let one = Cell { tenants: 1, streams: 1, ..cell.clone() };
    let all = rate * (tenants * instances) as f64;
    let load = Shape { queues: Some(QUEUES), ..Shape::default() };
    let fleet = Setting { plan, cell: &cell, gateway: None, tenants: "fleet", load };
    let single = Setting { plan, cell: &one, gateway: None, tenants: "bench", load: Shape::default() };
    let mut rounds = Vec::new();
    for round in 0..plan.rounds {
        let single = Box::pin(run(rig, &single, Path::Gateway, None, round)).await?;
        plan.say(&format!("one stream {}", line(&single, plan.rounds)));
        let mut runs = Vec::new();
        for turn in 0..Path::ALL.len() {
            let path = Path::ALL[(round + turn) % Path::ALL.len()];
            let run = Box::pin(run(rig, &fleet, path, Some(all), round)).await?;
            plan.say(&line(&run, plan.rounds));
            runs.push(run);
        }
        runs.sort_by_key(|run| run.path);
        let Ok([ordinary, direct, gateway]) = <[Run; 3]>::try_from(runs) else { continue };
        rounds.push(Round { single, ordinary, direct, gateway });
    }
    let figure = |of: &dyn Fn(&Round) -> Option<f64>| Figure::of_all(rounds.iter().map(of));
    let p50 = |run: &Run| run.end_to_end_ms.map(|ms| ms.p50);
    let p99 = |run: &Run| run.end_to_end_ms.map(|ms| ms.p99);
    let figures = named([
        ("(c) gateway: messages", "per second", figure(&|round| Some(round.gateway.messages_per_second)), ""),
        ("(c) gateway: rate kept", "", figure(&|round| Some(round.gateway.messages_per_second / all)), "≥ 0.99"),
        ("(b) direct: rate kept", "", figure(&|round| Some(round.direct.messages_per_second / all)), ""),
        ("(a) ordinary: rate kept", "", figure(&|round| Some(round.ordinary.messages_per_second / all)), ""),
        ("p50, (b) direct", "ms", figure(&|round| p50(&round.direct)), ""),
        ("p50, (c) − (b)", "ms", figure(&|round| Some(p50(&round.gateway)? - p50(&round.direct)?)), "≤ 0.4"),
        ("p99, (b) direct", "ms", figure(&|round| p99(&round.direct)), ""),
        ("p99, (c) − (b)", "ms", figure(&|round| Some(p99(&round.gateway)? - p99(&round.direct)?)), "≤ 3"),
        ("processor time each: gateway", "µs", figure(&|round| round.gateway.cpu_us_per_message.gateway), ""),
        ("processor time each: (b)", "µs", figure(&|round| round.direct.cpu_us_per_message.application), ""),
        ("processor time each: broker, (c)", "µs", figure(&|round| round.gateway.cpu_us_per_message.broker), ""),
        ("processor time each: broker, (b)", "µs", figure(&|round| round.direct.cpu_us_per_message.broker), ""),
        (
            "processor time of the gateway ÷ that of one stream at full speed",
            "",
            figure(&|round| Some(round.gateway.cpu_us_per_message.gateway? / round.single.cpu_us_per_message.gateway?)),
            "≤ 1.5",
        ),
    ]);
    let description = format!(
        "{tenants} tenants with {instances} instances each; every instance publishes {rate} messages/s of {} bytes, one \
         a frame, and consumes",
        cell.size
    );
    Ok(ScenarioReport { scenario: Scenario::Fleet, description, figures })
}
