//! `warrengate demo`: short demonstrations of common messaging patterns on real queues.
//!
//! Each explains itself, checks its own claims, ends within a minute, and removes its queues and exchanges.

mod alerts;
mod context;
mod fan_out;
mod logs;
mod orders;
mod request_reply;
mod sensors;
mod spike;
mod work_queue;

use std::time::Duration;

use serde_json::json;

use super::{
    Error, Output,
    connection::{ConnectionArgs, DATA},
    output::table,
};
use context::Context;

const EXAMPLES: &str = "\
Examples:
  warrengate demo                                  list them
  warrengate demo work-queue                       run one
  warrengate demo all                              run all

Each has a page in docs/guides/.";

/// The longest run of a demonstration.
const LIMIT: Duration = Duration::from_secs(60);

/// The flags of `demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The demonstration; without it they are listed
    #[arg(value_enum)]
    name: Option<Name>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    /// All, one after the other
    All,
    /// Workers of different speed share one queue
    WorkQueue,
    /// Failed orders are retried; one becomes a dead letter and is redriven
    Orders,
    /// Log lines are routed by topic
    Logs,
    /// Alerts are routed by headers
    Alerts,
    /// One event, a copy for each service
    FanOut,
    /// Readings of a stream are replayed
    Sensors,
    /// A burst waits in the queue for a slow consumer
    Spike,
    /// A request and its reply
    RequestReply,
}

const DEMONSTRATIONS: [Name; 8] = [
    Name::WorkQueue,
    Name::Orders,
    Name::Logs,
    Name::Alerts,
    Name::FanOut,
    Name::Sensors,
    Name::Spike,
    Name::RequestReply,
];

impl Name {
    fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::WorkQueue => "work-queue",
            Self::Orders => "orders",
            Self::Logs => "logs",
            Self::Alerts => "alerts",
            Self::FanOut => "fan-out",
            Self::Sensors => "sensors",
            Self::Spike => "spike",
            Self::RequestReply => "request-reply",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::All => "all, one after the other",
            Self::WorkQueue => "workers of different speed share one queue",
            Self::Orders => "failed orders are retried; one becomes a dead letter and is redriven",
            Self::Logs => "log lines are routed by topic",
            Self::Alerts => "alerts are routed by headers",
            Self::FanOut => "one event, a copy for each service",
            Self::Sensors => "readings of a stream are replayed",
            Self::Spike => "a burst waits in the queue for a slow consumer",
            Self::RequestReply => "a request and its reply",
        }
    }
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let names = match args.name {
        None => return list(output),
        Some(Name::All) => &DEMONSTRATIONS[..],
        Some(ref one) => std::slice::from_ref(one),
    };
    let client = args.connection.connect(DATA).await?;
    for name in names {
        let demo = Context::new(client.clone(), output, name.word());
        demo.say(&format!("# {}: {}\n", name.word(), name.about()))?;
        let result = tokio::time::timeout(LIMIT, demonstrate(*name, &demo)).await;
        demo.clear().await;
        let lessons =
            result.unwrap_or_else(|_| Err(Error::Failed(format!("{} took more than a minute", name.word()))))?;
        demo.end(&lessons)?;
    }
    Ok(())
}

/// What a demonstration showed.
type Observations = Vec<String>;

async fn demonstrate(name: Name, demo: &Context<'_>) -> Result<Observations, Error> {
    match name {
        Name::All => Ok(Observations::new()),
        Name::WorkQueue => work_queue::run(demo).await,
        Name::Orders => orders::run(demo).await,
        Name::Logs => logs::run(demo).await,
        Name::Alerts => alerts::run(demo).await,
        Name::FanOut => fan_out::run(demo).await,
        Name::Sensors => sensors::run(demo).await,
        Name::Spike => spike::run(demo).await,
        Name::RequestReply => request_reply::run(demo).await,
    }
}

fn list(output: &Output) -> Result<(), Error> {
    output.result(
        || DEMONSTRATIONS.iter().map(|name| json!({"name": name.word(), "about": name.about()})).collect(),
        || {
            let rows = DEMONSTRATIONS.iter().map(|name| [name.word().to_owned(), name.about().to_owned()]);
            format!(
                "{}\n\nwarrengate demo NAME runs one; each takes less than a minute.",
                table(["name", "what"], rows)
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_demonstration_is_listed_under_its_own_name_and_has_a_page() {
        for name in Name::value_variants() {
            let value = name.to_possible_value().expect("a name");
            assert_eq!(value.get_name(), name.word());
            if *name != Name::All {
                assert!(DEMONSTRATIONS.contains(name), "{name:?} is not listed");
                let page = format!("{}/docs/guides/{}.md", env!("CARGO_MANIFEST_DIR"), name.word());
                let text = std::fs::read_to_string(&page).expect("a page in docs/guides/");
                assert!(
                    text.contains(&format!("warrengate demo {}", name.word())),
                    "{page} does not say how to run it"
                );
            }
        }
    }
}
