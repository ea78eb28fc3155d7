//! `warrengate queue`: the queues of a tenant.

use serde_json::json;

use super::{
    Error, Output,
    connection::{ConnectionArgs, DATA},
    json,
    output::{properties, table},
    subscribe, values,
};
use crate::pb::{self, topology_client::TopologyClient};

const EXAMPLES: &str = "\
Examples:
  warrengate queue declare orders
  warrengate queue declare mail --max-length 10000 --message-ttl 5m --max-delivery-attempts 5
  warrengate queue declare calls --min-backoff 10s --max-backoff 1h --backoff-multiplier 3
  warrengate queue declare log --type stream --max-age 7days --max-length-bytes 10GiB
  warrengate queue declare urgent --type classic --max-priority 5
  warrengate queue list
  warrengate queue peek orders --count 3
  warrengate queue purge orders
  warrengate queue delete orders --if-empty";

/// The flags of `queue`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create a queue; declaring it again with the same flags has no effect
    Declare(Box<Declare>),
    /// Delete a queue with its messages
    Delete {
        /// The queue
        name: String,
        /// Only if it has no consumers
        #[arg(long)]
        if_unused: bool,
        /// Only if it has no messages
        #[arg(long)]
        if_empty: bool,
    },
    /// Show a queue with its depth and consumers
    Get {
        /// The queue
        name: String,
    },
    /// Show all queues
    List,
    /// Print the first messages of a queue, which stay there. They count as delivered before (redelivered), and use up
    /// no attempt
    Peek {
        /// The queue
        name: String,
        /// How many, at most 100
        #[arg(long, short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=100))]
        count: i32,
        /// Print headers and properties, too
        #[arg(long, short = 'v')]
        verbose: bool,
    },
    /// Delete the ready messages of a queue
    Purge {
        /// The queue
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct Declare {
    /// 1 to 200 letters, digits, "-", "_", "." and ":"
    name: String,
    /// How it stores messages
    #[arg(long = "type", value_name = "TYPE", value_enum, default_value = "quorum")]
    kind: Kind,
    /// Maximum number of messages; more are rejected to the publisher
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    max_length: u64,
    /// Maximum bytes, like 10MiB; more are rejected to the publisher (a stream drops its oldest)
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    max_length_bytes: Option<u64>,
    /// How long a message waits before it becomes a dead letter, like 5m
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    message_ttl: Option<std::time::Duration>,
    /// Delete the queue when it was unused for this time
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    expires: Option<std::time::Duration>,
    /// Delivery attempts before a message becomes a dead letter [default: 20]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    max_delivery_attempts: u32,
    /// The delay after the first failed attempt, 100 ms to 24 h [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    min_backoff: Option<std::time::Duration>,
    /// The longest delay between attempts [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    max_backoff: Option<std::time::Duration>,
    /// The factor of the delay after each attempt, 1 to 100 [default: 2]
    #[arg(long, value_name = "X")]
    backoff_multiplier: Option<f64>,
    /// The spread of delays, 0 to 0.5: 0.1 means ±10 % [default: 0.1]
    #[arg(long, value_name = "X")]
    backoff_jitter: Option<f64>,
    /// Levels of priority, up to 10 (classic queues)
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    max_priority: u32,
    /// One consumer at a time receives messages; others take over when it leaves
    #[arg(long)]
    single_active_consumer: bool,
    /// How long a stream keeps messages, like 7days (streams)
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    max_age: Option<std::time::Duration>,
    /// Size of a segment file, like 100MB (streams)
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    stream_max_segment_bytes: Option<u64>,
    /// Only validate the request
    #[arg(long)]
    validate_only: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// Replicated and durable
    Quorum,
    /// On one node; priorities and transient use
    Classic,
    /// A log that can be read repeatedly
    Stream,
}

impl From<Kind> for pb::QueueType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Quorum => Self::Quorum,
            Kind::Classic => Self::Classic,
            Kind::Stream => Self::Stream,
        }
    }
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let mut topology = args.connection.connect(DATA).await?.topology();
    match args.action {
        Action::Declare(declare) => {
            let request =
                pb::DeclareQueueRequest { validate_only: declare.validate_only, queue: Some(declare.queue()) };
            let declared = topology.declare_queue(request).await?.into_inner();
            show(output, declared.queue, declared.status)
        }
        Action::Delete { name, if_unused, if_empty } => {
            let request = pb::DeleteQueueRequest { name: name.clone(), if_unused, if_empty };
            let deleted = topology.delete_queue(request).await.map_err(|status| missing(status, &name))?;
            let messages = deleted.into_inner().messages_deleted;
            output.result(
                || json!({"deleted": name, "messages_deleted": messages}),
                || format!("deleted {name} with {messages} messages"),
            )
        }
        Action::Get { name } => {
            let request = pb::GetQueueRequest { name: name.clone() };
            let found = topology.get_queue(request).await.map_err(|status| missing(status, &name))?.into_inner();
            show(output, found.queue, found.status)
        }
        Action::List => list(&mut topology, output).await,
        Action::Peek { name, count, verbose } => peek(&mut topology, name, count, verbose, output).await,
        Action::Purge { name } => {
            let request = pb::PurgeQueueRequest { name: name.clone() };
            let purged = topology.purge_queue(request).await.map_err(|status| missing(status, &name))?;
            let messages = purged.into_inner().messages_purged;
            output.result(
                || json!({"purged": name, "messages_purged": messages}),
                || format!("deleted {messages} messages of {name}"),
            )
        }
    }
}

