//! A publisher as an application would write it: a fixed rate, and every outcome awaited, with the public client.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use warrengate::{
    client::{Client, Receipt},
    pb::PublishResult,
};

use crate::{
    history::{History, StreamId},
    message::{self, Disposition},
};

/// The work of a publisher.
pub struct Work {
    pub seed: u64,
    pub tenant: String,
    /// Messages per second.
    pub rate: u32,
}

/// Publishes until it is stopped, and then waits for every outcome.
pub async fn publish(client: Client, work: Work, history: Arc<History>, stream: StreamId, stop: CancellationToken) {
    let mut publisher = client.publisher();
    let mut waiting = FuturesUnordered::new();
    let mut ticks = interval(Duration::from_secs(1) / work.rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    history.open(stream, true);
    let mut number = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(result) = waiting.next() => record(&history, stream, &result),
            _ = ticks.tick() => {
                let publication = message::create(work.seed, &work.tenant, number);
                let id = message::id(&work.tenant, number);
                history.sent(id, Disposition::of(number));
                match publisher.send(publication).await {
                    Ok(receipt) => waiting.push(Receipt::into_future(receipt)),
                    // Certainly not sent: the application opens another stream.
                    Err(error) => {
                        history.refused(stream, &message::id(&work.tenant, number), error.to_string());
                        publisher = client.publisher();
                    }
                }
                number += 1;
            }
        }
    }
    // No more messages follow, only outcomes.
    history.open(stream, false);
    while let Some(result) = waiting.next().await {
        record(&history, stream, &result);
    }
    if let Err(error) = publisher.close().await {
        tracing_line(&work.tenant, &error.to_string());
    }
}

fn record(history: &History, stream: StreamId, result: &PublishResult) {
    history.outcome(stream, &result.message_id, result.outcome(), result.reason.clone());
}

fn tracing_line(tenant: &str, error: &str) {
    crate::report::say(&format!("the publisher of {tenant} ended with: {error}"));
}
