//! `warrengate subscribe`: prints a queue's messages, and settles each once it has been read from standard output.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;

use super::{
    Error, Output,
    connection::{ConnectionArgs, DATA},
    json,
    output::properties,
    signals::Signals,
    stdout::Reader,
    values::{self, StartPosition},
};
use crate::{
    client::{Event, Nack, SubscribeOptions, Subscription},
    pb,
};

const EXAMPLES: &str = "\
Examples:
  warrengate subscribe orders                        until Ctrl-C
  warrengate subscribe orders --count 10 --json      one JSON object per line
  warrengate subscribe orders --verbose              with headers and properties
  warrengate subscribe orders --count 1 --nack retry --reason 'out of stock'
  warrengate subscribe orders --no-ack --count 1     print a message and return it
  warrengate subscribe log --from first              replay a stream queue
  warrengate subscribe log --from 1h                 what was stored in the last hour
  warrengate subscribe orders --timeout 5s           until nothing arrived for five seconds

UTF-8 bodies are printed unchanged, others as base64 with a note. SIGINT and SIGTERM return unsettled messages to the queue
without using up an attempt. In a pipe, a message is settled once the next program has read it.";

/// The default window in messages.
const WINDOW: u32 = 256;

/// The flags of `subscribe`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The queue
    queue: String,
    /// Acknowledge each message once it is printed (the default)
    #[arg(long, conflicts_with_all = ["no_ack", "nack"])]
    ack: bool,
    /// Return the messages to the queue when the command ends. Ends when --prefetch messages were printed
    #[arg(long, conflicts_with = "nack")]
    no_ack: bool,
    /// Reject each message once it is printed
    #[arg(long, value_name = "ACTION", value_enum)]
    nack: Option<Action>,
    /// The reason for --nack, stored in the dead letter and the trace
    #[arg(long, value_name = "TEXT", requires = "nack")]
    reason: Option<String>,
    /// Stop after this many messages
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Where to start in a stream queue: first, last, next, an offset, a time, or how long ago, like 1h
    #[arg(long, value_name = "WHERE", value_parser = values::from)]
    from: Option<StartPosition>,
    /// Maximum number of unsettled messages [default: 256]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    prefetch: u32,
    /// Stop when nothing arrived for this time; a failure if --count was not reached
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    timeout: Option<Duration>,
    /// Print headers and properties, too
    #[arg(long, short = 'v')]
    verbose: bool,
    // Last, since what follows a flattened group would be shown under its heading.
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// What to do with a rejected message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Action {
    /// Deliver it again after the queue's back-off; uses up an attempt
    Retry,
    /// Move it to the dead letters
    DeadLetter,
    /// Delete it
    Drop,
}

