//! Orders with retries: one needs a second attempt; one becomes a dead letter after the third and is redriven after a
//! fix.

use std::time::{Duration, Instant};

use super::{
    super::{Error, values},
    Observations,
    context::{Context, check, next, text},
};
use crate::{client::Nack, pb};

const ATTEMPTS: u32 = 3;

pub(super) async fn run(demo: &Context<'_>) -> Result<Observations, Error> {
    let retry_policy = pb::RetryPolicy {
        min_backoff: Some(values::api_duration(Duration::from_millis(500))),
        max_backoff: Some(values::api_duration(Duration::from_secs(5))),
        multiplier: Some(2.0),
        jitter: Some(0.0),
    };
    demo.queue_of(pb::Queue {
        name: "orders".to_owned(),
        max_delivery_attempts: ATTEMPTS,
        retry_policy: Some(retry_policy),
        ..pb::Queue::default()
    })
    .await?;
    demo.say(&format!("The queue allows {ATTEMPTS} attempts; after a failure an order waits 0.5 s, then 1 s.\n"))?;
    demo.publish(["book", "lamp", "piano"].map(|order| demo.to_queue("orders", order)).into()).await?;

    let begin = Instant::now();
    let mut consumer = demo.subscribe("orders").await?;
    let mut failures = 0;
    let mut done = Vec::new();
    while done.len() < 2 || failures < ATTEMPTS {
        let delivery = next(&mut consumer).await?;
        let (order, attempt) = (text(&delivery), delivery.details().attempt);
        let action = match (order.as_str(), attempt) {
            ("lamp", 1) => Err("the payment service was busy"),
            ("piano", _) => Err("no such address"),
            _ => Ok(()),
        };
        let at = begin.elapsed().as_secs_f64();
        match action {
            Ok(()) => {
                consumer.ack(&delivery)?;
                demo.say(&format!("  {at:4.1} s  {order:5} attempt {attempt}: shipped"))?;
                done.push((order, attempt));
            }
            Err(why) => {
                consumer.nack(&delivery, Nack::retry().because(why))?;
                demo.say(&format!("  {at:4.1} s  {order:5} attempt {attempt}: {why}"))?;
                failures += u32::from(order == "piano");
            }
        }
    }
    check(done.contains(&("lamp".to_owned(), 2)), || format!("the lamp did not take two attempts: {done:?}"))?;

    let letter = dead_letter(demo).await?;
    demo.say("\nThe piano used up its attempts and is a dead letter now:")?;
    demo.say(&format!("  {} after {} attempts: {}", letter.code, letter.attempts, letter.reason))?;
    check(letter.attempts == ATTEMPTS, || format!("{} attempts were counted", letter.attempts))?;
    demo.say("\nSomeone corrects the address and redrives it (warrengate dead-letter redrive):\n")?;
    let selection =
        pb::DeadLetterSelection { dead_letter_ids: vec![letter.dead_letter_id], ..pb::DeadLetterSelection::default() };
    let request = pb::RedriveDeadLettersRequest { selection: Some(selection), max_per_second: 0, edit: None };
    let mut reports = demo.client().topology().redrive_dead_letters(request).await?.into_inner();
    let mut redriven = 0;
    while let Some(report) = reports.message().await? {
        redriven = report.redriven;
    }
    check(redriven == 1, || format!("{redriven} dead letters were redriven"))?;
    let delivery = next(&mut consumer).await?;
    consumer.ack(&delivery)?;
    let (order, attempt) = (text(&delivery), delivery.details().attempt);
    demo.say(&format!("  {:4.1} s  {order:5} attempt {attempt}: shipped", begin.elapsed().as_secs_f64()))?;
    consumer.close().await?;
    check(order == "piano", || format!("{order} arrived instead of the piano"))?;
    Ok(vec![
        "The consumer never waited: it answered RETRY, and the broker kept the order for the back-off.".to_owned(),
        "Other orders passed the waiting one: a failure does not block the queue.".to_owned(),
        format!("An order that cannot succeed becomes a dead letter after {ATTEMPTS} attempts, with its reason."),
        "A dead letter is not lost: once the cause is fixed, one command redrives it, with attempts reset.".to_owned(),
    ])
}

/// The dead letter of the queue, as soon as there is one.
async fn dead_letter(demo: &Context<'_>) -> Result<pb::DeadLetter, Error> {
    let filter = pb::DeadLetterFilter { queue: demo.full("orders"), ..pb::DeadLetterFilter::default() };
    loop {
        let request = pb::ListDeadLettersRequest { filter: Some(filter.clone()), ..Default::default() };
        let found = demo.client().topology().list_dead_letters(request).await?.into_inner().dead_letters;
        if let Some(letter) = found.into_iter().next() {
            return Ok(letter);
        }
        // The time limit of the demonstration ends this loop.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
