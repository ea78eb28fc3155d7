//! `warrengate trace`: prints the spans of a trace or a message as a tree, from Jaeger's query API.

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
  warrengate trace order-17 --json                         in Jaeger's form
  warrengate trace order-17 --jaeger https://jaeger.internal

The address of Jaeger's query API is --jaeger, JAEGER_QUERY_URL or http://127.0.0.1:16686. docs/tracing.md explains the spans.";

/// The flags of `trace`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The trace id (32 hex digits), or the message id
    #[arg(value_name = "TRACE-ID|MESSAGE-ID")]
    id: String,
    /// The address of Jaeger's query API
    #[arg(long, value_name = "URL", env = "JAEGER_QUERY_URL", default_value = "http://127.0.0.1:16686")]
    jaeger: String,
    /// How far back to search for a message
    #[arg(long, value_name = "TIME", default_value = "2d", value_parser = super::values::duration)]
    since: Duration,
    /// The gateway's service name in Jaeger
    #[arg(long, value_name = "NAME", default_value = "warrengate")]
    service: String,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let jaeger = Jaeger::new(&args.jaeger)?;
    let mut traces: Vec<Value> = Vec::new();
    if is_trace_id(&args.id) {
        traces.extend(jaeger.trace(&args.id).await?);
    }
    // A message id may have the form of a trace id.
    if traces.is_empty() {
        traces = jaeger.of_message(&args.service, &args.id, args.since).await?;
    }
    if traces.is_empty() {
        return Err(Error::Failed(format!(
            "Jaeger at {} has no trace of {:?}. Spans arrive a second after they end; an unsampled trace is never stored \
             (telemetry.sample_ratio), and older messages need --since",
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
