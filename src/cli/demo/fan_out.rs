//! Fan-out: one event, a copy for every queue that is bound, and from now on for one that comes later. Events enter, each
//! subscriber's share leaves.

use super::{
    super::Error,
    Noticed,
    stage::{Stage, check},
};
use crate::pb::ExchangeType;

const FIRST: [&str; 3] = ["anna", "ben", "carla"];

pub(super) async fn play(stage: &Stage<'_>) -> Result<Noticed, Error> {
    stage.exchange("signed-up", ExchangeType::Fanout).await?;
    for queue in FIRST_SUBSCRIBERS {
        stage.queue(queue).await?;
        stage.bind("signed-up", queue, "").await?;
    }
    stage.say(&format!("The fanout exchange \"signed-up\" has the queues {}.\n", FIRST_SUBSCRIBERS.join(", ")))?;
    for user in FIRST {
        stage.say(&format!("  {user} signed up: published once"))?;
    }
    stage.publish(FIRST.map(|user| stage.to_exchange("signed-up", "", user)).into()).await?;

    stage.queue("fraud").await?;
    stage.bind("signed-up", "fraud", "").await?;
    stage.say("\nA new service, fraud, binds a queue of its own; the publisher is not told.\n")?;
    stage.say("  dora signed up: published once\n")?;
    stage.publish(vec![stage.to_exchange("signed-up", "", "dora")]).await?;

    let all = ["anna", "ben", "carla", "dora"];
    for (queue, meant) in FIRST_SUBSCRIBERS.map(|queue| (queue, &all[..])).into_iter().chain([("fraud", &all[3..])]) {
        let got = stage.take(queue, meant.len()).await?;
        stage.say(&format!("  {queue:9} got {}", got.join(", ")))?;
        check(got == meant, || format!("{queue} got {got:?}"))?;
    }
    Ok(vec![
        "One publish, as many copies as there are queues; each service works through its own at its own pace."
            .to_owned(),
        "A service that comes later changes nothing for the publisher, and gets what is published from then on."
            .to_owned(),
        "Within one service, several processes share its queue as in `warrengate demo work-queue`.".to_owned(),
    ])
}

const FIRST_SUBSCRIBERS: [&str; 3] = ["welcome", "billing", "analytics"];
