//! A benchmark of the gateway against direct AMQP clients of the same broker, on the same machine.
//!
//! The same work is done in rounds that alternate between the broker and the gateway. Gateway, broker and application
//! are separate processes, so that their processor time is measured separately. The messages of every run are counted,
//! and a missing one fails the measurement. Load from other programs on the machine is measured and reported.

mod figures;
mod job;
mod machine;
mod meter;
mod plan;
mod process;
mod report;
mod rig;
mod rounds;
mod scenario;
mod worker;

use std::{borrow::Cow, io};

pub use figures::{Figure, Percentiles};
pub use job::{Mode, Path, Tuning};
pub use machine::Machine;
pub use meter::PerProcess;
pub use plan::{Axes, Cell, Fleet, Plan, QueueKind, Scenario};
pub use process::WORKER_COMMAND;
pub use report::{CellReport, LatencyAdded, Ratios, Report, Summary};
pub use rounds::Run;
pub use scenario::{Named, ScenarioReport};
pub use worker::serve as serve_worker;

use rig::Rig;

use warrengate::{client, pki, stack};
use warrengate_testkit::node;

/// Starts the environment, measures, and stops everything again. Dropping the future ends all processes, too.
///
/// # Errors
/// When something does not start, a client process fails, or a message is missing.
pub async fn run(plan: &Plan) -> Result<Report, Error> {
    let mut rig = Box::pin(Rig::start(plan)).await?;
    let mut report = Report::new(plan, rig.machine());
    for &scenario in &plan.scenarios {
        plan.say(&format!("{}:", scenario.name()));
        match scenario {
            Scenario::Throughput => {
                for cell in plan.axes.cells() {
                    plan.say(&cell.title());
                    let runs = Box::pin(rounds::rounds(&mut rig, plan, &cell, None)).await?;
                    report.add_throughput(cell, runs);
                }
            }
            Scenario::Latency => {
                let cell = Cell { mode: Mode::Both, ..plan.first_cell() };
                let runs = Box::pin(rounds::rounds(&mut rig, plan, &cell, Some(plan.rate))).await?;
                report.add_latency(cell, plan.rate, runs);
            }
            _ => report.add(Box::pin(scenario::run(&mut rig, plan, scenario)).await?),
        }
    }
    rig.stop().await?;
    Ok(report)
}

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A client process could not be started or reached.
    #[error("a client process cannot be started or reached: {0}")]
    Pipe(#[source] io::Error),
    /// A line that a client process read or wrote has the wrong form.
    #[error("a line between the benchmark and a client process has the wrong form")]
    Job(#[source] serde_json::Error),
    /// A client process failed.
    #[error("a client process failed: {0}")]
    Worker(String),
    /// A direct connection to the broker failed.
    #[error("direct connection to the broker: {0}")]
    Amqp(#[from] lapin::Error),
    /// A connection through the gateway failed.
    #[error("connection through the gateway: {0}")]
    Client(#[from] client::Error),
    /// A consumer ended before its work was done.
    #[error("a consumer ended before its work was done")]
    ConsumerEnded,
    /// Something took too long.
    #[error("timeout: {0}")]
    TooSlow(&'static str),
    /// Some messages that were sent have no outcome.
    #[error("the counts do not add up: {0}")]
    Counts(Cow<'static, str>),
    /// The private broker.
    #[error(transparent)]
    Node(#[from] node::Error),
    /// Certificates.
    #[error("certificates: {0}")]
    Pki(#[from] pki::Error),
    /// The gateway did not become ready.
    #[error("the gateway did not become ready; its log:\n{0}")]
    Gateway(String),
    /// The stack's settings.
    #[error(transparent)]
    Stack(#[from] stack::Error),
    /// A limit that a scenario must reach was not reached, so its effect on other tenants is unknown.
    #[error("{limit} was not reached: of {answered} attempts that were answered, {refused} were refused or delayed")]
    NotReached {
        /// The limit's name in the plan.
        limit: &'static str,
        /// All answered attempts.
        answered: u64,
        /// Those that were over the limit.
        refused: u64,
    },
    /// A scenario failed.
    #[error("{0}")]
    Scenario(String),
    /// The plot.
    #[error("cannot draw the plot: {0}")]
    Plot(String),
    /// A file or folder.
    #[error("cannot write {0}: {1}")]
    File(String, #[source] io::Error),
}
