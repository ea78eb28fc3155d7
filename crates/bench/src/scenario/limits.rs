//! Every limit of a plan: a tenant at a fixed rate, alone and with another that exceeds one limit tenfold, limit by
//! limit, in every round. `cases` has the table.
//!
//! A run during which the limit was not reached is an error, never a figure.

mod cases;
mod offender;
mod publishing;
mod requests;

use self::{
    cases::Case,
    offender::{Counts, Offender},
};
use super::{ScenarioReport, named};
use crate::{
    Error,
    figures::Figure,
    job::{Mode, Path},
    plan::{Cell, Plan, Scenario},
    rig::Rig,
    rounds::{Run, Setting, Shape, line, run},
};

/// The result of one round for one limit.
struct LimitRun {
    throughput: f64,
    p99: Option<f64>,
    refused_per_second: f64,
}

pub(super) async fn measure(rig: &mut Rig, plan: &Plan) -> Result<ScenarioReport, Error> {
    let cell = Cell { mode: Mode::Both, tenants: 1, streams: 1, ..plan.first_cell() };
    let setting = Setting { plan, cell: &cell, gateway: None, tenants: "bench", load: Shape::default() };
    let p99 = |run: &Run| run.end_to_end_ms.map(|ms| ms.p99);
    let mut cases: Vec<(Case, Vec<LimitRun>)> = cases::all().into_iter().map(|case| (case, Vec::new())).collect();
    let mut alone_p99 = Vec::new();
    for round in 0..plan.rounds {
        let alone = Box::pin(run(rig, &setting, Path::Gateway, Some(plan.rate), round)).await?;
        plan.say(&format!("alone: {}", line(&alone, plan.rounds)));
        for (number, (case, measured)) in cases.iter_mut().enumerate() {
            // A new name each time, so that it does not conflict with objects that are still being deleted.
            let name = format!("over-{round}-{number}");
            let (run, refused_per_second) = Box::pin(with_misuse(rig, &setting, case, &name, round)).await?;
            let limit = case.limit;
            plan.say(&format!(
                "{limit}, {refused_per_second:.0} per second over the limit: {}",
                line(&run, plan.rounds)
            ));
            measured.push(LimitRun {
                throughput: run.messages_per_second / alone.messages_per_second,
                p99: p99(&run).zip(p99(&alone)).map(|(shared, alone)| shared / alone),
                refused_per_second,
            });
        }
        alone_p99.push(p99(&alone));
    }
    let mut figures = named([("p99 alone", "ms", Figure::of_all(alone_p99), "")]);
    for (Case { limit, .. }, measured) in &cases {
        let of = |value: fn(&LimitRun) -> Option<f64>| Figure::of_all(measured.iter().map(value));
        figures.extend(named([
            (format!("{limit}: throughput with misuse ÷ alone"), "", of(|run| Some(run.throughput)), "≥ 0.9"),
            (format!("{limit}: p99 with misuse ÷ alone"), "", of(|run| run.p99), "≤ 2"),
            (format!("{limit}: refused or delayed"), "per second", of(|run| Some(run.refused_per_second)), ""),
        ]));
    }
    let description = format!(
        "a tenant at {} messages/s both ways, alone and with a tenant that exceeds one limit of its plan tenfold, \
         each second, for each limit",
        plan.rate
    );
    Ok(ScenarioReport { scenario: Scenario::Limits, description, figures })
}

/// One run with a tenant that exceeds one limit from before it begins until it ends; also the rate of refusals.
async fn with_misuse(
    rig: &mut Rig,
    setting: &Setting<'_>,
    case: &Case,
    name: &str,
    round: usize,
) -> Result<(Run, f64), Error> {
    let offender = Offender::start(rig, case, name).await?;
    let before = offender.counts();
    let run = Box::pin(run(rig, setting, Path::Gateway, Some(setting.plan.rate), round)).await?;
    let after = offender.counts();
    offender.end(rig).await?;
    Ok((run, over(case.limit, before, after)?))
}

/// The refusals per second; an error unless most attempts were refused.
fn over(limit: &'static str, before: Counts, after: Counts) -> Result<f64, Error> {
    let (answered, refused) = (after.answered - before.answered, after.refused - before.refused);
    if refused == 0 || refused * 2 < answered {
        return Err(Error::NotReached { limit, answered, refused });
    }
    Ok(refused as f64 / (after.at - before.at).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_limit_that_was_not_reached_is_an_error() {
        let at = Instant::now();
        let counts = |answered, refused, seconds| Counts { answered, refused, at: at + Duration::from_secs(seconds) };
        let before = counts(100, 90, 0);
        let per_second = over("max_queues", before, counts(300, 270, 2)).expect("reached");
        assert!((per_second - 90.0).abs() < f64::EPSILON);
        for (answered, refused) in [(300, 90), (100, 90), (300, 189)] {
            assert!(over("max_queues", before, counts(answered, refused, 2)).is_err(), "{refused} of {answered}");
        }
    }
}
