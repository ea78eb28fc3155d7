//! A test of the running stack with the public client: one message of a tenant is published and received, and the other
//! tenant is refused access to its queue.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    cli::Error,
    client::{self, Client, SubscribeOptions},
    pb,
};

const QUEUE: &str = "warrengate-dev-proof";
const BODY: &str = "round trip";
const TIMEOUT: Duration = Duration::from_secs(20);

/// The results.
pub(super) struct Proof {
    round_trip: Duration,
    refusal: String,
}

impl Proof {
    pub(super) fn json(&self) -> Value {
        json!({ "round_trip_ms": self.round_trip.as_secs_f64() * 1000.0, "cross_tenant_refusal": self.refusal })
    }

    pub(super) fn text(&self) -> String {
        format!(
            "test: one message of acme published and received in {:.1} ms; globex was refused the same queue ({})",
            self.round_trip.as_secs_f64() * 1000.0,
            self.refusal
        )
    }
}

pub(super) async fn prove(acme: &Client, globex: &Client) -> Result<Proof, Error> {
    match tokio::time::timeout(TIMEOUT, attempt(acme, globex)).await {
        Ok(proof) => proof,
        Err(_) => Err(Error::Failed(format!(
            "the message did not come back within {TIMEOUT:?}: see the warnings above (a full disk or low memory blocks the \
             broker), or start with `--log debug`"
        ))),
    }
}

async fn attempt(acme: &Client, globex: &Client) -> Result<Proof, Error> {
    let queue = pb::Queue { name: QUEUE.to_owned(), ..pb::Queue::default() };
    let request = pb::DeclareQueueRequest { queue: Some(queue), validate_only: false };
    acme.topology().declare_queue(request).await?;
    acme.topology().purge_queue(pb::PurgeQueueRequest { name: QUEUE.to_owned() }).await?;

    let mut subscription = acme.subscribe(SubscribeOptions::queue(QUEUE)).await?;
    let started = Instant::now();
    let outcome = acme.publish_batch(vec![client::publication("", QUEUE, BODY)]).await?;
    if !outcome.iter().all(|result| result.outcome() == pb::Outcome::Confirmed) {
        return Err(Error::Failed(format!("the message was not confirmed: {outcome:?}")));
    }
    let delivery = subscription.next().await?.ok_or_else(|| Error::Failed("the subscription ended".to_owned()))?;
    let round_trip = started.elapsed();
    if delivery.body() != BODY {
        return Err(Error::Failed("a different message was received".to_owned()));
    }
    subscription.ack(&delivery)?;
    subscription.close().await?;

    let refusal = match globex.subscribe(SubscribeOptions::queue(QUEUE)).await {
        Err(client::Error::Refused(refusal)) => refusal.reason().to_owned(),
        Err(error) => return Err(error.into()),
        Ok(_) => return Err(Error::Failed("globex could open a queue of acme".to_owned())),
    };
    let request = pb::DeleteQueueRequest { name: QUEUE.to_owned(), if_unused: false, if_empty: false };
    acme.topology().delete_queue(request).await?;
    Ok(Proof { round_trip, refusal })
}
