//! `warrengate dead-letter`: lists, redrives and deletes dead letters.

use std::{
    io::IsTerminal as _,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;

use super::{
    Error, Output,
    connection::{ConnectionArgs, DATA},
    json,
    output::{properties, table},
    signals::Signals,
    values,
};
use crate::{
    client::Authenticated,
    pb::{self, topology_client::TopologyClient},
};

const EXAMPLES: &str = "\
Examples:
  warrengate dead-letter list
  warrengate dead-letter list --queue orders --since 1h
  warrengate dead-letter show 01995c2e-7b1c-7d43-9c55-0d1f6b0f2a11
  warrengate dead-letter redrive 01995c2e-7b1c-7d43-9c55-0d1f6b0f2a11
  warrengate dead-letter redrive --queue orders --max-per-second 100
  warrengate dead-letter redrive --all
  warrengate dead-letter redrive 01995c2e-7b1c-7d43-9c55-0d1f6b0f2a11 --body fixed
  warrengate dead-letter redrive 01995c2e-7b1c-7d43-9c55-0d1f6b0f2a11 --to :inspection
  warrengate dead-letter purge --queue orders --code expired

A redrive publishes them to their original queue, except a single one with --to. Listing removes nothing.";

/// The interval of progress lines on a terminal.
const REPORT: Duration = Duration::from_secs(2);

/// The flags of `dead-letter`.
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
    /// Show dead letters, oldest first
    List {
        #[command(flatten)]
        filter: Filter,
        /// Maximum number of dead letters to show
        #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
        limit: usize,
    },
    /// Show one dead letter with its message
    Show {
        /// Its id
        id: String,
    },
    /// Publish dead letters to their queues again
    Redrive {
        #[command(flatten)]
        which: SelectionArgs,
        /// Maximum rate per second
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        max_per_second: u32,
        #[command(flatten)]
        edit: Edit,
    },
    /// Delete dead letters
    Purge {
        #[command(flatten)]
        which: SelectionArgs,
    },
}

/// Changes to a single dead letter.
#[derive(Debug, clap::Args)]
struct Edit {
    /// Send it with this body instead of its own; for a single id
    #[arg(long, value_name = "TEXT")]
    body: Option<String>,
    /// Send it with the body in this file instead of its own; for a single id
    #[arg(long, value_name = "FILE", conflicts_with = "body")]
    body_file: Option<PathBuf>,
    /// Send it to this exchange and routing key instead of its queue; an empty exchange is the default one, whose
    /// routing key is a queue. For a single id
    #[arg(long, value_name = "EXCHANGE:KEY", value_parser = destination)]
    to: Option<pb::PublishDestination>,
}

/// The gateway accepts 1 MiB for a whole request that is not for messages.
const MAX_EDITED: usize = 1_000_000;

impl Edit {
    fn edit(self) -> Result<Option<pb::DeadLetterEdit>, Error> {
        let body = match (self.body, self.body_file) {
            (Some(text), _) => Some(text.into()),
            (None, Some(path)) => {
                Some(std::fs::read(&path).map_err(Error::io(format!("cannot read {}", path.display())))?.into())
            }
            (None, None) => None,
        };
        if let Some(bytes) = body.as_ref().map(bytes::Bytes::len).filter(|bytes| *bytes > MAX_EDITED) {
            let text = format!(
                "the body has {bytes} bytes; a dead letter is sent again with another body of at most {MAX_EDITED}: publish the \
                 body as a new message, and purge the dead letter"
            );
            return Err(Error::Usage(text));
        }
        let edit = pb::DeadLetterEdit { body, destination: self.to };
        Ok((edit != pb::DeadLetterEdit::default()).then_some(edit))
    }
}

fn destination(text: &str) -> Result<pb::PublishDestination, String> {
    let (exchange, key) = text.split_once(':').ok_or("write EXCHANGE:KEY, like orders:created or :jobs")?;
    Ok(pb::PublishDestination { exchange: exchange.to_owned(), routing_key: key.to_owned() })
}

#[derive(Debug, clap::Args)]
struct Filter {
    /// Only those of this queue
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Only those with this code: rejected, delivery_limit, queue_deleted, expired
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// Only those whose reason contains this
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only those that became dead letters at this time or later, like 1h (ago)
    #[arg(long, value_name = "TIME", value_parser = values::past)]
    since: Option<SystemTime>,
    /// Only those that became dead letters before this time
    #[arg(long, value_name = "TIME", value_parser = values::past)]
    before: Option<SystemTime>,
}

#[derive(Debug, clap::Args)]
struct SelectionArgs {
    /// Ids of dead letters
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// All of them
    #[arg(long)]
    all: bool,
}

impl Filter {
    fn filter(self) -> pb::DeadLetterFilter {
        pb::DeadLetterFilter {
            queue: self.queue.unwrap_or_default(),
            code: self.code.unwrap_or_default(),
            reason_contains: self.reason.unwrap_or_default(),
            died_after: self.since.map(Into::into),
            died_before: self.before.map(Into::into),
            ..pb::DeadLetterFilter::default()
        }
    }
}

