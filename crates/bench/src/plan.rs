//! What to measure: axes, and the cells of their table. The first cell is the one for the ratios.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::Serialize;

use super::job::{Mode, Tuning};
use warrengate::pb;

/// Where messages wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueKind {
    /// Replicated, the gateway's default.
    Quorum,
    /// On one node.
    Classic,
    /// An append-only log.
    Stream,
}

impl QueueKind {
    /// As in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
            Self::Stream => "stream",
        }
    }

    pub(super) fn pb(self) -> pb::QueueType {
        match self {
            Self::Quorum => pb::QueueType::Quorum,
            Self::Classic => pb::QueueType::Classic,
            Self::Stream => pb::QueueType::Stream,
        }
    }
}

/// One combination of the axes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Bytes of a body.
    pub size: usize,
    /// Where messages wait.
    pub queue: QueueKind,
    /// Which half is measured.
    pub mode: Mode,
    /// Tenants at once.
    pub tenants: usize,
    /// Streams of each tenant, each way.
    pub streams: usize,
    /// Most messages in a frame of a publish stream.
    pub frame: usize,
}

impl Cell {
    /// For people: only what makes it a cell.
    pub fn title(&self) -> String {
        format!(
            "{} B, {}, {}, {} tenant(s) × {} stream(s), frames of {}",
            self.size,
            self.queue.name(),
            self.mode.name(),
            self.tenants,
            self.streams,
            self.frame
        )
    }
}

/// The values of each axis.
#[derive(Debug, Clone)]
pub struct Axes {
    /// Bytes of a body.
    pub sizes: Vec<usize>,
    /// Where messages wait.
    pub queues: Vec<QueueKind>,
    /// Which half is measured.
    pub modes: Vec<Mode>,
    /// Tenants at once.
    pub tenants: Vec<usize>,
    /// Streams of each tenant, each way.
    pub streams: Vec<usize>,
    /// Most messages in a frame of a publish stream.
    pub frames: Vec<usize>,
}

impl Axes {
    /// Every combination, the first values first.
    pub fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for &size in &self.sizes {
            for &queue in &self.queues {
                for &mode in &self.modes {
                    for &tenants in &self.tenants {
                        for &streams in &self.streams {
                            for &frame in &self.frames {
                                cells.push(Cell { size, queue, mode, tenants, streams, frame });
                            }
                        }
                    }
                }
            }
        }
        cells
    }
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Messages a second, processor time and memory, of each way.
    Throughput,
    /// Latency at a fixed rate, of each way.
    Latency,
    /// One tenant beside another that sends all it can.
    Neighbour,
    /// One tenant beside another that tries ten times what a limit of its plan allows, limit after limit.
    Limits,
    /// What tracing costs, at 1 % and at 100 %.
    Sampling,
    /// What a collector costs that takes spans and answers nothing.
    Collector,
    /// One tenant beside another that never acknowledges.
    SlowConsumer,
    /// Making many tenants.
    Tenants,
    /// Many subscriptions on which nothing happens.
    IdleStreams,
    /// Checking tokens.
    Verify,
    /// Streams beside a flood of wrong secrets.
    WrongSecrets,
    /// From the gateway's start until it is ready.
    Startup,
}

impl Scenario {
    /// As in the JSON and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Latency => "latency",
            Self::Neighbour => "neighbour",
            Self::Limits => "limits",
            Self::Sampling => "sampling",
            Self::Collector => "collector",
            Self::SlowConsumer => "slow-consumer",
            Self::Tenants => "tenants",
            Self::IdleStreams => "idle-streams",
            Self::Verify => "verify",
            Self::WrongSecrets => "wrong-secrets",
            Self::Startup => "startup",
        }
    }
}

/// A whole measurement.
#[derive(Clone)]
pub struct Plan {
    /// What is looked at, in this order.
    pub scenarios: Vec<Scenario>,
    /// For the throughput; the first cell is what the other scenarios use, too.
    pub axes: Axes,
    /// How often each is done, by turns.
    pub rounds: usize,
    /// How long each load lasts.
    pub duration: Duration,
    /// Messages a second, where the rate is fixed.
    pub rate: f64,
    /// How many of what the scenario counts: tenants to make.
    pub many_tenants: usize,
    /// Idle subscriptions, and the tenants that they are divided among.
    pub idle: (usize, usize),
    /// The plan of the tenants that are measured.
    pub tenant_plan: String,
    /// The plan of the tenant that misbehaves.
    pub neighbour_plan: String,
    /// The share of messages that is traced where nothing else is said; nothing turns tracing off.
    pub sample_ratio: Option<f64>,
    /// What the clients choose for themselves.
    pub tuning: Tuning,
    /// Where the broker's data lie while it runs; deleted afterwards.
    pub dir: PathBuf,
    /// A RabbitMQ other than the installed one.
    pub installation: Option<PathBuf>,
    /// Settings of the gateway beside the defaults, by their environment names.
    pub settings: Vec<(String, String)>,
    /// The `warrengate` program to measure.
    pub gateway: PathBuf,
    /// The command line, for the report.
    pub command: String,
    /// Hears what is going on.
    pub progress: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Plan {
    pub(super) fn say(&self, line: &str) {
        (self.progress)(line);
    }

    /// The combination that everything but the throughput is measured with.
    pub(super) fn first_cell(&self) -> Cell {
        let first = self.axes.cells().into_iter().next();
        first.unwrap_or(Cell {
            size: 256,
            queue: QueueKind::Quorum,
            mode: Mode::Both,
            tenants: 1,
            streams: 1,
            frame: 64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cell_has_the_first_of_each() {
        let axes = Axes {
            sizes: vec![256, 16],
            queues: vec![QueueKind::Quorum, QueueKind::Classic],
            modes: vec![Mode::Both],
            tenants: vec![1],
            streams: vec![1, 10],
            frames: vec![64, 1],
        };
        let cells = axes.cells();
        assert_eq!(cells.len(), 16);
        assert_eq!(cells[0].title(), "256 B, quorum, both, 1 tenant(s) × 1 stream(s), frames of 64");
    }
}
