//! A stream: reading removes nothing, and later readers start from a time in the past.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{
    super::{Error, json},
    Observations,
    context::{Context, check, next, take, text},
};
use crate::pb::{self, QueueType};

const HOUR: Duration = Duration::from_secs(3600);

pub(super) async fn run(demo: &Context<'_>) -> Result<Observations, Error> {
    demo.queue_of(pb::Queue {
        name: "readings".to_owned(),
        r#type: QueueType::Stream.into(),
        max_length_bytes: 10 << 20,
        ..pb::Queue::default()
    })
    .await?;
    let mut live = demo.subscribe_with("readings", |options| options.from_next()).await?;
    demo.say("A sensor measures the water in a river; a live reader follows.\n")?;
    let early = ["2.10 m", "2.12 m", "2.15 m"];
    let late = ["2.60 m", "3.40 m", "4.10 m"];
    report(demo, &mut live, early).await?;
    // Positions in a stream are whole seconds, by the clock of the broker that stored them.
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let moment = Duration::from_secs(now().as_secs() + 1);
    tokio::time::sleep(moment.saturating_sub(now()) + Duration::from_millis(50)).await;
    let moment = UNIX_EPOCH + moment;
    demo.say(&format!(
        "\nWe note the time, {}; then the water rises.\n",
        json::time(Some(moment.into())).unwrap_or_default()
    ))?;
    report(demo, &mut live, late).await?;
    live.close().await?;

    demo.say("\nAfter the flood, an analyst reads the stream. The live reader has removed nothing:\n")?;
    let all: Vec<_> = early.into_iter().chain(late).collect();
    for (what, from, meant) in [
        ("from an hour ago", SystemTime::now() - HOUR, &all[..]),
        ("from the time we noted", moment, &late[..]),
        ("from an hour ago, once more", SystemTime::now() - HOUR, &all[..]),
    ] {
        let mut reader = demo.subscribe_with("readings", |options| options.from_time(from)).await?;
        let got = take(&mut reader, meant.len()).await?;
        reader.close().await?;
        demo.say(&format!("  {what:28} {}", got.join(", ")))?;
        check(got == meant, || format!("{what}: read {got:?}"))?;
    }
    Ok(vec![
        "A stream is a log: reading removes nothing, so it can be read again.".to_owned(),
        "Each reader chooses its start: first, last, next, an offset, or a time.".to_owned(),
        "The time is when the broker stored a reading, not one that the sensor wrote. This stream is less than a minute \
         old, so \"an hour ago\" is its beginning."
            .to_owned(),
        "A stream is limited by age or size (here 10 MiB); then the oldest readings are deleted.".to_owned(),
    ])
}

/// Publishes readings one by one; the live reader sees each at once.
async fn report(demo: &Context<'_>, live: &mut crate::client::Subscription, readings: [&str; 3]) -> Result<(), Error> {
    for reading in readings {
        demo.publish(vec![demo.to_queue("readings", reading)]).await?;
        let delivery = next(live).await?;
        live.ack(&delivery)?;
        let offset = delivery.details().stream_offset.unwrap_or_default();
        demo.say(&format!("  offset {offset}: {}", text(&delivery)))?;
    }
    Ok(())
}
