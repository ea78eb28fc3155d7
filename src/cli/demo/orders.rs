//! Orders with retries: one needs a second attempt, one can never succeed, is given up after the third and, once its fault
//! is mended, sent again. Orders enter; what became of each leaves.

use std::time::{Duration, Instant};

use super::{
    super::{Error, values},
    Noticed,
    stage::{Stage, check, next, text},
};
use crate::{client::Nack, pb};

const ATTEMPTS: u32 = 3;

pub(super) async fn play(stage: &Stage<'_>) -> Result<Noticed, Error> {
    let retry_policy = pb::RetryPolicy {
        min_backoff: Some(values::api_duration(Duration::from_millis(500))),
        max_backoff: Some(values::api_duration(Duration::from_secs(5))),
        multiplier: Some(2.0),
        jitter: Some(0.0),
    };
    stage
        .queue_of(pb::Queue {
            name: "orders".to_owned(),
            max_delivery_attempts: ATTEMPTS,
            retry_policy: Some(retry_policy),
            ..pb::Queue::default()
        })
        .await?;
    stage.say(&format!("The queue allows {ATTEMPTS} attempts; after a failure an order waits 0.5 s, then 1 s.\n"))?;
    stage.publish(["book", "lamp", "piano"].map(|order| stage.to_queue("orders", order)).into()).await?;

    let begin = Instant::now();
    let mut consumer = stage.subscribe("orders").await?;
    let mut failures = 0;
    let mut done = Vec::new();
    while done.len() < 2 || failures < ATTEMPTS {
        let delivery = next(&mut consumer).await?;
        let (order, attempt) = (text(&delivery), delivery.details().attempt);
        let verdict = match (order.as_str(), attempt) {
            ("lamp", 1) => Err("the payment service was busy"),
            ("piano", _) => Err("no such address"),
            _ => Ok(()),
        };
        let at = begin.elapsed().as_secs_f64();
        match verdict {
            Ok(()) => {
                consumer.ack(&delivery)?;
                stage.say(&format!("  {at:4.1} s  {order:5} attempt {attempt}: shipped"))?;
                done.push((order, attempt));
            }
            Err(why) => {
                consumer.nack(&delivery, Nack::retry().because(why))?;
                stage.say(&format!("  {at:4.1} s  {order:5} attempt {attempt}: {why}"))?;
                failures += u32::from(order == "piano");
            }
        }
    }
    check(done.contains(&("lamp".to_owned(), 2)), || format!("the lamp did not take two attempts: {done:?}"))?;

    let letter = dead_letter(stage).await?;
    stage.say("\nThe piano used up its attempts and is a dead letter now:")?;
    stage.say(&format!("  {} after {} attempts: {}", letter.code, letter.attempts, letter.reason))?;
    check(letter.attempts == ATTEMPTS, || format!("{} attempts were counted", letter.attempts))?;
    stage.say("\nSomeone mends the address and sends it again (warrengate dead-letter redrive):\n")?;
    let selection =
        pb::DeadLetterSelection { dead_letter_ids: vec![letter.dead_letter_id], ..pb::DeadLetterSelection::default() };
    let request = pb::RedriveDeadLettersRequest { selection: Some(selection), max_per_second: 0 };
    let mut reports = stage.client().topology().redrive_dead_letters(request).await?.into_inner();
    let mut redriven = 0;
    while let Some(report) = reports.message().await? {
        redriven = report.redriven;
    }
    check(redriven == 1, || format!("{redriven} dead letters were sent again"))?;
    let delivery = next(&mut consumer).await?;
    consumer.ack(&delivery)?;
    let (order, attempt) = (text(&delivery), delivery.details().attempt);
    stage.say(&format!("  {:4.1} s  {order:5} attempt {attempt}: shipped", begin.elapsed().as_secs_f64()))?;
    consumer.close().await?;
    check(order == "piano", || format!("{order} came instead of the piano"))?;
    Ok(vec![
        "The consumer never slept: it said RETRY, and the broker kept the order for as long as it had to wait."
            .to_owned(),
        "Other orders went past the one that waited: a failure holds up nobody.".to_owned(),
        format!("An order that cannot succeed stops after {ATTEMPTS} attempts, with its reason, where people find it."),
        "A dead letter is not lost: once the cause is mended, one command sends it again, attempts counted anew."
            .to_owned(),
    ])
}

/// The dead letter of the queue, as soon as it is there.
async fn dead_letter(stage: &Stage<'_>) -> Result<pb::DeadLetter, Error> {
    let filter = pb::DeadLetterFilter { queue: stage.full("orders"), ..pb::DeadLetterFilter::default() };
    loop {
        let request = pb::ListDeadLettersRequest { filter: Some(filter.clone()), ..Default::default() };
        let found = stage.client().topology().list_dead_letters(request).await?.into_inner().dead_letters;
        if let Some(letter) = found.into_iter().next() {
            return Ok(letter);
        }
        // The demonstration's own limit ends this.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
