//! `warrengate demo`: what people use a broker for, each to be watched once. A name enters; a short play with real queues
//! leaves, which explains itself and says at the end what there was to notice. Invariants: a demonstration checks what it
//! claims and fails when it is not so; it ends by itself within a minute; and it leaves nothing in the tenant.

mod alerts;
mod fan_out;
mod logs;
mod orders;
mod request_reply;
mod sensors;
mod spike;
#[path = "demo/context.rs"]
mod stage;
mod work_queue;

use std::time::Duration;

use serde_json::json;

use super::{
    Error, Output,
    connection::{ConnectionArgs, DATA},
    output::table,
};
use stage::Stage;

const EXAMPLES: &str = "\
Examples:
  warrengate demo                                  what there is
  warrengate demo work-queue                       one of them
  warrengate demo all                              one after the other

Each has a page with a picture in docs/guides/.";

/// The longest that one takes.
const LIMIT: Duration = Duration::from_secs(60);

/// The flags of `demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Which one; without it they are listed
    #[arg(value_enum)]
    name: Option<Name>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    /// Every one, one after the other
    All,
    /// Workers of unequal speed share one queue
    WorkQueue,
    /// Orders are tried again; one is given up, mended and sent again
    Orders,
    /// Log lines find their readers by topic
    Logs,
    /// Alerts find their readers by headers
    Alerts,
    /// One event for everybody who asked
    FanOut,
    /// Readings are kept and read again from an hour ago
    Sensors,
    /// A burst waits in the queue for a slow consumer
    Spike,
    /// A question, and its answer
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
            Self::All => "every one, one after the other",
            Self::WorkQueue => "workers of unequal speed share one queue",
            Self::Orders => "orders are tried again; one is given up, mended and sent again",
            Self::Logs => "log lines find their readers by topic",
            Self::Alerts => "alerts find their readers by headers",
            Self::FanOut => "one event for everybody who asked",
            Self::Sensors => "readings are kept and read again from an hour ago",
            Self::Spike => "a burst waits in the queue for a slow consumer",
            Self::RequestReply => "a question, and its answer",
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
        let stage = Stage::new(client.clone(), output, name.word());
        stage.say(&format!("# {}: {}\n", name.word(), name.about()))?;
        let played = tokio::time::timeout(LIMIT, play(*name, &stage)).await;
        // Whatever came of it, nothing stays behind.
        stage.clear().await;
        let noticed =
            played.unwrap_or_else(|_| Err(Error::Failed(format!("{} took more than a minute", name.word()))))?;
        stage.end(&noticed)?;
    }
    Ok(())
}

/// What there was to notice.
type Noticed = Vec<String>;

async fn play(name: Name, stage: &Stage<'_>) -> Result<Noticed, Error> {
    match name {
        Name::All => Ok(Noticed::new()),
        Name::WorkQueue => work_queue::play(stage).await,
        Name::Orders => orders::play(stage).await,
        Name::Logs => logs::play(stage).await,
        Name::Alerts => alerts::play(stage).await,
        Name::FanOut => fan_out::play(stage).await,
        Name::Sensors => sensors::play(stage).await,
        Name::Spike => spike::play(stage).await,
        Name::RequestReply => request_reply::play(stage).await,
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
