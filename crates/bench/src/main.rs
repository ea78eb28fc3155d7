//! `warrengate-bench`: measures what the gateway costs on this machine, compared with direct AMQP clients of the same
//! broker.
//!
//! It starts a private broker and the `warrengate` program, and stops both. The result is a table, JSON, a Markdown
//! page or a plot.

use std::{io::Write as _, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use warrengate_bench::{self as bench, Axes, Fleet, Mode, Plan, QueueKind, Scenario, Tuning};

/// The gateway's allocator, so that client processes do not differ from it in this (docs/adr/0012).
#[cfg(unix)]
#[global_allocator]
static ALLOCATOR: warrengate_allocator::Allocator = warrengate_allocator::ALLOCATOR;

const EXAMPLES: &str = "\
Examples:
  warrengate-bench --quick                                   a first impression, in about a minute
  warrengate-bench --json                                    the figures of docs/performance.md, as JSON
  warrengate-bench --size 16,256,4096,65536,1048576 --queue quorum,classic,stream
  warrengate-bench --scenario latency --rate 1000
  warrengate-bench --scenario limits                         with a tenant that is ten times over each limit
  warrengate-bench --scenario fleet,mixed-sizes              instances with a stream each, and bodies of all sizes
  warrengate-bench --scenario tenants,idle-streams,active-tenants,verify,startup

Build both programs with --release, and run nothing else: the report warns when other programs use the machine.";

/// Measure what the gateway costs on this machine, compared with direct clients of the same broker
#[derive(Debug, Parser)]
#[command(name = "warrengate-bench", version, after_help = EXAMPLES)]
struct Args {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// The `warrengate` program to measure [default: the one in the folder of this program]
    #[arg(long, value_name = "PATH")]
    gateway: Option<PathBuf>,
    /// What to measure, in this order
    #[arg(long, value_delimiter = ',', default_values_t = [ScenarioName::Throughput, ScenarioName::Latency])]
    scenario: Vec<ScenarioName>,
    /// Bytes of a body; every combination of the lists is measured, the first of each gives the ratios
    #[arg(long, value_delimiter = ',', default_values_t = [256])]
    size: Vec<usize>,
    /// Kinds of queue
    #[arg(long, value_delimiter = ',', default_values_t = [QueueName::Quorum])]
    queue: Vec<QueueName>,
    /// Publishing, consuming, or both at once
    #[arg(long, value_delimiter = ',', default_values_t = [ModeName::Both])]
    mode: Vec<ModeName>,
    /// Concurrent tenants [default: 1; without lists of other axes and without --quick, 1 and 100]
    #[arg(long, value_delimiter = ',')]
    tenants: Vec<usize>,
    /// Streams of each tenant in each direction [default: 1; as for --tenants, 1, 10, 100 and 1000]
    #[arg(long, value_delimiter = ',')]
    streams: Vec<usize>,
    /// Maximum messages in a frame of a publish stream
    #[arg(long, value_delimiter = ',', default_values_t = [64])]
    frame: Vec<usize>,
    /// How often each path is measured, in turn
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// Duration of each load
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    seconds: f64,
    /// Messages per second in scenarios with a fixed rate
    #[arg(long, value_name = "COUNT", default_value_t = 1_000.0)]
    rate: f64,
    /// A run of about a minute: three rounds of two seconds, and small scenarios
    #[arg(long)]
    quick: bool,
    /// Tenants to create in the scenarios tenants and active-tenants [default: 1000, quick 50]
    #[arg(long, value_name = "COUNT")]
    many_tenants: Option<usize>,
    /// Subscriptions in the scenario idle-streams [default: 5000, quick 200]
    #[arg(long, value_name = "COUNT")]
    idle_streams: Option<usize>,
    /// Tenants in the scenario idle-streams [default: a tenth of the subscriptions]
    #[arg(long, value_name = "COUNT")]
    idle_tenants: Option<usize>,
    /// Tenants, instances of each, and messages per second of each instance in the scenario fleet
    /// [default: 50,20,20; quick 5,20,20]
    #[arg(long, value_name = "COUNTS", value_parser = fleet)]
    fleet: Option<Fleet>,
    /// The plan of the tenants that are measured
    #[arg(long, value_name = "PLAN", default_value = "unlimited")]
    plan: String,
    /// The plan of the tenant that misbehaves in the scenarios busy-tenant and slow-consumer
    #[arg(long, value_name = "PLAN", default_value = "free")]
    misuse_plan: String,
    /// The share of messages that is traced; 0 turns tracing off
    #[arg(long, value_name = "RATIO", default_value_t = 0.01)]
    sample_ratio: f64,
    /// Publishing channels of the best direct client
    #[arg(long, value_name = "COUNT", default_value_t = Tuning::default().direct_channels)]
    direct_channels: usize,
    /// Maximum unanswered publishes of a stream, on every path
    #[arg(long, value_name = "COUNT", default_value_t = Tuning::default().window)]
    window: usize,
    /// Maximum unacknowledged deliveries of a stream, on paths (b) and (c)
    #[arg(long, value_name = "COUNT", default_value_t = Tuning::default().prefetch)]
    prefetch: u16,
    /// Threads of the clients' runtime, on every path [default: the number of processors]
    #[arg(long, value_name = "COUNT")]
    client_threads: Option<usize>,
    /// A setting of the gateway by its environment name, such as TOKIO_WORKER_THREADS=1
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Folder of the broker's data; it must not exist, and is deleted at the end [default: .warrengate/bench-PID]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// A RabbitMQ installation other than the system's
    #[arg(long, value_name = "PATH")]
    broker: Option<PathBuf>,
    /// Write the tables into this file, as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write a picture of the throughput into this file, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// Why the program failed, and with which exit code.
#[derive(Debug)]
enum Failure {
    /// The command line is wrong: exit code 2.
    Usage(String),
    /// The measurement failed: exit code 1.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    // A client process of a measurement reads its job from standard input.
    let outcome = match std::env::args().nth(1).as_deref() {
        Some(bench::WORKER_COMMAND) => bench::serve_worker().await.map_err(Failure::from),
        _ => Box::pin(run(Args::parse())).await,
    };
    let (text, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => (text, 2),
        Err(Failure::Failed(error)) => (format!("{error:#}"), 1),
    };
    note(&format!("error: {text}"));
    ExitCode::from(code)
}

/// Writes a line to standard error; there is nothing to do when that fails.
fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

async fn run(args: Args) -> Result<(), Failure> {
    let plan = args.plan()?;
    if plan.dir.exists() {
        return Err(Failure::Usage(format!("{} exists; name a folder that does not", plan.dir.display())));
    }
    if !plan.gateway.is_file() {
        let build = "build it with `cargo build --release --bin warrengate`, or use --gateway PATH";
        return Err(Failure::Usage(format!("there is no gateway at {}; {build}", plan.gateway.display())));
    }
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let report = tokio::select! {
        report = Box::pin(bench::run(&plan)) => report?,
        // Dropping the measurement ends all of its processes.
        _ = interrupt.recv() => return Err(anyhow::anyhow!("interrupted").into()),
        _ = terminate.recv() => return Err(anyhow::anyhow!("interrupted").into()),
    };
    let markdown = report.markdown();
    let result = if args.json { format!("{:#}", serde_json::to_value(&report)?) } else { markdown.clone() };
    // The result is printed first, so that a file that cannot be written does not cost the measurement.
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{result}").and_then(|()| stdout.flush()).context("cannot write the result")?;
    if let Some(file) = &args.markdown {
        std::fs::write(file, &markdown).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(file) = &args.plot {
        report.plot(file)?;
    }
    Ok(())
}

impl Args {
    /// The tenants and streams to measure.
    fn fleets(&self) -> Vec<(usize, usize)> {
        let other_axes = [self.size.len(), self.queue.len(), self.mode.len(), self.frame.len()];
        if self.tenants.is_empty() && self.streams.is_empty() && !self.quick && other_axes.iter().all(|len| *len == 1) {
            return DEFAULT_FLEETS.to_vec();
        }
        let or_one = |list: &[usize]| if list.is_empty() { vec![1] } else { list.to_vec() };
        let streams = or_one(&self.streams);
        or_one(&self.tenants).iter().flat_map(|tenants| streams.iter().map(|streams| (*tenants, *streams))).collect()
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let few = [&self.tenants, &self.streams, &self.frame];
        if few.iter().any(|list| list.contains(&0)) || self.rounds == 0 {
            return Err(Failure::Usage("tenants, streams, frames and rounds are at least 1".to_owned()));
        }
        if self.size.iter().any(|size| *size < 8) && self.scenario.contains(&ScenarioName::Latency) {
            // A body contains the time at which it was due.
            return Err(Failure::Usage("latency needs bodies of at least 8 bytes".to_owned()));
        }
        if self.plot.is_some() && !self.scenario.contains(&ScenarioName::Throughput) {
            return Err(Failure::Usage("a plot needs the scenario throughput".to_owned()));
        }
        let is_share = (0.0..=1.0).contains(&self.sample_ratio);
        if !is_share || self.rate.is_nan() || self.rate <= 0.0 || !(0.1..=3_600.0).contains(&self.seconds) {
            return Err(Failure::Usage(
                "the sample ratio is 0 to 1, the rate above 0, and the seconds 0.1 to 3600".to_owned(),
            ));
        }
        let quick = |long, short| if self.quick { short } else { long };
        let idle = self.idle_streams.unwrap_or(quick(5_000, 200));
        Ok(Plan {
            scenarios: self.scenario.iter().map(|name| (*name).into()).collect(),
            axes: Axes {
                sizes: self.size.clone(),
                queues: self.queue.iter().map(|name| (*name).into()).collect(),
                modes: self.mode.iter().map(|name| (*name).into()).collect(),
                fleets: self.fleets(),
                frames: self.frame.clone(),
            },
            rounds: if self.quick { self.rounds.min(3) } else { self.rounds },
            duration: Duration::from_secs_f64(if self.quick { self.seconds.min(2.0) } else { self.seconds }),
            rate: self.rate,
            many_tenants: self.many_tenants.unwrap_or(quick(1_000, 50)).max(1),
            fleet: self.fleet.unwrap_or(Fleet { tenants: if self.quick { 5 } else { 50 }, instances: 20, rate: 20.0 }),
            idle: (idle.max(1), self.idle_tenants.unwrap_or(idle / 10).max(1)),
            tenant_plan: self.plan.clone(),
            misuse_plan: self.misuse_plan.clone(),
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
            gateway: match &self.gateway {
                Some(path) => path.clone(),
                None => std::env::current_exe()?.with_file_name("warrengate"),
            },
            command: command(),
            progress: Arc::new(note),
        })
    }
}

/// Tenants and streams to measure if none are given: more of either, but not of both, because the other combinations
/// say little more and take long.
const DEFAULT_FLEETS: [(usize, usize); 5] = [(1, 1), (1, 10), (1, 100), (1, 1_000), (100, 1)];

/// Parses `TENANTS,INSTANCES,RATE`.
fn fleet(text: &str) -> Result<Fleet, String> {
    let wrong = "use the form TENANTS,INSTANCES,RATE, each at least 1";
    let numbers: Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
    match numbers.as_deref() {
        Ok([tenants, instances, rate]) if *tenants > 0 && *instances > 0 && *rate > 0 => {
            Ok(Fleet { tenants: *tenants, instances: *instances, rate: *rate as f64 })
        }
        _ => Err(wrong.to_owned()),
    }
}

/// The command line, without the program's folder.
fn command() -> String {
    std::iter::once("warrengate-bench".to_owned()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" ")
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("use the form NAME=VALUE")?;
    let known = ["WARRENGATE_", "OTEL_", "TOKIO_"].iter().any(|prefix| name.starts_with(prefix));
    if !known {
        return Err("a setting's name begins with WARRENGATE_, OTEL_ or TOKIO_".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Defines a clap enumeration with a word for each value of a type of the benchmark.
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
    Throughput, Latency, BusyTenant, Limits, Sampling, Collector, SlowConsumer, Tenants, IdleStreams, Fleet,
    MixedSizes, ActiveTenants, Verify, WrongSecrets, ConsoleSessions, Startup,
});
words!(QueueName for QueueKind { Quorum, Classic, Stream });
words!(ModeName for Mode { Publish, Consume, Both });

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_argument_is_explained_and_every_example_is_a_command() {
        let command = Args::command();
        command.clone().debug_assert();
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} has no help", argument.get_id());
        }
        let examples = EXAMPLES.lines().filter_map(|line| line.trim().strip_prefix("warrengate-bench "));
        let examples: Vec<_> = examples.map(|line| line.split("  ").next().unwrap_or_default()).collect();
        assert!(examples.len() > 4, "{examples:?}");
        for example in examples {
            let words = std::iter::once("warrengate-bench").chain(example.split_whitespace());
            assert!(Args::try_parse_from(words).is_ok(), "{example}");
        }
    }
}