impl SelectionArgs {
    fn selection(self) -> Result<pb::DeadLetterSelection, Error> {
        let filter = self.filter.filter();
        let filter = (filter != pb::DeadLetterFilter::default()).then_some(filter);
        match (self.ids.is_empty(), &filter, self.all) {
            (false, None, false) | (true, Some(_), false) | (true, None, true) => {
                Ok(pb::DeadLetterSelection { dead_letter_ids: self.ids, filter, all: self.all })
            }
            _ => Err(Error::Usage(
                "give the ids of dead letters, select them with --queue or another filter, or use --all".into(),
            )),
        }
    }
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let topology = args.connection.connect(DATA).await?.topology();
    match args.action {
        Action::List { filter, limit } => list(topology, filter.filter(), limit, output).await,
        Action::Show { id } => show(topology, id, output).await,
        Action::Redrive { which, max_per_second, edit } => {
            let (selection, edit) = (Some(which.selection()?), edit.edit()?);
            redrive(topology, pb::RedriveDeadLettersRequest { selection, max_per_second, edit }, output).await
        }
        Action::Purge { which } => {
            let request = pb::PurgeDeadLettersRequest { selection: Some(which.selection()?) };
            let mut topology = topology;
            let purged = topology.purge_dead_letters(request).await?.into_inner().purged;
            output.result(|| json!({"purged": purged}), || format!("deleted {purged} dead letters"))
        }
    }
}

async fn list(
    mut topology: TopologyClient<Authenticated>,
    filter: pb::DeadLetterFilter,
    limit: usize,
    output: &Output,
) -> Result<(), Error> {
    let mut letters = Vec::new();
    let mut page_token = String::new();
    while letters.len() < limit {
        let page_size = i32::try_from(limit - letters.len()).unwrap_or(i32::MAX).min(1_000);
        // JSON shows everything; a table omits bodies.
        let without_bodies = !output.is_json();
        let request =
            pb::ListDeadLettersRequest { filter: Some(filter.clone()), page_size, page_token, without_bodies };
        let page = topology.list_dead_letters(request).await?.into_inner();
        letters.extend(page.dead_letters);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if !page_token.is_empty() {
        output.note(&format!("only the first {limit} are shown; see --limit"));
    }
    output.result(
        || letters.iter().map(json::dead_letter).collect(),
        || {
            let row = |letter: &pb::DeadLetter| {
                let died = json::time(letter.died).unwrap_or_default();
                let [id, queue] = [&letter.dead_letter_id, &letter.queue].map(Clone::clone);
                [id, queue, letter.code.clone(), letter.attempts.to_string(), died, letter.reason.clone()]
            };
            table(["id", "queue", "code", "attempts", "died", "reason"], letters.iter().map(row))
        },
    )
}

async fn show(mut topology: TopologyClient<Authenticated>, id: String, output: &Output) -> Result<(), Error> {
    let filter = pb::DeadLetterFilter { dead_letter_id: id.clone(), ..Default::default() };
    let request = pb::ListDeadLettersRequest { filter: Some(filter), page_size: 1, ..Default::default() };
    let page = topology.list_dead_letters(request).await?.into_inner();
    let Some(letter) = page.dead_letters.into_iter().next() else {
        return Err(Error::Failed(format!("dead letter {id} does not exist")));
    };
    output.result(|| json::dead_letter(&letter), || text(&letter))
}

fn text(letter: &pb::DeadLetter) -> String {
    let time = |time| json::time(time).unwrap_or_default();
    let number = |n: u32| if n == 0 { String::new() } else { n.to_string() };
    let message = letter.message.clone().unwrap_or_default();
    let head = properties([
        ("dead letter", letter.dead_letter_id.clone()),
        ("queue", letter.queue.clone()),
        ("code", letter.code.clone()),
        ("reason", letter.reason.clone()),
        ("attempts", letter.attempts.to_string()),
        ("first failure", time(letter.first_failure)),
        ("last failure", time(letter.last_failure)),
        ("died", time(letter.died)),
        ("redrives", number(letter.redrives)),
        ("exchange", letter.exchange.clone()),
        ("routing key", letter.routing_key.clone()),
        ("message id", message.message_id.clone()),
        ("type", message.r#type.clone()),
        ("published", time(message.publish_time)),
    ]);
    let body = match std::str::from_utf8(&message.body) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("{} bytes, not text; see --json", message.body.len()),
    };
    format!("{head}\n\n{body}")
}

async fn redrive(
    mut topology: TopologyClient<Authenticated>,
    request: pb::RedriveDeadLettersRequest,
    output: &Output,
) -> Result<(), Error> {
    let mut reports = topology.redrive_dead_letters(request).await?.into_inner();
    let mut last = pb::RedriveDeadLettersResponse::default();
    let mut failures = Vec::new();
    let mut last_report = Instant::now();
    let is_watched = std::io::stderr().is_terminal();
    let mut signals = Signals::listen()?;
    loop {
        let report = tokio::select! {
            report = reports.message() => report?,
            () = signals.next() => {
                output.note("stopped; messages in flight were completed, the others remain dead letters");
                break;
            }
        };
        let Some(mut report) = report else { break };
        failures.append(&mut report.failures);
        if is_watched && last_report.elapsed() >= REPORT {
            last_report = Instant::now();
            let pb::RedriveDeadLettersResponse { redriven, failed, remaining, .. } = report;
            output.note(&format!("{redriven} sent, {failed} failed, {remaining} to go"));
        }
        last = report;
    }
    let pb::RedriveDeadLettersResponse { redriven, failed, remaining, .. } = last;
    output.result(
        || {
            let failure = |f: &pb::RedriveFailure| json!({"dead_letter_id": f.dead_letter_id, "reason": f.reason});
            let failures: Vec<_> = failures.iter().map(failure).collect();
            json!({"redriven": redriven, "failed": failed, "remaining": remaining, "failures": failures})
        },
        || {
            let lines = failures.iter().map(|f| format!("{}: {}\n", f.dead_letter_id, f.reason)).collect::<String>();
            format!("{lines}redrove {redriven} dead letters, {failed} failed")
        },
    )?;
    match failed {
        0 => Ok(()),
        _ => Err(Error::Failed(format!("{failed} could not be sent and remain dead letters"))),
    }
}
