//! The proof that the stack does its main job, with the client that anyone would use: one message out and back in one
//! tenant, and the same queue refused to the other.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    cli::Error,
    client::{self, Client, SubscribeOptions},
    pb,
};

const QUEUE: &str = "warrengate-dev-proof";
const BODY: &str = "out and back";
const PATIENCE: Duration = Duration::from_secs(20);

/// What was seen.
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
            "proof: one message of acme out and back in {:.1} ms; globex was refused the same queue ({})",
            self.round_trip.as_secs_f64() * 1000.0,
            self.refusal
        )
    }
}

pub(super) async fn prove(acme: &Client, globex: &Client) -> Result<Proof, Error> {
    match tokio::time::timeout(PATIENCE, attempt(acme, globex)).await {
        Ok(proof) => proof,
        Err(_) => Err(Error::Failed(format!("the proof did not end within {PATIENCE:?}; `--log debug` says more"))),
    }
}

async fn attempt(acme: &Client, globex: &Client) -> Result<Proof, Error> {
    let queue = pb::Queue { name: QUEUE.to_owned(), ..pb::Queue::default() };
    let request = pb::DeclareQueueRequest { queue: Some(queue), validate_only: false };
    acme.topology().declare_queue(request).await?;
    acme.topology().purge_queue(pb::PurgeQueueRequest { name: QUEUE.to_owned() }).await?;

    let mut subscription = acme.subscribe(SubscribeOptions::queue(QUEUE)).await?;
    let begun = Instant::now();
    let outcome = acme.publish_batch(vec![client::publication("", QUEUE, BODY)]).await?;
    if !outcome.iter().all(|result| result.outcome() == pb::Outcome::Confirmed) {
        return Err(Error::Failed(format!("the message was not confirmed: {outcome:?}")));
    }
    let delivery = subscription.next().await?.ok_or_else(|| Error::Failed("the subscription ended".to_owned()))?;
    let round_trip = begun.elapsed();
    if delivery.body() != BODY {
        return Err(Error::Failed("another message came back than went out".to_owned()));
    }
    subscription.ack(&delivery)?;
    subscription.close().await?;

    let refusal = match globex.subscribe(SubscribeOptions::queue(QUEUE)).await {
        Err(client::Error::Refused(refusal)) => refusal.reason().to_owned(),
        Err(error) => return Err(error.into()),
        Ok(_) => return Err(Error::Failed("globex was let into a queue of acme's".to_owned())),
    };
    let request = pb::DeleteQueueRequest { name: QUEUE.to_owned(), if_unused: false, if_empty: false };
    acme.topology().delete_queue(request).await?;
    Ok(Proof { round_trip, refusal })
}