/// What to do with a message once it is printed.
enum Settlement {
    Ack,
    Nack(Nack),
    Keep,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let client = args.connection.connect(DATA).await?;
    let reason = args.reason.clone().unwrap_or_default();
    let settlement = match args.nack {
        Some(Action::Retry) => Settlement::Nack(Nack::retry().because(reason)),
        Some(Action::DeadLetter) => Settlement::Nack(Nack::dead_letter().because(reason)),
        Some(Action::Drop) => Settlement::Nack(Nack::discard().because(reason)),
        None if args.no_ack => Settlement::Keep,
        None => Settlement::Ack,
    };
    let window = window(args.prefetch, args.count);
    let options = SubscribeOptions::queue(&args.queue).max_outstanding_messages(window);
    let options = match args.from {
        None => options,
        Some(StartPosition::First) => options.from_first(),
        Some(StartPosition::Last) => options.from_last(),
        Some(StartPosition::Next) => options.from_next(),
        Some(StartPosition::Offset(offset)) => options.from_offset(offset),
        Some(StartPosition::Time(time)) => options.from_time(time),
    };
    // Nothing more arrives once the window is full.
    let limit = if args.no_ack { Some(args.count.unwrap_or(u64::MAX).min(window.into())) } else { args.count };
    let printer = Printer { settlement, limit, timeout: args.timeout, verbose: args.verbose, output };
    let mut signals = Signals::listen()?;
    let printed = printer.run(client.subscribe(options).await?, &mut signals).await?;
    match args.count {
        Some(count) if printed.messages < count && printed.timed_out => {
            Err(Error::Failed(format!("only {} of {count} messages arrived in time", printed.messages)))
        }
        None if args.no_ack && limit == Some(printed.messages) => {
            output.note(&format!(
                "stopped after {} messages, which returned to the queue; see --prefetch",
                printed.messages
            ));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Prints a message that stays in its queue.
pub(super) fn show_peeked(peeked: &pb::PeekedMessage, verbose: bool, output: &Output) -> Result<(), Error> {
    let details = pb::Delivery {
        exchange: peeked.exchange.clone(),
        routing_key: peeked.routing_key.clone(),
        redelivered: peeked.redelivered,
        attempt: peeked.attempt,
        stream_offset: peeked.stream_offset,
        ..pb::Delivery::default()
    };
    show(&details, &peeked.message.clone().unwrap_or_default(), verbose, output)
}

/// Prints a message: as JSON, or its body, with everything else before it if `verbose`.
fn show(details: &pb::Delivery, message: &pb::Message, verbose: bool, output: &Output) -> Result<(), Error> {
    if output.is_json() {
        return output.line(&json::delivery(details, message).to_string());
    }
    if verbose {
        output.line(&output.safe(&describe(details, message)))?;
    }
    match std::str::from_utf8(&message.body) {
        Ok(text) => output.line(&output.safe(text))?,
        Err(_) => {
            output.note(&format!("message {} is not text; base64 follows", message.message_id));
            output.line(&BASE64_STANDARD.encode(&message.body))?;
        }
    }
    if verbose { output.line("") } else { Ok(()) }
}

struct Printed {
    messages: u64,
    timed_out: bool,
}

struct Printer<'a> {
    settlement: Settlement,
    limit: Option<u64>,
    timeout: Option<Duration>,
    verbose: bool,
    output: &'a Output,
}

impl Printer<'_> {
    /// Prints until the limit, the timeout, a signal or the end of the subscription, and closes it in order.
    async fn run(&self, mut subscription: Subscription, signals: &mut Signals) -> Result<Printed, Error> {
        let printed = self.print(&mut subscription, signals).await;
        let closed = subscription.close().await;
        let printed = printed?;
        closed?;
        Ok(printed)
    }

    async fn print(&self, subscription: &mut Subscription, signals: &mut Signals) -> Result<Printed, Error> {
        let reader = Reader::of_stdout();
        let mut messages = 0;
        while self.limit.is_none_or(|limit| messages < limit) {
            let event = tokio::select! {
                event = subscription.next_event() => event?,
                () = idle(self.timeout) => return Ok(Printed { messages, timed_out: true }),
                () = signals.next() => break,
            };
            match event {
                Some(Event::Delivery(delivery)) => {
                    show(delivery.details(), delivery.message(), self.verbose, self.output)?;
                    tokio::select! {
                        has_read = reader.has_read() => has_read?,
                        () = signals.next() => break,
                    }
                    messages += 1;
                    match &self.settlement {
                        Settlement::Ack => subscription.ack(&delivery)?,
                        Settlement::Nack(nack) => subscription.nack(&delivery, nack.clone())?,
                        Settlement::Keep => {}
                    }
                }
                Some(Event::Interrupted { reason }) => self.output.note(&format!("interrupted: {reason}")),
                Some(Event::Resumed) => self.output.note("resumed"),
                Some(_) => {}
                None => break,
            }
        }
        Ok(Printed { messages, timed_out: false })
    }
}

/// No more messages are taken from the queue than are printed, so that other consumers need not wait for their return.
fn window(prefetch: u32, count: Option<u64>) -> u32 {
    let wanted = count.map_or(u32::MAX, |count| u32::try_from(count).unwrap_or(u32::MAX)).min(10_000);
    match prefetch {
        0 => wanted.min(WINDOW),
        given => given.min(wanted),
    }
}

async fn idle(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Everything of a delivery except its body, one property per line.
fn describe(details: &pb::Delivery, message: &pb::Message) -> String {
    let mut lines = vec![
        ("message id", message.message_id.clone()),
        ("exchange", details.exchange.clone()),
        ("routing key", details.routing_key.clone()),
        ("attempt", details.attempt.to_string()),
        ("redelivered", if details.redelivered { "yes".to_owned() } else { String::new() }),
        ("offset", details.stream_offset.map(|offset| offset.to_string()).unwrap_or_default()),
        ("correlation id", message.correlation_id.clone()),
        ("reply to", message.reply_to.clone()),
        ("type", message.r#type.clone()),
        ("content type", message.content_type.clone()),
        ("content encoding", message.content_encoding.clone()),
        ("app id", message.app_id.clone()),
        ("published", json::time(message.publish_time).unwrap_or_default()),
        ("ttl", json::length(message.ttl).unwrap_or_default()),
        ("priority", if message.priority == 0 { String::new() } else { message.priority.to_string() }),
    ];
    let mut headers: Vec<_> = message.headers.iter().collect();
    headers.sort_by_key(|(name, _)| *name);
    let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    lines.extend(headers.into_iter().map(|(name, value)| ("header", format!("{name}={}", text(json::value(value))))));
    properties(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_not_larger_than_the_number_of_messages_to_print() {
        assert_eq!((window(0, None), window(0, Some(3)), window(50, None)), (WINDOW, 3, 50));
        assert_eq!((window(50, Some(3)), window(0, Some(1 << 40)), window(20_000, None)), (3, WINDOW, 10_000));
    }
}
