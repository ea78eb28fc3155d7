//! `warrengate subscribe`: prints a queue's messages, and settles each once it is printed.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    Error, Output,
    connection::{ConnectionArgs, DATA},
    json,
    values::{self, From},
};
use crate::client::{Delivery, Event, SubscribeOptions, Subscription};

const EXAMPLES: &str = "\
Examples:
  warrengate subscribe orders                        until Ctrl-C
  warrengate subscribe orders --count 10 --json      a JSON object a line
  warrengate subscribe orders --no-ack --count 1     look at a message and give it back
  warrengate subscribe log --from first              replay a stream queue
  warrengate subscribe log --from 2026-11-21T12:00:00Z
  warrengate subscribe orders --timeout 5s           until nothing came for five seconds

Bodies are printed as they are when they are UTF-8, otherwise as base64 with a note.";

/// The flags of `subscribe`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The queue
    queue: String,
    /// Acknowledge each message once it is printed (the default)
    #[arg(long, conflicts_with = "no_ack")]
    ack: bool,
    /// Leave the messages in the queue: they go back when the command ends. Stops when --prefetch messages are out
    #[arg(long)]
    no_ack: bool,
    /// Stop after so many messages
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Where to begin in a stream queue: first, last, next, an offset or a time
    #[arg(long, value_name = "WHERE", value_parser = values::from)]
    from: Option<From>,
    /// How many messages may be unsettled at once [default: 256]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    prefetch: u32,
    /// Stop when nothing came for so long; a failure when --count was not reached
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    timeout: Option<Duration>,
    // Last, since what follows a flattened group would be shown under its heading.
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let client = args.connection.connect(DATA).await?;
    let mut subscription = client.subscribe(options(&args)).await?;
    let printed = print(&args, &mut subscription, output).await;
    let closed = subscription.close().await;
    let printed = printed?;
    closed?;
    match args.count {
        Some(count) if printed.messages < count && printed.timed_out => {
            Err(Error::Failed(format!("only {} of {count} messages came in time", printed.messages)))
        }
        _ => Ok(()),
    }
}

struct Printed {
    messages: u64,
    timed_out: bool,
}

fn options(args: &Args) -> SubscribeOptions {
    // No more than are wanted leave the queue, so that others need not wait for the rest to come back.
    let wanted = args.count.map_or(u32::MAX, |count| u32::try_from(count).unwrap_or(u32::MAX)).min(10_000);
    let prefetch = match args.prefetch {
        0 => wanted.min(256),
        given => given.min(wanted),
    };
    let options = SubscribeOptions::queue(&args.queue).max_outstanding_messages(prefetch);
    match args.from {
        None => options,
        Some(From::First) => options.from_first(),
        Some(From::Last) => options.from_last(),
        Some(From::Next) => options.from_next(),
        Some(From::Offset(offset)) => options.from_offset(offset),
        Some(From::Time(time)) => options.from_time(time),
    }
}

async fn print(args: &Args, subscription: &mut Subscription, output: &Output) -> Result<Printed, Error> {
    let mut messages = 0;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    while args.count.is_none_or(|count| messages < count) {
        let event = tokio::select! {
            event = subscription.next_event() => event?,
            () = idle(args.timeout) => return Ok(Printed { messages, timed_out: true }),
            _ = &mut interrupt => break,
        };
        match event {
            Some(Event::Delivery(delivery)) => {
                show(&delivery, output)?;
                messages += 1;
                if !args.no_ack {
                    subscription.ack(&delivery)?;
                }
            }
            Some(Event::Interrupted { reason }) => output.note(&format!("interrupted: {reason}")),
            Some(Event::Resumed) => output.note("resumed"),
            Some(_) => {}
            None => break,
        }
    }
    Ok(Printed { messages, timed_out: false })
}

async fn idle(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

fn show(delivery: &Delivery, output: &Output) -> Result<(), Error> {
    if output.is_json() {
        return output.line(&json::delivery(delivery).to_string());
    }
    match std::str::from_utf8(delivery.body()) {
        Ok(text) => output.line(&output.safe(text)),
        Err(_) => {
            output.note(&format!("message {} is not text; base64 follows", delivery.message().message_id));
            output.line(&BASE64_STANDARD.encode(delivery.body()))
        }
    }
}
