//! `warrengate publish`: publishes one message, or one per line of standard input.

use std::{collections::BTreeMap, io::Read as _, path::PathBuf, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::mpsc,
};

use super::{
    Error, Output,
    connection::{ConnectionArgs, DATA},
    json, values,
};
use crate::{
    client::{Publisher, PublisherOptions, Receipt},
    pb::{self, Outcome},
};

const EXAMPLES: &str = "\
Examples:
  warrengate publish --queue orders 'one order'
  warrengate publish --exchange events --routing-key user.created --content-type application/json --file user.json
  warrengate publish --exchange reports --header format=pdf --header pages:int=2 body
  warrengate publish --queue jobs --lines --json    one message per line of standard input; the summary as JSON

Exits with 1 unless every message is confirmed.";

/// How many failed messages a summary lists.
const PROBLEMS: usize = 20;
/// The maximum number of receipts that wait for earlier ones.
const RECEIPTS: usize = 4_096;

/// The flags of `publish`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group(clap::ArgGroup::new("source").required(true)))]
#[command(group(clap::ArgGroup::new("place").required(true)))]
pub(super) struct Args {
    /// The message's body
    #[arg(group = "source")]
    body: Option<String>,
    /// Read the body from this file; - is standard input
    #[arg(long, value_name = "FILE", group = "source")]
    file: Option<PathBuf>,
    /// Publish each line of standard input as a message, without its line end
    #[arg(long, group = "source", conflicts_with = "message_id")]
    lines: bool,
    /// Publish to this queue: short for the default exchange with the queue as routing key
    #[arg(long, short = 'q', value_name = "QUEUE", group = "place", conflicts_with = "routing_key")]
    queue: Option<String>,
    /// Publish to this exchange
    #[arg(long, short = 'e', value_name = "EXCHANGE", group = "place")]
    exchange: Option<String>,
    /// With this routing key
    #[arg(long, short = 'k', value_name = "KEY")]
    routing_key: Option<String>,
    /// Confirm messages that match no queue; the broker drops them
    #[arg(long)]
    allow_unroutable: bool,
    /// How long to wait for an outcome
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "60s")]
    deadline: Duration,
    // Last, since what follows a flattened group would be shown under its heading.
    #[command(flatten)]
    properties: Properties,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Message")]
struct Properties {
    /// A header, NAME=TEXT or NAME:TYPE=VALUE with a type of string, int, double, bool, time, base64 or null.
    /// Repeatable
    #[arg(long, value_name = "NAME[:TYPE]=VALUE", value_parser = values::header)]
    header: Vec<(String, pb::Value)>,
    /// The message's id [default: a UUIDv7]
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    message_id: String,
    /// Relates a reply to its request
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    correlation_id: String,
    /// The queue for the reply
    #[arg(long, value_name = "QUEUE", default_value = "", hide_default_value = true)]
    reply_to: String,
    /// MIME type of the body
    #[arg(long, value_name = "TYPE", default_value = "", hide_default_value = true)]
    content_type: String,
    /// Encoding of the body, like gzip
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    content_encoding: String,
    /// The type of message, like order.created
    #[arg(long = "type", value_name = "NAME", default_value = "", hide_default_value = true)]
    kind: String,
    /// The application that publishes it
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    app_id: String,
    /// How long it may wait in a queue, like 5m
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    ttl: Option<Duration>,
    /// 0 to 255
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    priority: u8,
    /// May be lost when the broker of a classic queue restarts
    #[arg(long)]
    transient: bool,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    // Errors of the input are reported before anything is sent.
    let body = match (&args.body, &args.file) {
        (Some(text), _) => Some(Bytes::copy_from_slice(text.as_bytes())),
        (None, Some(path)) => Some(read(path)?.into()),
        (None, None) => None,
    };
    let client = args.connection.connect(DATA).await?;
    let publisher = client.publisher_with(PublisherOptions::default().deadline(args.deadline).retry_throttled(false));
    let queue = args.queue.clone();
    let template = args.template();
    match body {
        Some(body) => one(publisher, with_body(&template, body), queue.as_deref(), output).await,
        None => lines(publisher, &template, output).await,
    }
}

impl Args {
    fn template(self) -> pb::Publication {
        let properties = self.properties;
        let durability = if properties.transient { pb::Durability::Transient } else { pb::Durability::Persistent };
        let message = pb::Message {
            body: Bytes::new(),
            message_id: properties.message_id,
            correlation_id: properties.correlation_id,
            reply_to: properties.reply_to,
            content_type: properties.content_type,
            content_encoding: properties.content_encoding,
            r#type: properties.kind,
            publish_time: None,
            ttl: properties.ttl.map(values::api_duration),
            priority: properties.priority.into(),
            durability: durability.into(),
            headers: properties.header.into_iter().collect(),
            app_id: properties.app_id,
        };
        pb::Publication {
            sequence: 0,
            exchange: self.exchange.unwrap_or_default(),
            routing_key: self.queue.or(self.routing_key).unwrap_or_default(),
            message: Some(message),
            allow_unroutable: self.allow_unroutable,
        }
    }
}

