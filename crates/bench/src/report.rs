//! The report of a measurement: summaries, ratios, JSON, Markdown and a plot.
//!
//! It reports when its figures are unreliable: a debug build, a single round, or a busy machine.

mod markdown;
mod plot;

use std::time::SystemTime;

use serde::Serialize;

use super::{
    Error,
    figures::{Figure, Percentiles},
    job::{Path, Tuning},
    machine::Machine,
    meter::PerProcess,
    plan::{Cell, Plan},
    rounds::Run,
    scenario::ScenarioReport,
};

/// Above this share of processor time used by other programs, the report contains a warning.
const MAX_OTHERS_SHARE: f64 = 0.05;

/// The report of a complete measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of the report's format.
    pub version: u32,
    /// When the measurement began, in seconds since 1970.
    pub started: u64,
    /// The command that repeats it.
    pub command: String,
    /// Why the figures are unreliable; empty for a good measurement.
    pub warnings: Vec<String>,
    /// The machine and the build.
    pub machine: Machine,
    /// The duration of each load in seconds.
    pub seconds: f64,
    /// The number of rounds.
    pub rounds: usize,
    /// The clients' settings.
    pub tuning: Tuning,
    /// The median ratios of the first combination.
    pub ratios: Option<Medians>,
    /// The median latency at a fixed rate that the gateway adds to the tuned direct client, in milliseconds.
    pub latency_added_ms: Option<AddedMedians>,
    /// The throughput of each combination of the axes.
    pub throughput: Vec<CellReport>,
    /// The latency at a fixed rate.
    pub latency: Vec<CellReport>,
    /// The other scenarios.
    pub scenarios: Vec<ScenarioReport>,
}

/// The figures of one combination.
#[derive(Debug, Clone, Serialize)]
pub struct CellReport {
    /// The combination.
    pub cell: Cell,
    /// Messages per second, if the rate was fixed.
    pub rate: Option<f64>,
    /// The summaries of (a), (b) and (c).
    pub paths: Vec<Summary>,
    /// Computed in each round.
    pub ratios: Option<Ratios>,
    /// Computed in each round.
    pub latency_added_ms: Option<LatencyAdded>,
    /// All runs.
    pub runs: Vec<Run>,
}

/// The figures of one path over all rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The path.
    pub path: Path,
    /// Completed messages per second.
    pub messages_per_second: Option<Figure>,
    /// The size of their bodies, in MiB per second.
    pub mib_per_second: Option<Figure>,
    /// Processor time for each message, in microseconds.
    pub cpu_us_per_message: PerProcess<Option<Figure>>,
    /// Resident memory at the end.
    pub memory_mib: PerProcess<Option<Figure>>,
    /// Median time from when a message was due until its arrival.
    pub p50_ms: Option<Figure>,
    /// 99th percentile of the same.
    pub p99_ms: Option<Figure>,
}

/// (c) compared with the other paths, with the spread.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ratios {
    /// (c) ÷ (b): compared with the tuned direct client.
    pub throughput_vs_direct: Figure,
    /// (c) ÷ (a): compared with the ordinary direct client.
    pub throughput_vs_ordinary: Figure,
    /// The gateway's processor time for each message ÷ that of the tuned direct client.
    pub cpu_vs_direct: Option<Figure>,
    /// The application's processor time for each message, (c) ÷ (b).
    pub application_cpu_vs_direct: Option<Figure>,
}

/// The latency that the gateway adds, in milliseconds, with the spread.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LatencyAdded {
    /// The difference of the medians.
    pub p50: Figure,
    /// The difference of the 99th percentiles.
    pub p99: Figure,
}

/// The median ratios of the first combination.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Medians {
    pub throughput_vs_direct: f64,
    pub throughput_vs_ordinary: f64,
    pub cpu_vs_direct: Option<f64>,
    pub application_cpu_vs_direct: Option<f64>,
}

/// The median latencies that the gateway adds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct AddedMedians {
    pub p50: f64,
    pub p99: f64,
}

impl Report {
    pub(super) fn new(plan: &Plan, machine: Machine) -> Self {
        let mut warnings = Vec::new();
        if machine.build != "release" {
            warnings.push("this is a debug build".to_owned());
        }
        if plan.rounds < 5 {
            warnings.push(format!("{} round(s) only", plan.rounds));
        }
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Self {
            version: 1,
            started,
            command: plan.command.clone(),
            warnings,
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
        self.warn(&cell, &runs);
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
        self.warn(&cell, &runs);
        let report = CellReport::of(cell, Some(rate), runs);
        let added = report.latency_added_ms.map(|ms| AddedMedians { p50: ms.p50.median, p99: ms.p99.median });
        self.latency_added_ms = self.latency_added_ms.or(added);
        self.latency.push(report);
    }

    pub(super) fn add(&mut self, report: Option<ScenarioReport>) {
        self.scenarios.extend(report);
    }

    fn warn(&mut self, cell: &Cell, runs: &[Run]) {
        let share = Figure::of(runs.iter().map(|run| run.others_share));
        if let Some(share) = share.filter(|share| share.median > MAX_OTHERS_SHARE) {
            self.warnings.push(format!(
                "other programs took {:.0} % of the machine ({})",
                share.median * 100.0,
                cell.title()
            ));
        }
    }

    /// The report as a Markdown page.
    pub fn markdown(&self) -> String {
        markdown::page(self)
    }

    /// Draws the throughput.
    ///
    /// # Errors
    /// When the file cannot be written, or no throughput was measured.
    pub fn plot(&self, file: &std::path::Path) -> Result<(), Error> {
        plot::draw(self, file)
    }
}

impl CellReport {
    fn of(cell: Cell, rate: Option<f64>, runs: Vec<Run>) -> Self {
        let paths = Path::ALL.map(|path| Summary::of(path, &runs)).into();
        let ratios = ratios(&runs);
        let latency_added_ms = rate.and_then(|_| added(&runs));
        Self { cell, rate, paths, ratios, latency_added_ms, runs }
    }

    /// The figures of one path.
    pub fn path(&self, path: Path) -> Option<&Summary> {
        self.paths.iter().find(|summary| summary.path == path)
    }
}

impl Summary {
    fn of(path: Path, runs: &[Run]) -> Self {
        let all = |of: &dyn Fn(&Run) -> Option<f64>| Figure::of_all(runs.iter().filter(|run| run.path == path).map(of));
        let three = |of: fn(&Run) -> PerProcess<Option<f64>>| PerProcess {
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

/// The three runs of each round.
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