impl Declare {
    fn queue(self) -> pb::Queue {
        let retry_policy = pb::RetryPolicy {
            min_backoff: self.min_backoff.map(values::api_duration),
            max_backoff: self.max_backoff.map(values::api_duration),
            multiplier: self.backoff_multiplier,
            jitter: self.backoff_jitter,
        };
        pb::Queue {
            name: self.name,
            r#type: pb::QueueType::from(self.kind).into(),
            max_length: self.max_length,
            max_length_bytes: self.max_length_bytes.unwrap_or_default(),
            message_ttl: self.message_ttl.map(values::api_duration),
            expires: self.expires.map(values::api_duration),
            max_delivery_attempts: self.max_delivery_attempts,
            max_priority: self.max_priority,
            single_active_consumer: self.single_active_consumer,
            max_age: self.max_age.map(values::api_duration),
            stream_max_segment_bytes: self.stream_max_segment_bytes.unwrap_or_default(),
            retry_policy: (retry_policy != pb::RetryPolicy::default()).then_some(retry_policy),
        }
    }
}

async fn list(topology: &mut TopologyClient<crate::client::Authenticated>, output: &Output) -> Result<(), Error> {
    let mut queues = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListQueuesRequest { page_size: 1_000, page_token };
        let page = topology.list_queues(request).await?.into_inner();
        queues.extend(page.queues.into_iter().map(|q| (q.queue.unwrap_or_default(), q.status.unwrap_or_default())));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output.result(
        || queues.iter().map(|(queue, status)| json::queue(queue, Some(status))).collect(),
        || {
            let row = |(queue, status): &(pb::Queue, pb::QueueStatus)| {
                let rates = format!("{:.0}/s, {:.0}/s", status.publish_rate, status.deliver_rate);
                let (ready, unacknowledged) = (status.messages_ready, status.messages_unacknowledged);
                let counts = [ready.to_string(), unacknowledged.to_string(), status.consumers.to_string()];
                let [ready, unacknowledged, consumers] = counts;
                [queue.name.clone(), kind(queue), ready, unacknowledged, consumers, rates]
            };
            let table = table(["queue", "type", "ready", "unsettled", "consumers", "in, out"], queues.iter().map(row));
            // The figures may be outdated if the command runs right after publishing.
            match queues.is_empty() {
                true => table,
                false => format!(
                    "{table}\n\nFigures are up to 5 s old; `warrengate queue get` shows the current ready messages."
                ),
            }
        },
    )
}

async fn peek(
    topology: &mut TopologyClient<crate::client::Authenticated>,
    queue: String,
    max_messages: i32,
    verbose: bool,
    output: &Output,
) -> Result<(), Error> {
    let request = pb::PeekMessagesRequest { queue: queue.clone(), max_messages, ..Default::default() };
    let peeked = topology.peek_messages(request).await.map_err(|status| missing(status, &queue))?.into_inner();
    for peeked in &peeked.messages {
        subscribe::show_peeked(peeked, verbose, output)?;
    }
    if peeked.messages.is_empty() {
        output.note("no ready messages");
    }
    Ok(())
}

/// The gateway recommends declaring a missing queue, which does not apply to these commands.
fn missing(status: tonic::Status, name: &str) -> Error {
    match status.code() {
        tonic::Code::NotFound => {
            Error::Advised(format!("queue {name:?} does not exist; see `warrengate queue list`"), status.into())
        }
        _ => status.into(),
    }
}

fn show(output: &Output, queue: Option<pb::Queue>, status: Option<pb::QueueStatus>) -> Result<(), Error> {
    let queue = queue.unwrap_or_default();
    output.result(|| json::queue(&queue, status.as_ref()), || text(&queue, &status.unwrap_or_default()))
}

fn text(queue: &pb::Queue, status: &pb::QueueStatus) -> String {
    let number = |n: u64| if n == 0 { String::new() } else { n.to_string() };
    properties([
        ("queue", queue.name.clone()),
        ("type", kind(queue)),
        ("ready", status.messages_ready.to_string()),
        ("unsettled", status.messages_unacknowledged.to_string()),
        ("consumers", status.consumers.to_string()),
        ("max length", number(queue.max_length)),
        ("max bytes", number(queue.max_length_bytes)),
        ("message ttl", json::length(queue.message_ttl).unwrap_or_default()),
        ("expires", json::length(queue.expires).unwrap_or_default()),
        ("max attempts", number(queue.max_delivery_attempts.into())),
        ("retry after", queue.retry_policy.as_ref().map(backoff).unwrap_or_default()),
        ("max priority", number(queue.max_priority.into())),
        ("single active", if queue.single_active_consumer { "yes".to_owned() } else { String::new() }),
        ("max age", json::length(queue.max_age).unwrap_or_default()),
        ("segment bytes", number(queue.stream_max_segment_bytes)),
    ])
}

fn backoff(policy: &pb::RetryPolicy) -> String {
    let time = |time| json::length(time).unwrap_or_default();
    let (multiplier, jitter) = (policy.multiplier.unwrap_or_default(), policy.jitter.unwrap_or_default() * 100.0);
    format!("{} to {}, ×{multiplier}, ±{jitter} %", time(policy.min_backoff), time(policy.max_backoff))
}

fn kind(queue: &pb::Queue) -> String {
    json::short(queue.r#type().as_str_name(), "QUEUE_TYPE")
}
