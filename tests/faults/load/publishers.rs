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
    ledger::{Ledger, StreamId},
    message::{self, Fate},
};

/// What a publisher publishes.
pub struct Work {
    pub seed: u64,
    pub tenant: String,
    /// Messages a second.
    pub rate: u32,
}

/// Publishes until it is told to stop, and then waits for every outcome.
pub async fn publish(client: Client, work: Work, ledger: Arc<Ledger>, stream: StreamId, stop: CancellationToken) {
    let mut publisher = client.publisher();
    let mut waiting = FuturesUnordered::new();
    let mut ticks = interval(Duration::from_secs(1) / work.rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ledger.open(stream, true);
    let mut number = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(result) = waiting.next() => note(&ledger, stream, &result),
            _ = ticks.tick() => {
                let publication = message::make(work.seed, &work.tenant, number);
                let id = message::id(&work.tenant, number);
                ledger.sent(id, Fate::of(number));
                match publisher.send(publication).await {
                    Ok(receipt) => waiting.push(Receipt::into_future(receipt)),
                    // Not sent, and known not to be: the application opens another stream.
                    Err(error) => {
                        ledger.refused(stream, &message::id(&work.tenant, number), error.to_string());
                        publisher = client.publisher();
                    }
                }
                number += 1;
            }
        }
    }
    // From here on there is nothing to do for it at times.
    ledger.open(stream, false);
    while let Some(result) = waiting.next().await {
        note(&ledger, stream, &result);
    }
    if let Err(error) = publisher.close().await {
        tracing_line(&work.tenant, &error.to_string());
    }
}

fn note(ledger: &Ledger, stream: StreamId, result: &PublishResult) {
    ledger.outcome(stream, &result.message_id, result.outcome(), result.reason.clone());
}

fn tracing_line(tenant: &str, error: &str) {
    crate::report::say(&format!("the publisher of {tenant} ended with: {error}"));
}
