//! A stream: readings stay when they are read, and are read again from a moment in the past. Readings enter; the live reader
//! and two later ones leave with what they saw.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{
    super::Error,
    Noticed,
    stage::{Stage, check, next, take, text},
};
use crate::pb::{self, QueueType};

const HOUR: Duration = Duration::from_secs(3600);

pub(super) async fn play(stage: &Stage<'_>) -> Result<Noticed, Error> {
    stage
        .queue_of(pb::Queue {
            name: "readings".to_owned(),
            r#type: QueueType::Stream.into(),
            max_length_bytes: 10 << 20,
            ..pb::Queue::default()
        })
        .await?;
    let mut live = stage.subscribe_with("readings", |options| options.from_next()).await?;
    stage.say("A sensor measures the water in a river; a live reader follows.\n")?;
    let early = ["2.10 m", "2.12 m", "2.15 m"];
    let late = ["2.60 m", "3.40 m", "4.10 m"];
    report(stage, &mut live, early).await?;
    // Positions in a stream are whole seconds, by the clock of the broker that stored them.
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let moment = Duration::from_secs(now().as_secs() + 1);
    tokio::time::sleep(moment.saturating_sub(now()) + Duration::from_millis(50)).await;
    let moment = UNIX_EPOCH + moment;
    stage
        .say(&format!("\nWe note the time, {}; then the water rises.\n", humantime::format_rfc3339_seconds(moment)))?;
    report(stage, &mut live, late).await?;
    live.close().await?;

    stage.say("\nAfter the flood, an analyst comes. Nothing was taken away by the live reader:\n")?;
    let all: Vec<_> = early.into_iter().chain(late).collect();
    for (what, from, meant) in [
        ("from an hour ago", SystemTime::now() - HOUR, &all[..]),
        ("from the time we noted", moment, &late[..]),
        ("from an hour ago, once more", SystemTime::now() - HOUR, &all[..]),
    ] {
        let mut reader = stage.subscribe_with("readings", |options| options.from_time(from)).await?;
        let got = take(&mut reader, meant.len()).await?;
        reader.close().await?;
        stage.say(&format!("  {what:28} {}", got.join(", ")))?;
        check(got == meant, || format!("{what}: read {got:?}"))?;
    }
    Ok(vec![
        "A stream is a log, not a heap of work: reading takes nothing away, so anyone can read it again.".to_owned(),
        "Where to begin is the reader's choice: first, last, next, an offset, or a time.".to_owned(),
        "The time is when the broker stored a reading, not one that the sensor wrote: this stream is a minute old at \
         most, so \"an hour ago\" is its beginning."
            .to_owned(),
        "A stream is bounded by age or size (here 10 MiB); older readings go then, read or not.".to_owned(),
    ])
}

/// Publishes readings one by one; the live reader sees each at once.
async fn report(stage: &Stage<'_>, live: &mut crate::client::Subscription, readings: [&str; 3]) -> Result<(), Error> {
    for reading in readings {
        stage.publish(vec![stage.to_queue("readings", reading)]).await?;
        let delivery = next(live).await?;
        live.ack(&delivery)?;
        let offset = delivery.details().stream_offset.unwrap_or_default();
        stage.say(&format!("  offset {offset}: {}", text(&delivery)))?;
    }
    Ok(())
}
