//! What to measure: axes, and the cells of their table. The first cell is the one for the ratios.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::Serialize;

use super::job::{Mode, Tuning};
use warrengate::pb;

/// The type of a queue.
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
    /// The name in the JSON report.
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
    /// The size of a body in bytes.
    pub size: usize,
    /// The type of its queues.
    pub queue: QueueKind,
    /// Which direction is measured.
    pub mode: Mode,
    /// Concurrent tenants.
    pub tenants: usize,
    /// Streams of each tenant in each direction.
    pub streams: usize,
    /// The maximum number of messages in a frame of a publish stream.
    pub frame: usize,
}

impl Cell {
    /// A readable description of the combination.
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
    /// Sizes of bodies in bytes.
    pub sizes: Vec<usize>,
    /// Types of queues.
    pub queues: Vec<QueueKind>,
    /// Directions.
    pub modes: Vec<Mode>,
    /// Numbers of concurrent tenants, each with the number of streams of a tenant in each direction.
    pub fleets: Vec<(usize, usize)>,
    /// Maximum numbers of messages in a frame of a publish stream.
    pub frames: Vec<usize>,
}

impl Axes {
    /// Every combination; the first has the first value of each axis.
    pub fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for &size in &self.sizes {
            for &queue in &self.queues {
                for &mode in &self.modes {
                    for &(tenants, streams) in &self.fleets {
                        for &frame in &self.frames {
                            cells.push(Cell { size, queue, mode, tenants, streams, frame });
                        }
                    }
                }
            }
        }
        cells
    }
}

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Messages per second, processor time and memory, for each path.
    Throughput,
    /// Latency at a fixed rate, for each path.
    Latency,
    /// One tenant with another that sends as much as possible.
    BusyTenant,
    /// One tenant with another that exceeds each limit of its plan tenfold, one limit at a time.
    Limits,
    /// The cost of tracing 1 % and 100 % of the messages.
    Sampling,
    /// The cost of a trace collector that accepts connections and never answers.
    Collector,
    /// One tenant with another that never acknowledges.
    SlowConsumer,
    /// Creating many tenants.
    Tenants,
    /// Many idle subscriptions, and many idle publish streams.
    IdleStreams,
    /// Many tenants with several instances each, at a fixed rate.
    Fleet,
    /// Bodies of different sizes on one stream.
    MixedSizes,
    /// Many tenants with a publish and a subscribe stream each, and a restart of the broker.
    ActiveTenants,
    /// Verifying tokens.
    Verify,
    /// Streams during a flood of wrong secrets.
    WrongSecrets,
    /// Streams while people have live pages of the web console open.
    ConsoleSessions,
    /// The time from the gateway's start until it is ready.
    Startup,
}

impl Scenario {
    /// The name in the JSON report and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Latency => "latency",
            Self::BusyTenant => "busy-tenant",
            Self::Limits => "limits",
            Self::Sampling => "sampling",
            Self::Collector => "collector",
            Self::SlowConsumer => "slow-consumer",
            Self::Tenants => "tenants",
            Self::IdleStreams => "idle-streams",
            Self::Fleet => "fleet",
            Self::MixedSizes => "mixed-sizes",
            Self::ActiveTenants => "active-tenants",
            Self::Verify => "verify",
            Self::WrongSecrets => "wrong-secrets",
            Self::ConsoleSessions => "console-sessions",
            Self::Startup => "startup",
        }
    }
}

/// Tenants with several instances each; an instance has a publish and a subscribe stream.
#[derive(Debug, Clone, Copy)]
pub struct Fleet {
    /// Tenants.
    pub tenants: usize,
    /// Instances of each tenant.
    pub instances: usize,
    /// Messages per second of each instance.
    pub rate: f64,
}

/// A complete measurement.
#[derive(Clone)]
pub struct Plan {
    /// What to measure, in this order.
    pub scenarios: Vec<Scenario>,
    /// The axes of the throughput; the other scenarios use the first cell.
    pub axes: Axes,
    /// The number of rounds.
    pub rounds: usize,
    /// The duration of each load.
    pub duration: Duration,
    /// Messages per second in scenarios with a fixed rate.
    pub rate: f64,
    /// The number of tenants to create in the scenarios `tenants` and `active-tenants`.
    pub many_tenants: usize,
    /// The load of the scenario `fleet`.
    pub fleet: Fleet,
    /// The number of idle subscriptions, and of the tenants among which they are divided.
    pub idle: (usize, usize),
    /// The plan of the tenants that are measured.
    pub tenant_plan: String,
    /// The plan of the tenant that misbehaves.
    pub misuse_plan: String,
    /// The share of messages to trace unless a scenario sets it; `None` turns tracing off.
    pub sample_ratio: Option<f64>,
    /// The clients' settings.
    pub tuning: Tuning,
    /// The folder of the broker's data while it runs; deleted at the end.
    pub dir: PathBuf,
    /// A RabbitMQ installation other than the system's.
    pub installation: Option<PathBuf>,
    /// Settings of the gateway that differ from the defaults, by their environment names.
    pub settings: Vec<(String, String)>,
    /// The `warrengate` program to measure.
    pub gateway: PathBuf,
    /// The command line, for the report.
    pub command: String,
    /// Receives progress messages.
    pub progress: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Plan {
    pub(super) fn say(&self, line: &str) {
        (self.progress)(line);
    }

    /// The combination that all scenarios but the throughput use.
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
    fn the_first_cell_has_the_first_value_of_each_axis() {
        let axes = Axes {
            sizes: vec![256, 16],
            queues: vec![QueueKind::Quorum, QueueKind::Classic],
            modes: vec![Mode::Both],
            fleets: vec![(1, 1), (1, 10)],
            frames: vec![64, 1],
        };
        let cells = axes.cells();
        assert_eq!(cells.len(), 16);
        assert_eq!(cells[0].title(), "256 B, quorum, both, 1 tenant(s) × 1 stream(s), frames of 64");
    }
}