fn with_body(template: &pb::Publication, body: Bytes) -> pb::Publication {
    let mut publication = template.clone();
    if let Some(message) = &mut publication.message {
        message.body = body;
    }
    publication
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Error> {
    if path.as_os_str() == "-" {
        let mut body = Vec::new();
        std::io::stdin().lock().read_to_end(&mut body).map_err(Error::io("cannot read standard input"))?;
        return Ok(body);
    }
    std::fs::read(path).map_err(Error::io(format!("cannot read {}", path.display())))
}

async fn one(
    publisher: Publisher,
    publication: pb::Publication,
    queue: Option<&str>,
    output: &Output,
) -> Result<(), Error> {
    let result = publisher.send(publication).await?.await;
    let closed = publisher.close().await;
    output.result(|| json::publish_result(&result), || describe(&result))?;
    closed?;
    match result.outcome() {
        Outcome::Confirmed => Ok(()),
        Outcome::Unroutable if queue.is_some() => Err(Error::Failed(format!(
            "queue {:?} does not exist; create it with `warrengate queue declare`, then publish again",
            queue.unwrap_or_default()
        ))),
        outcome => Err(Error::Failed(format!("the message is not confirmed; {}", next_step(outcome)))),
    }
}

async fn lines(publisher: Publisher, template: &pb::Publication, output: &Output) -> Result<(), Error> {
    let (receipts, mut pending) = mpsc::channel::<(u64, Receipt)>(RECEIPTS);
    let tally = tokio::spawn(async move {
        let mut tally = Tally::default();
        while let Some((line, receipt)) = pending.recv().await {
            tally.count(line, receipt.await);
        }
        tally
    });
    let sent = send_lines(&publisher, template, &receipts).await;
    drop(receipts);
    let closed = publisher.close().await;
    let tally = tally.await.map_err(|_| Error::Failed("the summary is lost".to_owned()))?;
    output.result(|| tally.json(), || tally.text())?;
    sent?;
    closed?;
    tally.result()
}

async fn send_lines(
    publisher: &Publisher,
    template: &pb::Publication,
    receipts: &mpsc::Sender<(u64, Receipt)>,
) -> Result<(), Error> {
    let mut input = BufReader::new(tokio::io::stdin());
    for number in 1.. {
        let mut line = Vec::new();
        let read = input.read_until(b'\n', &mut line).await.map_err(Error::io("cannot read standard input"))?;
        if read == 0 {
            break;
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        let receipt = publisher.send(with_body(template, line.into())).await?;
        // The tally ends when the last sender is dropped.
        let _ = receipts.send((number, receipt)).await;
    }
    Ok(())
}

/// The outcomes of many messages.
#[derive(Debug, Default)]
struct Tally {
    counts: BTreeMap<String, u64>,
    problems: Vec<(u64, pb::PublishResult)>,
    bad: u64,
}

impl Tally {
    fn count(&mut self, line: u64, result: pb::PublishResult) {
        *self.counts.entry(outcome(&result)).or_default() += 1;
        if result.outcome() != Outcome::Confirmed {
            self.bad += 1;
            if self.problems.len() < PROBLEMS {
                self.problems.push((line, result));
            }
        }
    }

    fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    fn json(&self) -> Value {
        let problem = |(line, result): &(u64, pb::PublishResult)| {
            let mut object = json::publish_result(result);
            object["line"] = (*line).into();
            object
        };
        let problems: Vec<Value> = self.problems.iter().map(problem).collect();
        json!({"messages": self.total(), "outcomes": self.counts, "problems": problems})
    }

    fn text(&self) -> String {
        let counts: Vec<String> = self.counts.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        let counts = if counts.is_empty() { "no messages".to_owned() } else { counts.join(", ") };
        let problems = self.problems.iter().map(|(line, result)| format!("\n  line {line}: {}", describe(result)));
        let more = self.bad.saturating_sub(self.problems.len() as u64);
        let more = if more == 0 { String::new() } else { format!("\n  and {more} more") };
        format!("{counts}{}{more}", problems.collect::<String>())
    }

    fn result(&self) -> Result<(), Error> {
        match self.bad {
            0 => Ok(()),
            bad => Err(Error::Failed(format!("{bad} of {} messages are not confirmed", self.total()))),
        }
    }
}

fn outcome(result: &pb::PublishResult) -> String {
    json::short(result.outcome().as_str_name(), "OUTCOME")
}

fn describe(result: &pb::PublishResult) -> String {
    let reason = if result.reason.is_empty() { String::new() } else { format!(" ({})", result.reason) };
    let again = json::length(result.retry_after).map(|after| format!(", again after {after}")).unwrap_or_default();
    format!("{} {}{reason}{again}", outcome(result), result.message_id)
}

fn next_step(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Unroutable => {
            "declare the queue or bind it (`warrengate queue`, `warrengate binding`), then send again"
        }
        Outcome::Denied => "ask an administrator for a publish grant",
        Outcome::Throttled => "send it again later",
        Outcome::Unknown => "send it again with the same --message-id",
        _ => "fix the problem in the reason, then send it again",
    }
}

#[cfg(test)]
mod tests;
