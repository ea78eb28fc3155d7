//! A benchmark of the gateway against direct AMQP clients of the same broker, on the same machine.
//!
//! The same work is done in rounds that alternate between the broker and the gateway. Gateway, broker and application are
//! separate processes, so that their processor time can be told apart. The messages of every run are counted, and a missing
//! one fails the measurement. Load from other programs on the machine is measured and reported.

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
pub use meter::Three;
pub use plan::{Axes, Cell, Plan, QueueKind, Scenario};
pub use process::WORKER_COMMAND;
pub use report::{CellReport, LatencyAdded, Ratios, Report, Summary};
pub use rounds::Run;
pub use scenario::{Named, ScenarioReport};
pub use worker::serve as serve_worker;

use rig::Rig;

use warrengate::{client, pki, stack};
use warrengate_testkit::node;

/// Starts what is needed, measures, and stops it again. Dropping the future ends all processes, too.
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

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A client process cannot be reached, or started.
    #[error("a process of the measurement: {0}")]
    Pipe(#[source] io::Error),
    /// What a client process was told, or told, is not understood.
    #[error("a client process said something that is not understood")]
    Job(#[source] serde_json::Error),
    /// A client process failed.
    #[error("a client process failed: {0}")]
    Worker(String),
    /// Straight at the broker.
    #[error("straight at the broker: {0}")]
    Amqp(#[from] lapin::Error),
    /// Through the gateway.
    #[error("through the gateway: {0}")]
    Client(#[from] client::Error),
    /// A consumer ended before its work was done.
    #[error("a consumer ended before its work was done")]
    ConsumerEnded,
    /// Something took much longer than it should.
    #[error("gave up {0}: it took too long")]
    TooSlow(&'static str),
    /// Messages that were sent did not all come to their end.
    #[error("the counts do not add up: {0}")]
    Counts(Cow<'static, str>),
    /// The private broker.
    #[error(transparent)]
    Node(#[from] node::Error),
    /// Certificates.
    #[error("certificates: {0}")]
    Pki(#[from] pki::Error),
    /// The gateway did not come up.
    #[error("the gateway did not come up; it said:\n{0}")]
    Gateway(String),
    /// The stack's settings.
    #[error(transparent)]
    Stack(#[from] stack::Error),
    /// A limit that should have been reached was not, so that nothing is known of what reaching it does to others.
    #[error("{limit} was not reached: of {answered} tries that were answered {refused} were refused or held back")]
    NotReached {
        /// As the plan has it.
        limit: &'static str,
        /// All that came of the tries.
        answered: u64,
        /// Those that tell of the limit.
        refused: u64,
    },
    /// A room of the gateway that is measured by itself.
    #[error("{0}")]
    Inside(String),
    /// The picture.
    #[error("cannot draw the plot: {0}")]
    Plot(String),
    /// A file or folder.
    #[error("cannot write {0}: {1}")]
    File(String, #[source] io::Error),
}
