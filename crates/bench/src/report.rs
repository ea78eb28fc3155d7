//! The report of a measurement: summaries, ratios, JSON, Markdown and a plot.
//!
//! It says when its figures are unreliable: a debug build, a single round, or a busy machine.

mod markdown;
mod plot;

use std::time::SystemTime;

use serde::Serialize;

use super::{
    Error,
    figures::{Figure, Percentiles},
    job::{Path, Tuning},
    machine::Machine,
    meter::Three,
    plan::{Cell, Plan},
    rounds::Run,
    scenario::ScenarioReport,
};

/// Of the machine's time that others may take before figures are doubted.
const OTHERS: f64 = 0.05;

/// A whole measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Of this form.
    pub version: u32,
    /// Seconds since 1970 when it began.
    pub started: u64,
    /// How to do it again.
    pub command: String,
    /// Why no claim should be made from it; empty for a good measurement.
    pub doubts: Vec<String>,
    /// Where it was taken.
    pub machine: Machine,
    /// Seconds of each run's load.
    pub seconds: f64,
    /// Rounds.
    pub rounds: usize,
    /// What the clients chose for themselves.
    pub tuning: Tuning,
    /// Of the first combination: medians.
    pub ratios: Option<Medians>,
    /// At the fixed rate: what the gateway adds to the best direct client, in milliseconds; medians.
    pub latency_added_ms: Option<AddedMedians>,
    /// Each combination of the axes.
    pub throughput: Vec<CellReport>,
    /// At a fixed rate.
    pub latency: Vec<CellReport>,
    /// The rest.
    pub scenarios: Vec<ScenarioReport>,
}

/// One combination's figures.
#[derive(Debug, Clone, Serialize)]
pub struct CellReport {
    /// Which.
    pub cell: Cell,
    /// Messages a second, when that was fixed.
    pub rate: Option<f64>,
    /// (a), (b) and (c).
    pub ways: Vec<Summary>,
    /// Made in each round.
    pub ratios: Option<Ratios>,
    /// Made in each round.
    pub latency_added_ms: Option<LatencyAdded>,
    /// Everything that was measured.
    pub runs: Vec<Run>,
}

/// One way's figures over all rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Which way.
    pub path: Path,
    /// Messages that went all the way.
    pub messages_per_second: Option<Figure>,
    /// Their bodies.
    pub mib_per_second: Option<Figure>,
    /// Microseconds of processor time each message.
    pub cpu_us_per_message: Three<Option<Figure>>,
    /// Resident memory at the end.
    pub memory_mib: Three<Option<Figure>>,
    /// From when a message was due to its arrival: half were faster.
    pub p50_ms: Option<Figure>,
    /// One in a hundred was slower.
    pub p99_ms: Option<Figure>,
}

/// (c) beside the others, with the spread.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ratios {
    /// (c) ÷ (b): against the best direct client.
    pub throughput_vs_direct: Figure,
    /// (c) ÷ (a): against an ordinary one.
    pub throughput_vs_ordinary: Figure,
    /// The gateway's processor time each message ÷ that of the best direct client.
    pub cpu_vs_direct: Option<Figure>,
    /// The application's processor time each message, (c) ÷ (b).
    pub application_cpu_vs_direct: Option<Figure>,
}

/// What the gateway adds, in milliseconds, with the spread.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LatencyAdded {
    /// The median's difference.
    pub p50: Figure,
    /// The 99th percentile's.
    pub p99: Figure,
}

/// The first combination's ratios, as numbers.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Medians {
    pub throughput_vs_direct: f64,
    pub throughput_vs_ordinary: f64,
    pub cpu_vs_direct: Option<f64>,
    pub application_cpu_vs_direct: Option<f64>,
}

/// What the gateway adds, as numbers.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct AddedMedians {
    pub p50: f64,
    pub p99: f64,
}

impl Report {
    pub(super) fn new(plan: &Plan, machine: Machine) -> Self {
        let mut doubts = Vec::new();
        if machine.build != "release" {
            doubts.push("this is a debug build".to_owned());
        }
        if plan.rounds < 5 {
            doubts.push(format!("{} round(s) only", plan.rounds));
        }
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Self {
            version: 1,
            started,
            command: plan.command.clone(),
            doubts,
            machine,
            seconds: plan.duration.as_secs_f64(),
            rounds: plan.rounds,
            tuning: plan.tuning.clone(),
            ratios: None,
            latency_added_ms: None,
            throughput: Vec::new(),
            latency: Vec::new(),
            scenarios: Vec::new(),
        }
    }

    pub(super) fn add_throughput(&mut self, cell: Cell, runs: Vec<Run>) {
        self.doubt(&cell, &runs);
        let report = CellReport::of(cell, None, runs);
        let median = |figure: Option<Figure>| figure.map(|figure| figure.median);
        if self.ratios.is_none() {
            self.ratios = report.ratios.map(|ratios| Medians {
                throughput_vs_direct: ratios.throughput_vs_direct.median,
                throughput_vs_ordinary: ratios.throughput_vs_ordinary.median,
                cpu_vs_direct: median(ratios.cpu_vs_direct),
                application_cpu_vs_direct: median(ratios.application_cpu_vs_direct),
            });
        }
        self.throughput.push(report);
    }

