//! Warrengate in Rust: declare a queue, publish, consume, retry and dead-letter. `warrengate-client` renews tokens,
//! reconnects, and sends unanswered messages again. Run it with `examples/rust/run.sh`.

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use anyhow::Context as _;
use futures_util::future::try_join_all;
use opentelemetry::global::get_text_map_propagator;
use serde::Deserialize;
use uuid::Uuid;
use warrengate_client::{
    Client, ClientOptions, Event, Nack, SubscribeOptions,
    pb::{DeclareQueueRequest, DeleteQueueRequest, Publication, Queue, Value, value::Kind},
    publication,
};

/// The broker keeps the message until then.
const RETRY_AFTER: Duration = Duration::from_secs(4);

#[derive(Deserialize)]
struct Scenario {
    orders: Vec<String>,
    nowhere: String,
    retry_once: String,
    dead_letter: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let scenario: Scenario = serde_json::from_str(include_str!("../../scenario.json"))?;
    let client = Client::connect(ClientOptions::from_env()?).await?;
    let name = format!("quickstart-{}", Uuid::new_v4().simple());
    let queue = Queue { name: name.clone(), ..Queue::default() };
    client.topology().declare_queue(DeclareQueueRequest { queue: Some(queue), validate_only: false }).await?;

    let publisher = client.publisher();
    let orders = scenario.orders.iter().map(|order| (order, name.clone()));
    let nowhere = (&scenario.nowhere, format!("{name}.nowhere"));
    // `send` waits for space in the window; the receipt waits for the outcome.
    let receipts = orders.chain([nowhere]).map(async |(order, queue)| {
        let result = publisher.send(traced(publication("", queue, order.clone()))).await?.await;
        println!("published {order}: {}", result.outcome().as_str_name().trim_start_matches("OUTCOME_"));
        anyhow::Ok(())
    });
    try_join_all(receipts).await?;
    publisher.close().await?;

    let mut left: BTreeSet<_> = scenario.orders.iter().cloned().collect();
    let mut subscription = client.subscribe(SubscribeOptions::queue(&name)).await?;
    while !left.is_empty() {
        let delivery = match subscription.next_event().await?.context("the subscription ended")? {
            Event::Delivery(delivery) => delivery,
            Event::Reauthenticated => {
                println!("token renewed");
                continue;
            }
            _ => continue,
        };
        let order = String::from_utf8_lossy(delivery.body()).into_owned();
        let attempt = delivery.details().attempt;
        let result = if order == scenario.dead_letter {
            subscription.nack(&delivery, Nack::dead_letter().because("required by the scenario"))?;
            "give up"
        } else if order == scenario.retry_once && attempt == 1 {
            subscription.nack(&delivery, Nack::retry().after(RETRY_AFTER).because("required by the scenario"))?;
            "try again"
        } else {
            subscription.ack(&delivery)?;
            "done"
        };
        println!("delivered {order}, attempt {attempt}: {result}");
        if result != "try again" {
            left.remove(&order);
        }
    }
    subscription.close().await?;
    client.topology().delete_queue(DeleteQueueRequest { name, ..Default::default() }).await?;
    Ok(())
}

/// Adds the current trace context to the message's headers, if there is one.
fn traced(mut publication: Publication) -> Publication {
    let mut carrier = HashMap::new();
    get_text_map_propagator(|propagator| propagator.inject(&mut carrier));
    if let Some(message) = &mut publication.message {
        let header = |(name, text)| (name, Value { kind: Some(Kind::StringValue(text)) });
        message.headers.extend(carrier.into_iter().map(header));
    }
    publication
}
