//! `warrengate trace`: one message's life, in the terminal. A trace id or a message id enters; Jaeger is asked, and the tree
//! of spans leaves: what happened, below what, when and how long.

mod jaeger;
mod tree;

use std::time::Duration;

use serde_json::{Value, json};

use self::jaeger::{Jaeger, Trace};
use super::{Error, Output};

const EXAMPLES: &str = "\
Examples:
  warrengate trace 4bf92f3577b34da6a3ce929d0e0e4736       a trace, by its id: publish --json prints it
  warrengate trace order-17 --since 7d                     the traces of the message with this id
  warrengate trace order-17 --json                         as Jaeger has them
  warrengate trace order-17 --jaeger https://jaeger.internal

Jaeger is asked by its query API, at --jaeger, JAEGER_QUERY_URL or http://127.0.0.1:16686. docs/tracing.md says what the
spans mean.";

/// The flags of `trace`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The trace (32 hex digits), or the message
    #[arg(value_name = "TRACE-ID|MESSAGE-ID")]
    id: String,
    /// Where Jaeger's query API is
    #[arg(long, value_name = "URL", env = "JAEGER_QUERY_URL", default_value = "http://127.0.0.1:16686")]
    jaeger: String,
    /// How far back a message is looked for
    #[arg(long, value_name = "TIME", default_value = "2d", value_parser = humantime::parse_duration)]
    since: Duration,
    /// What the gateway calls itself in Jaeger
    #[arg(long, value_name = "NAME", default_value = "warrengate")]
    service: String,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let jaeger = Jaeger::new(&args.jaeger)?;
    let mut traces: Vec<Value> = Vec::new();
    if is_trace_id(&args.id) {
        traces.extend(jaeger.trace(&args.id).await?);
    }
    // A message's id may look like a trace's.
    if traces.is_empty() {
        traces = jaeger.of_message(&args.service, &args.id, args.since).await?;
    }
    if traces.is_empty() {
        return Err(Error::Failed(format!(
            "Jaeger at {} has no trace of {:?}. Spans arrive a second after they end; a trace that was not sampled is never \
             there (telemetry.sample_ratio), and older messages need --since",
            args.jaeger, args.id
        )));
    }
    output.result(
        || json!({ "traces": traces }),
        || {
            let texts = traces.iter().map(|trace| tree::draw(&Trace::read(trace)));
            texts.collect::<Vec<_>>().join("\n\n")
        },
    )
}

fn is_trace_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
