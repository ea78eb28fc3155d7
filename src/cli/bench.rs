//! `warrengate bench`: what the gateway costs, measured on this machine against direct clients of the same broker. Flags
//! enter; a table, JSON, a page of Markdown and a picture leave. It starts what it needs, and stops all of it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::ValueEnum;

use super::{Error, Output, signals::Signals};
use crate::bench::{self, Axes, Mode, Plan, QueueKind, Scenario, Tuning};

const EXAMPLES: &str = "\
Examples:
  warrengate bench --quick                                   a first look, in about a minute
  warrengate bench --json                                    the figures that the project promises, as JSON
  warrengate bench --size 16,256,4096,65536,1048576 --queue quorum,classic,stream
  warrengate bench --scenario latency --rate 1000
  warrengate bench --scenario limits                         beside a tenant that is ten times over each limit
  warrengate bench --scenario tenants,idle-streams,verify,startup

Build with --release, and let nothing else run: the report says when others took part of the machine.";

/// The flags of `bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// What to measure, in this order
    #[arg(long, value_delimiter = ',', default_values_t = [ScenarioName::Throughput, ScenarioName::Latency])]
    scenario: Vec<ScenarioName>,
    /// Bytes of a body; every combination of the lists is measured, the first of each gives the ratios
    #[arg(long, value_delimiter = ',', default_values_t = [256])]
    size: Vec<usize>,
    /// Kinds of queue
    #[arg(long, value_delimiter = ',', default_values_t = [QueueName::Quorum])]
    queue: Vec<QueueName>,
    /// Which half, or both at once
    #[arg(long, value_delimiter = ',', default_values_t = [ModeName::Both])]
    mode: Vec<ModeName>,
    /// Tenants at once
    #[arg(long, value_delimiter = ',', default_values_t = [1])]
    tenants: Vec<usize>,
    /// Streams of each tenant, each way
    #[arg(long, value_delimiter = ',', default_values_t = [1])]
    streams: Vec<usize>,
    /// Most messages in a frame of a publish stream
    #[arg(long, value_delimiter = ',', default_values_t = [64])]
    frame: Vec<usize>,
    /// How often each way is measured, by turns
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// How long each load lasts
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    seconds: f64,
    /// Messages a second, where the rate is fixed
    #[arg(long, value_name = "COUNT", default_value_t = 1_000.0)]
    rate: f64,
    /// About a minute in all: three rounds of two seconds, and little of what takes long
    #[arg(long)]
    quick: bool,
    /// Tenants to make in the scenario tenants [default: 1000, quick 50]
    #[arg(long, value_name = "COUNT")]
    many_tenants: Option<usize>,
    /// Subscriptions in the scenario idle-streams [default: 5000, quick 200]
    #[arg(long, value_name = "COUNT")]
    idle_streams: Option<usize>,
    /// Tenants in the scenario idle-streams [default: a tenth of the subscriptions]
    #[arg(long, value_name = "COUNT")]
    idle_tenants: Option<usize>,
    /// The plan of the tenants that are measured
    #[arg(long, value_name = "PLAN", default_value = "unlimited")]
    plan: String,
    /// The plan of the tenant that misbehaves in the scenarios neighbour and slow-consumer
    #[arg(long, value_name = "PLAN", default_value = "free")]
    neighbour_plan: String,
    /// The share of messages that is traced; 0 for no tracing at all
    #[arg(long, value_name = "RATIO", default_value_t = 0.01)]
    sample_ratio: f64,
    /// Publishing channels of the best direct client
    #[arg(long, value_name = "COUNT", default_value_t = Tuning::default().direct_channels)]
    direct_channels: usize,
    /// Unanswered publishes of a stream, all ways alike
    #[arg(long, value_name = "COUNT", default_value_t = Tuning::default().window)]
    window: usize,
    /// Unacknowledged deliveries of a stream, (b) and (c) alike
    #[arg(long, value_name = "COUNT", default_value_t = Tuning::default().prefetch)]
    prefetch: u16,
    /// Threads of the clients' runtime, all ways alike [default: as many as there are processors]
    #[arg(long, value_name = "COUNT")]
    client_threads: Option<usize>,
    /// A setting of the gateway by its environment name, such as TOKIO_WORKER_THREADS=1
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Where the broker's data lie while it runs; must not exist, and is deleted [default: .warrengate/bench-PID]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// A RabbitMQ other than the installed one
    #[arg(long, value_name = "PATH")]
    broker: Option<PathBuf>,
    /// Write the tables into this file, as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write a picture of the throughput into this file, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// A hidden command: the client process that `bench` starts.
#[derive(Debug, clap::Args)]
pub(super) struct WorkerArgs {}

