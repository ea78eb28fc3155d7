//! A consumer as an application would write it, which reports every event.
//!
//! It subscribes again after a permanent failure without limit.

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
    history::{Observation, Settlement},
    message::{self, Disposition},
};

/// The pause before the application opens a failed subscription again.
const REOPEN_AFTER: Duration = Duration::from_millis(200);
/// Small, so that the messages are shared among the consumers of a queue.
const WINDOW: u32 = 20;

/// Whether consumers acknowledge poison messages instead of retrying them.
#[derive(Clone, Default)]
pub struct PoisonSwitch(Arc<AtomicBool>);

impl PoisonSwitch {
    /// From now on poison messages are acknowledged.
    pub fn accept(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Consumes until it is stopped.
pub async fn consume(
    client: Client,
    queue: String,
    poison_switch: PoisonSwitch,
    stop: CancellationToken,
    report: impl Fn(Observation),
) {
    while !stop.is_cancelled() {
        let opened = tokio::select! {
            opened = client.subscribe(SubscribeOptions::queue(&queue).max_outstanding_messages(WINDOW)) => opened,
            () = stop.cancelled() => return,
        };
        let ended = match opened {
            Ok(subscription) => {
                report(Observation::Started);
                serve(subscription, &poison_switch, &stop, &report).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            report(Observation::Failed { error: error.to_string() });
            tokio::time::sleep(REOPEN_AFTER).await;
        }
    }
}

async fn serve(
    mut subscription: Subscription,
    poison_switch: &PoisonSwitch,
    stop: &CancellationToken,
    report: &impl Fn(Observation),
) -> Result<(), warrengate::client::Error> {
    loop {
        let event = tokio::select! {
            event = subscription.next_event() => event?,
            () = stop.cancelled() => return subscription.close().await,
        };
        match event {
            Some(Event::Delivery(delivery)) => settle(&subscription, &delivery, poison_switch, report)?,
            Some(Event::Interrupted { reason }) => report(Observation::Interrupted { reason }),
            Some(Event::Resumed) => report(Observation::Resumed),
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

fn settle(
    subscription: &Subscription,
    delivery: &Delivery,
    poison_switch: &PoisonSwitch,
    report: &impl Fn(Observation),
) -> Result<(), warrengate::client::Error> {
    let details = delivery.details();
    let (attempt, redelivered) = (details.attempt, details.redelivered);
    let content = match message::read(details) {
        Ok(content) => content,
        Err(what) => {
            report(Observation::Wrong { what });
            return subscription.ack(delivery);
        }
    };
    let id = content.id;
    report(Observation::Delivered { id: id.clone(), attempt, redelivered });
    let retry = match content.disposition {
        Disposition::Retried => attempt == 1,
        Disposition::Poison => !poison_switch.0.load(Ordering::Relaxed),
        Disposition::Plain | Disposition::Unroutable => false,
    };
    if retry {
        // Reported first, because the delay is measured from here.
        report(Observation::Settled { id, settlement: Settlement::Retry });
        subscription.nack(delivery, Nack::retry().because("requested by the suite"))?;
    } else {
        subscription.ack(delivery)?;
        report(Observation::Settled { id, settlement: Settlement::Ack });
    }
    Ok(())
}
