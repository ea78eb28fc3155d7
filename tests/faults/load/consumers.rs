//! A consumer as an application would write it, which reports everything it sees.
//!
//! It subscribes again after a permanent failure and never gives up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use warrengate::client::{Client, Delivery, Event, Nack, SubscribeOptions, Subscription};

use crate::{
    ledger::{How, Seen},
    message::{self, Fate},
};

/// How long the application waits before it opens a subscription that failed.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Small, so that a queue's consumers share what there is.
const WINDOW: u32 = 20;

/// What a consumer does with poison.
#[derive(Clone, Default)]
pub struct Medicine(Arc<AtomicBool>);

impl Medicine {
    /// From now on poison is acknowledged.
    pub fn take(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Consumes until it is told to stop.
pub async fn consume(client: Client, queue: String, medicine: Medicine, stop: CancellationToken, say: impl Fn(Seen)) {
    while !stop.is_cancelled() {
        let opened = tokio::select! {
            opened = client.subscribe(SubscribeOptions::queue(&queue).max_outstanding_messages(WINDOW)) => opened,
            () = stop.cancelled() => return,
        };
        let ended = match opened {
            Ok(subscription) => {
                say(Seen::Started);
                serve(subscription, &medicine, &stop, &say).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            say(Seen::Failed { error: error.to_string() });
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

async fn serve(
    mut subscription: Subscription,
    medicine: &Medicine,
    stop: &CancellationToken,
    say: &impl Fn(Seen),
) -> Result<(), warrengate::client::Error> {
    loop {
        let event = tokio::select! {
            event = subscription.next_event() => event?,
            () = stop.cancelled() => return subscription.close().await,
        };
        match event {
            Some(Event::Delivery(delivery)) => settle(&subscription, &delivery, medicine, say)?,
            Some(Event::Interrupted { reason }) => say(Seen::Interrupted { reason }),
            Some(Event::Resumed) => say(Seen::Resumed),
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

fn settle(
    subscription: &Subscription,
    delivery: &Delivery,
    medicine: &Medicine,
    say: &impl Fn(Seen),
) -> Result<(), warrengate::client::Error> {
    let details = delivery.details();
    let (attempt, redelivered) = (details.attempt, details.redelivered);
    let seen = match message::read(details) {
        Ok(seen) => seen,
        Err(what) => {
            say(Seen::Wrong { what });
            return subscription.ack(delivery);
        }
    };
    let id = seen.id;
    say(Seen::Delivered { id: id.clone(), attempt, redelivered });
    let retry = match seen.fate {
        Fate::Retried => attempt == 1,
        Fate::Poison => !medicine.0.load(Ordering::Relaxed),
        Fate::Plain | Fate::Unroutable => false,
    };
    if retry {
        // Said first: the delay is counted from here.
        say(Seen::Settled { id, how: How::Retry });
        subscription.nack(delivery, Nack::retry().because("the suite says so"))?;
    } else {
        subscription.ack(delivery)?;
        say(Seen::Settled { id, how: How::Ack });
    }
    Ok(())
}