    pub(super) fn add_latency(&mut self, cell: Cell, rate: f64, runs: Vec<Run>) {
        self.doubt(&cell, &runs);
        let report = CellReport::of(cell, Some(rate), runs);
        let added = report.latency_added_ms.map(|ms| AddedMedians { p50: ms.p50.median, p99: ms.p99.median });
        self.latency_added_ms = self.latency_added_ms.or(added);
        self.latency.push(report);
    }

    pub(super) fn add(&mut self, report: Option<ScenarioReport>) {
        self.scenarios.extend(report);
    }

    fn doubt(&mut self, cell: &Cell, runs: &[Run]) {
        let share = Figure::of(runs.iter().map(|run| run.others_share));
        if let Some(share) = share.filter(|share| share.median > OTHERS) {
            self.doubts.push(format!(
                "other programs took {:.0} % of the machine ({})",
                share.median * 100.0,
                cell.title()
            ));
        }
    }

    /// A page of tables.
    pub fn markdown(&self) -> String {
        markdown::page(self)
    }

    /// A picture of the throughput.
    ///
    /// # Errors
    /// When it cannot be written, or nothing was measured.
    pub fn plot(&self, file: &std::path::Path) -> Result<(), Error> {
        plot::draw(self, file)
    }
}

impl CellReport {
    fn of(cell: Cell, rate: Option<f64>, runs: Vec<Run>) -> Self {
        let ways = Path::ALL.map(|path| Summary::of(path, &runs)).into();
        let ratios = ratios(&runs);
        let latency_added_ms = rate.and_then(|_| added(&runs));
        Self { cell, rate, ways, ratios, latency_added_ms, runs }
    }

    /// One way's figures.
    pub fn way(&self, path: Path) -> Option<&Summary> {
        self.ways.iter().find(|way| way.path == path)
    }
}

impl Summary {
    fn of(path: Path, runs: &[Run]) -> Self {
        let all = |of: &dyn Fn(&Run) -> Option<f64>| Figure::of_all(runs.iter().filter(|run| run.path == path).map(of));
        let three = |of: fn(&Run) -> Three<Option<f64>>| Three {
            application: all(&|run| of(run).application),
            gateway: all(&|run| of(run).gateway),
            broker: all(&|run| of(run).broker),
        };
        let percentile = |of: fn(Percentiles) -> f64| all(&|run| run.end_to_end_ms.map(of));
        Self {
            path,
            messages_per_second: all(&|run| Some(run.messages_per_second)),
            mib_per_second: all(&|run| Some(run.mib_per_second)),
            cpu_us_per_message: three(|run| run.cpu_us_per_message),
            memory_mib: three(|run| run.memory_mib),
            p50_ms: percentile(|ms| ms.p50),
            p99_ms: percentile(|ms| ms.p99),
        }
    }
}

/// Of each round its three runs.
fn by_round(runs: &[Run]) -> impl Iterator<Item = [Option<&Run>; 3]> {
    let rounds = runs.iter().map(|run| run.round + 1).max().unwrap_or(0);
    (0..rounds).map(|round| Path::ALL.map(|path| runs.iter().find(|run| run.round == round && run.path == path)))
}

fn ratios(runs: &[Run]) -> Option<Ratios> {
    let ratio = |of: &dyn Fn(&Run, &Run, &Run) -> Option<f64>| {
        Figure::of_all(by_round(runs).map(|[ordinary, direct, gateway]| of(ordinary?, direct?, gateway?)))
    };
    Some(Ratios {
        throughput_vs_direct: ratio(&|_, direct, gateway| {
            Some(gateway.messages_per_second / direct.messages_per_second)
        })?,
        throughput_vs_ordinary: ratio(&|ordinary, _, gateway| {
            Some(gateway.messages_per_second / ordinary.messages_per_second)
        })?,
        cpu_vs_direct: ratio(&|_, direct, gateway| {
            Some(gateway.cpu_us_per_message.gateway? / direct.cpu_us_per_message.application?)
        }),
        application_cpu_vs_direct: ratio(&|_, direct, gateway| {
            Some(gateway.cpu_us_per_message.application? / direct.cpu_us_per_message.application?)
        }),
    })
}

fn added(runs: &[Run]) -> Option<LatencyAdded> {
    let added = |of: fn(Percentiles) -> f64| {
        Figure::of_all(
            by_round(runs).map(|[_, direct, gateway]| Some(of(gateway?.end_to_end_ms?) - of(direct?.end_to_end_ms?))),
        )
    };
    Some(LatencyAdded { p50: added(|ms| ms.p50)?, p99: added(|ms| ms.p99)? })
}

#[cfg(test)]
mod tests;