pub(super) async fn worker(_args: WorkerArgs) -> Result<(), Error> {
    bench::serve_worker().await.map_err(|error| Error::Other(error.into()))
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let plan = args.plan(output)?;
    if plan.dir.exists() {
        return Err(Error::Usage(format!("{} exists; name a folder that does not", plan.dir.display())));
    }
    let mut signals = Signals::listen()?;
    let report = tokio::select! {
        report = Box::pin(bench::run(&plan)) => report.map_err(anyhow::Error::from)?,
        // What was started ends with its owner, which is dropped here.
        () = signals.next() => return Err(Error::Failed("interrupted".to_owned())),
    };
    let markdown = report.markdown();
    let json = serde_json::to_value(&report).map_err(anyhow::Error::from)?;
    // First: a file that cannot be written must not cost what took minutes to measure.
    output.result(|| json, || markdown.clone())?;
    if let Some(file) = &args.markdown {
        std::fs::write(file, &markdown).map_err(Error::io(format!("cannot write {}", file.display())))?;
    }
    args.plot.map_or(Ok(()), |file| report.plot(&file)).map_err(|error| anyhow::Error::from(error).into())
}

impl Args {
    fn plan(&self, output: &Output) -> Result<Plan, Error> {
        let few = [&self.tenants, &self.streams, &self.frame];
        if few.iter().any(|list| list.contains(&0)) || self.rounds == 0 {
            return Err(Error::Usage("tenants, streams, frames and rounds are at least 1".to_owned()));
        }
        if self.size.iter().any(|size| *size < 8) && self.scenario.contains(&ScenarioName::Latency) {
            // A body says when it was due.
            return Err(Error::Usage("latency needs bodies of at least 8 bytes".to_owned()));
        }
        if self.plot.is_some() && !self.scenario.contains(&ScenarioName::Throughput) {
            return Err(Error::Usage("a plot needs the scenario throughput".to_owned()));
        }
        let is_share = (0.0..=1.0).contains(&self.sample_ratio);
        if !is_share || self.rate.is_nan() || self.rate <= 0.0 || !(0.1..=3_600.0).contains(&self.seconds) {
            return Err(Error::Usage(
                "the sample ratio is 0 to 1, the rate above 0, and the seconds 0.1 to 3600".to_owned(),
            ));
        }
        let quick = |long, short| if self.quick { short } else { long };
        let idle = self.idle_streams.unwrap_or(quick(5_000, 200));
        let output = output.clone();
        Ok(Plan {
            scenarios: self.scenario.iter().map(|name| (*name).into()).collect(),
            axes: Axes {
                sizes: self.size.clone(),
                queues: self.queue.iter().map(|name| (*name).into()).collect(),
                modes: self.mode.iter().map(|name| (*name).into()).collect(),
                tenants: self.tenants.clone(),
                streams: self.streams.clone(),
                frames: self.frame.clone(),
            },
            rounds: if self.quick { self.rounds.min(3) } else { self.rounds },
            duration: Duration::from_secs_f64(if self.quick { self.seconds.min(2.0) } else { self.seconds }),
            rate: self.rate,
            many_tenants: self.many_tenants.unwrap_or(quick(1_000, 50)).max(1),
            idle: (idle.max(1), self.idle_tenants.unwrap_or(idle / 10).max(1)),
            tenant_plan: self.plan.clone(),
            neighbour_plan: self.neighbour_plan.clone(),
            sample_ratio: (self.sample_ratio > 0.0).then_some(self.sample_ratio),
            tuning: Tuning {
                direct_channels: self.direct_channels.max(1),
                window: self.window.max(1),
                prefetch: self.prefetch.max(1),
                threads: self.client_threads.map(|threads| threads.max(1)),
                ..Tuning::default()
            },
            dir: self.dir.clone().unwrap_or_else(|| format!(".warrengate/bench-{}", std::process::id()).into()),
            installation: self.broker.clone(),
            settings: self.settings.clone(),
            command: command(),
            progress: Arc::new(move |line| output.note(line)),
        })
    }
}

/// What was typed, without the place of the program.
fn command() -> String {
    std::iter::once("warrengate".to_owned()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" ")
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("give it as NAME=VALUE")?;
    let known = ["WARRENGATE_", "OTEL_", "TOKIO_"].iter().any(|prefix| name.starts_with(prefix));
    if !known {
        return Err("a setting's name begins with WARRENGATE_, OTEL_ or TOKIO_".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// A clap enumeration of words, each for a value of the bench's own, and how it is printed as a default.
macro_rules! words {
    ($name:ident for $of:ident { $($word:ident),+ $(,)? }) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
        enum $name {
            $($word),+
        }

        impl From<$name> for $of {
            fn from(name: $name) -> Self {
                match name {
                    $($name::$word => Self::$word),+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str($of::from(*self).name())
            }
        }
    };
}

words!(ScenarioName for Scenario {
    Throughput, Latency, Neighbour, Limits, Sampling, Collector, SlowConsumer, Tenants, IdleStreams, Verify, WrongSecrets, Startup,
});
words!(QueueName for QueueKind { Quorum, Classic, Stream });
words!(ModeName for Mode { Publish, Consume, Both });
