//! Fan-out: one event, a copy for every bound queue, including one that is bound later.

use super::{
    super::Error,
    Observations,
    context::{Context, check},
};
use crate::pb::ExchangeType;

const FIRST: [&str; 3] = ["anna", "ben", "carla"];

pub(super) async fn run(demo: &Context<'_>) -> Result<Observations, Error> {
    demo.exchange("signed-up", ExchangeType::Fanout).await?;
    for queue in FIRST_SUBSCRIBERS {
        demo.queue(queue).await?;
        demo.bind("signed-up", queue, "").await?;
    }
    demo.say(&format!("The fanout exchange \"signed-up\" has the queues {}.\n", FIRST_SUBSCRIBERS.join(", ")))?;
    for user in FIRST {
        demo.say(&format!("  {user} signed up: published once"))?;
    }
    demo.publish(FIRST.map(|user| demo.to_exchange("signed-up", "", user)).into()).await?;

    demo.queue("fraud").await?;
    demo.bind("signed-up", "fraud", "").await?;
    demo.say("\nA new service, fraud, binds a queue of its own; the publisher does not change.\n")?;
    demo.say("  dora signed up: published once\n")?;
    demo.publish(vec![demo.to_exchange("signed-up", "", "dora")]).await?;

    let all = ["anna", "ben", "carla", "dora"];
    for (queue, meant) in FIRST_SUBSCRIBERS.map(|queue| (queue, &all[..])).into_iter().chain([("fraud", &all[3..])]) {
        let got = demo.take(queue, meant.len()).await?;
        demo.say(&format!("  {queue:9} got {}", got.join(", ")))?;
        check(got == meant, || format!("{queue} got {got:?}"))?;
    }
    Ok(vec![
        "One publish, a copy for each queue; each service works at its own pace.".to_owned(),
        "A new service changes nothing for the publisher, and receives what is published from then on.".to_owned(),
        "Within one service, several processes share its queue as in `warrengate demo work-queue`.".to_owned(),
    ])
}

const FIRST_SUBSCRIBERS: [&str; 3] = ["welcome", "billing", "analytics"];
