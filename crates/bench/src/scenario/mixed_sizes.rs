//! Bodies of different sizes on one stream, as applications have them: most are small, and most bytes are in a few
//! large ones.

use super::{ScenarioReport, named};
use crate::{
    Error,
    figures::Figure,
    job::{Mode, Path},
    plan::{Cell, Plan, Scenario},
    rig::Rig,
    rounds::{Run, Setting, Shape, line, run},
};

/// Of a hundred bodies, this many have this size.
const SHARES: [(usize, usize); 4] = [(70, 256), (20, 4 << 10), (9, 64 << 10), (1, 1 << 20)];

/// The sizes of a hundred bodies, with the large ones spread among the small ones.
fn sizes() -> Vec<usize> {
    let all: Vec<usize> = SHARES.iter().flat_map(|(count, size)| std::iter::repeat_n(*size, *count)).collect();
    // 37 and 100 have no common factor, so each position is used once.
    (0..all.len()).map(|position| all[position * 37 % all.len()]).collect()
}

pub(super) async fn measure(rig: &mut Rig, plan: &Plan) -> Result<ScenarioReport, Error> {
    let sizes = sizes();
    let mean = sizes.iter().sum::<usize>() / sizes.len();
    let cell = Cell { size: mean, mode: Mode::Both, tenants: 1, streams: 1, ..plan.first_cell() };
    let load = Shape { sizes, ..Shape::default() };
    let setting = Setting { plan, cell: &cell, gateway: None, tenants: "bench", load };
    let mut rounds: Vec<[Run; 3]> = Vec::new();
    for round in 0..plan.rounds {
        let mut runs = Vec::new();
        for turn in 0..Path::ALL.len() {
            let path = Path::ALL[(round + turn) % Path::ALL.len()];
            let run = Box::pin(run(rig, &setting, path, None, round)).await?;
            plan.say(&line(&run, plan.rounds));
            runs.push(run);
        }
        runs.sort_by_key(|run| run.path);
        rounds.extend(<[Run; 3]>::try_from(runs));
    }
    let figure = |of: &dyn Fn(&[Run; 3]) -> Option<f64>| Figure::of_all(rounds.iter().map(of));
    let rate = |index: usize| figure(&|runs| Some(runs[index].messages_per_second));
    let figures = named([
        ("(a) ordinary", "messages per second", rate(0), ""),
        ("(b) direct", "messages per second", rate(1), ""),
        ("(c) gateway", "messages per second", rate(2), ""),
        ("(c) ÷ (b)", "", figure(&|[_, b, c]| Some(c.messages_per_second / b.messages_per_second)), "≥ 0.85"),
        ("(c) ÷ (a)", "", figure(&|[a, _, c]| Some(c.messages_per_second / a.messages_per_second)), ""),
        (
            "processor time of the gateway ÷ that of (b)",
            "",
            figure(&|[_, b, c]| Some(c.cpu_us_per_message.gateway? / b.cpu_us_per_message.application?)),
            "",
        ),
        ("memory of the gateway", "MiB", figure(&|[_, _, c]| c.memory_mib.gateway), ""),
    ]);
    let description = format!(
        "of 100 bodies, 70 have 256 bytes, 20 have 4 KiB, 9 have 64 KiB and 1 has 1 MiB; {mean} bytes on average"
    );
    Ok(ScenarioReport { scenario: Scenario::MixedSizes, description, figures })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_bodies_have_the_shares_of_the_sizes() {
        let sizes = sizes();
        assert_eq!(sizes.len(), 100);
        for (count, size) in SHARES {
            assert_eq!(sizes.iter().filter(|one| **one == size).count(), count, "{size}");
        }
    }
}
