//! Buffering: a burst comes in much faster than the consumer works; the queue takes it, and the consumer keeps its pace.
//! Messages enter at once; they leave one after the other, all of them, in order.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::MissedTickBehavior;

use super::{
    super::Error,
    Noticed,
    stage::{Stage, check, next, text},
};
use crate::pb::Outcome;

const MESSAGES: usize = 600;
/// How long the consumer takes for one.
const PACE: Duration = Duration::from_millis(8);
/// How many of them a step of the picture is.
const STEP: usize = 100;

pub(super) async fn play(stage: &Stage<'_>) -> Result<Noticed, Error> {
    stage.queue("clicks").await?;
    let mut consumer = stage.subscribe_with("clicks", |options| options.max_outstanding_messages(20)).await?;
    stage.say(&format!("The consumer needs {} ms for a message. Now {MESSAGES} come at once.\n", PACE.as_millis()))?;

    let begin = Instant::now();
    let publisher = stage.client().publisher();
    let mut receipts = Vec::with_capacity(MESSAGES);
    for n in 0..MESSAGES {
        receipts.push(publisher.send(stage.to_queue("clicks", n.to_string())).await?);
    }
    let results = join_all(receipts).await;
    let burst = begin.elapsed();
    publisher.close().await?;
    let confirmed = results.iter().filter(|result| result.outcome() == Outcome::Confirmed).count();
    check(confirmed == MESSAGES, || format!("{confirmed} of {MESSAGES} were confirmed"))?;
    stage.say(&format!("  {:4.2} s  all {MESSAGES} are confirmed: the publisher can go home", burst.as_secs_f64()))?;

    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for n in 0..MESSAGES {
        pace.tick().await;
        let delivery = next(&mut consumer).await?;
        check(text(&delivery) == n.to_string(), || format!("message {} came where {n} belongs", text(&delivery)))?;
        consumer.ack(&delivery)?;
        let left = MESSAGES - n - 1;
        if left.is_multiple_of(STEP) {
            let at = begin.elapsed().as_secs_f64();
            stage.say(&format!("  {at:4.2} s  {left:3} wait  {}", "#".repeat(left / 20)))?;
        }
    }
    let total = begin.elapsed();
    consumer.close().await?;
    Ok(vec![
        format!(
            "Publishing took {:.2} s, consuming {:.2} s: the queue stood in between, and neither side felt the other.",
            burst.as_secs_f64(),
            total.as_secs_f64()
        ),
        "The consumer was never flooded: at most 20 messages (its window) were out at any time.".to_owned(),
        "Nothing was lost and nothing overtook: one consumer that acknowledges gets a queue in order.".to_owned(),
        "A queue can be bounded (warrengate queue declare --max-length); what is too much is then REJECTED, not lost \
         silently."
            .to_owned(),
    ])
}
