//! Routing by headers: what an alert is, is said in typed headers, and bindings ask for all or any of them. Alerts enter,
//! each reader's share leaves, and one that nobody asked for comes back as unroutable.

use super::{
    super::Error,
    Noticed,
    stage::{Stage, check, headers},
};
use crate::pb::{self, ExchangeType, HeadersMatch, Outcome, value::Kind};

fn word(text: &str) -> Kind {
    Kind::StringValue(text.to_owned())
}

pub(super) async fn play(stage: &Stage<'_>) -> Result<Noticed, Error> {
    stage.exchange("alerts", ExchangeType::Headers).await?;
    let bindings = [
        ("pager", HeadersMatch::All, headers([("service", word("database")), ("level", Kind::IntValue(3))])),
        ("screen", HeadersMatch::Any, headers([("service", word("database")), ("team", word("shop"))])),
    ];
    for (queue, headers_match, headers) in bindings {
        stage.queue(queue).await?;
        let headers_match = headers_match.into();
        stage.bind_by("alerts", queue, pb::Binding { headers, headers_match, ..pb::Binding::default() }).await?;
    }
    stage.say("  pager   wants ALL of  service=database (text), level=3 (whole number)")?;
    stage.say("  screen  wants ANY of  service=database (text), team=shop (text)\n")?;

    let alerts = [
        ("disk full", headers([("service", word("database")), ("level", Kind::IntValue(3))])),
        ("slow query", headers([("service", word("database")), ("level", Kind::IntValue(1))])),
        ("level as text", headers([("service", word("database")), ("level", word("3"))])),
        ("cart is empty", headers([("team", word("shop"))])),
        ("nobody asked", headers([("team", word("legal"))])),
    ];
    let publications = alerts.map(|(body, headers)| {
        let mut publication = stage.to_exchange("alerts", "", body);
        if let Some(message) = &mut publication.message {
            message.headers = headers;
        }
        publication
    });
    let results = stage.client().publish_batch(publications.into()).await?;
    let bodies = ["disk full", "slow query", "level as text", "cart is empty", "nobody asked"];
    for (body, result) in bodies.iter().zip(&results) {
        let outcome = result.outcome().as_str_name().trim_start_matches("OUTCOME_").to_lowercase();
        stage.say(&format!("  published {body:14} {outcome}"))?;
    }
    let outcomes: Vec<_> = results.iter().map(pb::PublishResult::outcome).collect();
    let meant = [Outcome::Confirmed, Outcome::Confirmed, Outcome::Confirmed, Outcome::Confirmed, Outcome::Unroutable];
    check(outcomes == meant, || format!("the outcomes were {outcomes:?}"))?;
    for (queue, meant) in [("pager", &bodies[..1]), ("screen", &bodies[..4])] {
        let got = stage.take(queue, meant.len()).await?;
        stage.say(&format!("\n{queue} shows: {}", got.join(", ")))?;
        check(got == meant, || format!("{queue} showed {got:?}"))?;
    }
    Ok(vec![
        "No routing key at all: the headers say what the alert is, and the bindings who wants it.".to_owned(),
        "Types count: level=3 as a whole number woke the pager, \"3\" as text did not.".to_owned(),
        "What nobody asked for is answered UNROUTABLE: the publisher knows that no queue has it.".to_owned(),
    ])
}
