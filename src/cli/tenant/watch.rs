//! `warrengate tenant watch`: the figures of a tenant's queues at an interval.

use std::time::Duration;

use serde_json::{Value, json};

use super::Admin;
use crate::{
    cli::{Error, Output, json, output::table, signals::Signals, values},
    pb,
};

/// The flags of `tenant watch`.
#[derive(Debug, clap::Args)]
pub(super) struct Watch {
    /// The tenant [default: the caller's own]
    id: Option<String>,
    /// The time between two snapshots, 1s to 60s
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "5s")]
    interval: Duration,
    /// Maximum number of queues to show, the deepest first
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    max_queues: u32,
    /// Only this queue
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Stop after this number of snapshots
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
}

pub(super) async fn run(mut admin: Admin, watch: Watch, output: &Output) -> Result<(), Error> {
    let request = pb::WatchTenantRequest {
        tenant: watch.id.unwrap_or_default(),
        interval: Some(values::api_duration(watch.interval)),
        max_queues: watch.max_queues,
        queue: watch.queue.unwrap_or_default(),
    };
    let mut snapshots = admin.watch_tenant(request).await?.into_inner();
    let mut signals = Signals::listen()?;
    let mut shown = 0;
    while watch.count.is_none_or(|count| shown < count) {
        let snapshot = tokio::select! {
            snapshot = snapshots.message() => snapshot?,
            () = signals.next() => break,
        };
        let Some(snapshot) = snapshot else { break };
        match output.is_json() {
            true => output.line(&object(&snapshot).to_string())?,
            false => output.line(&output.safe(&text(&snapshot)))?,
        }
        shown += 1;
    }
    Ok(())
}

fn object(snapshot: &pb::WatchTenantResponse) -> Value {
    let queue = |queue: &pb::QueueFigures| {
        json!({
            "queue": queue.queue,
            "type": json::short(queue.r#type().as_str_name(), "QUEUE_TYPE"),
            "messages_ready": queue.messages_ready,
            "messages_unsettled": queue.messages_unsettled,
            "consumers": queue.consumers,
            "publish_rate": queue.publish_rate,
            "deliver_rate": queue.deliver_rate,
            "oldest_message_age": json::length(queue.oldest_message_age),
        })
    };
    let totals = snapshot.totals.unwrap_or_default();
    json!({
        "time": json::time(snapshot.time),
        "measured": json::time(snapshot.measured),
        "queues": snapshot.queues.iter().map(queue).collect::<Vec<_>>(),
        "totals": {
            "queues": totals.queues,
            "messages_ready": totals.messages_ready,
            "messages_unsettled": totals.messages_unsettled,
            "consumers": totals.consumers,
            "publish_rate": totals.publish_rate,
            "deliver_rate": totals.deliver_rate,
            "oldest_message_age": json::length(totals.oldest_message_age),
            "dead_letters": totals.dead_letters,
            "messages_delayed": totals.messages_delayed,
        },
        "failure": snapshot.failure,
    })
}

/// A number, or `?` when it is not known.
fn known<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "?".to_owned(), |value| value.to_string())
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "?".to_owned(), |rate| format!("{rate:.1}/s"))
}

/// An age in whole seconds.
fn age(age: Option<prost_types::Duration>) -> String {
    let whole = age.map(|age| prost_types::Duration { nanos: 0, ..age });
    json::length(whole).unwrap_or_else(|| "?".to_owned())
}

fn text(snapshot: &pb::WatchTenantResponse) -> String {
    let row = |queue: &pb::QueueFigures| {
        [
            queue.queue.clone(),
            queue.messages_ready.to_string(),
            known(queue.messages_unsettled),
            known(queue.consumers),
            rate(queue.publish_rate),
            rate(queue.deliver_rate),
            age(queue.oldest_message_age),
        ]
    };
    let totals = snapshot.totals.unwrap_or_default();
    let total = [
        format!("all {}", totals.queues),
        totals.messages_ready.to_string(),
        totals.messages_unsettled.to_string(),
        totals.consumers.to_string(),
        rate(totals.publish_rate),
        rate(totals.deliver_rate),
        age(totals.oldest_message_age),
    ];
    let header = ["queue", "ready", "unsettled", "consumers", "in", "out", "oldest"];
    let figures = table(header, snapshot.queues.iter().map(row).chain([total]));
    let (dead, delayed) = (totals.dead_letters, totals.messages_delayed);
    let failure = match snapshot.failure.as_str() {
        "" => String::new(),
        failure => format!("\n{failure}"),
    };
    let time = json::time(snapshot.time).unwrap_or_default();
    format!("{time}\n{figures}\n{dead} dead letters, {delayed} waiting for their next attempt{failure}\n")
}
