//! Buffering: a burst arrives much faster than the consumer works; the queue stores it, and the consumer keeps its
//! pace.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::MissedTickBehavior;

use super::{
    super::Error,
    Observations,
    context::{Context, check, next, text},
};
use crate::pb::Outcome;

const MESSAGES: usize = 600;
/// The consumer's time for one message.
const PACE: Duration = Duration::from_millis(8);
/// A line is printed after this many messages.
const STEP: usize = 100;

pub(super) async fn run(demo: &Context<'_>) -> Result<Observations, Error> {
    demo.queue("clicks").await?;
    let mut consumer = demo.subscribe_with("clicks", |options| options.max_outstanding_messages(20)).await?;
    demo.say(&format!("The consumer needs {} ms for a message. Now {MESSAGES} arrive at once.\n", PACE.as_millis()))?;

    let begin = Instant::now();
    let publisher = demo.client().publisher();
    let mut receipts = Vec::with_capacity(MESSAGES);
    for n in 0..MESSAGES {
        receipts.push(publisher.send(demo.to_queue("clicks", n.to_string())).await?);
    }
    let results = join_all(receipts).await;
    let burst = begin.elapsed();
    publisher.close().await?;
    let confirmed = results.iter().filter(|result| result.outcome() == Outcome::Confirmed).count();
    check(confirmed == MESSAGES, || format!("{confirmed} of {MESSAGES} were confirmed"))?;
    demo.say(&format!("  {:4.2} s  all {MESSAGES} are confirmed: the publisher is done", burst.as_secs_f64()))?;

    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for n in 0..MESSAGES {
        pace.tick().await;
        let delivery = next(&mut consumer).await?;
        check(text(&delivery) == n.to_string(), || format!("message {} arrived instead of {n}", text(&delivery)))?;
        consumer.ack(&delivery)?;
        let left = MESSAGES - n - 1;
        if left.is_multiple_of(STEP) {
            let at = begin.elapsed().as_secs_f64();
            demo.say(&format!("  {at:4.2} s  {left:3} wait  {}", "#".repeat(left / 20)))?;
        }
    }
    let total = begin.elapsed();
    consumer.close().await?;
    Ok(vec![
        format!(
            "Publishing took {:.2} s, consuming {:.2} s: the queue decoupled both sides.",
            burst.as_secs_f64(),
            total.as_secs_f64()
        ),
        "The consumer had at most 20 unsettled messages (its window) at any time.".to_owned(),
        "Nothing was lost or reordered: one consumer that acknowledges receives a queue in order.".to_owned(),
        "A queue can be limited (warrengate queue declare --max-length); further messages are then REJECTED to the \
         publisher."
            .to_owned(),
    ])
}
