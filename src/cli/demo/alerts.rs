//! Routing by headers: bindings match all or any of an alert's typed headers; an alert without a binding is unroutable.

use super::{
    super::Error,
    Observations,
    context::{Context, check, headers},
};
use crate::pb::{self, ExchangeType, HeadersMatch, Outcome, value::Kind};

fn word(text: &str) -> Kind {
    Kind::StringValue(text.to_owned())
}

pub(super) async fn run(demo: &Context<'_>) -> Result<Observations, Error> {
    demo.exchange("alerts", ExchangeType::Headers).await?;
    let bindings = [
        ("pager", HeadersMatch::All, headers([("service", word("database")), ("level", Kind::IntValue(3))])),
        ("screen", HeadersMatch::Any, headers([("service", word("database")), ("team", word("shop"))])),
    ];
    for (queue, headers_match, headers) in bindings {
        demo.queue(queue).await?;
        let headers_match = headers_match.into();
        demo.bind_by("alerts", queue, pb::Binding { headers, headers_match, ..pb::Binding::default() }).await?;
    }
    demo.say("  pager   requires ALL of  service=database (text), level=3 (integer)")?;
    demo.say("  screen  requires ANY of  service=database (text), team=shop (text)\n")?;

    let alerts = [
        ("disk full", headers([("service", word("database")), ("level", Kind::IntValue(3))])),
        ("slow query", headers([("service", word("database")), ("level", Kind::IntValue(1))])),
        ("level as text", headers([("service", word("database")), ("level", word("3"))])),
        ("cart is empty", headers([("team", word("shop"))])),
        ("no binding", headers([("team", word("legal"))])),
    ];
    let publications = alerts.map(|(body, headers)| {
        let mut publication = demo.to_exchange("alerts", "", body);
        if let Some(message) = &mut publication.message {
            message.headers = headers;
        }
        publication
    });
    let results = demo.client().publish_batch(publications.into()).await?;
    let bodies = ["disk full", "slow query", "level as text", "cart is empty", "no binding"];
    for (body, result) in bodies.iter().zip(&results) {
        let outcome = result.outcome().as_str_name().trim_start_matches("OUTCOME_").to_lowercase();
        demo.say(&format!("  published {body:14} {outcome}"))?;
    }
    let outcomes: Vec<_> = results.iter().map(pb::PublishResult::outcome).collect();
    let meant = [Outcome::Confirmed, Outcome::Confirmed, Outcome::Confirmed, Outcome::Confirmed, Outcome::Unroutable];
    check(outcomes == meant, || format!("the outcomes were {outcomes:?}"))?;
    for (queue, meant) in [("pager", &bodies[..1]), ("screen", &bodies[..4])] {
        let got = demo.take(queue, meant.len()).await?;
        demo.say(&format!("\n{queue} shows: {}", got.join(", ")))?;
        check(got == meant, || format!("{queue} showed {got:?}"))?;
    }
    Ok(vec![
        "There is no routing key: the headers describe the alert, and the bindings select alerts.".to_owned(),
        "Types count: the integer level=3 reached the pager, the text \"3\" did not.".to_owned(),
        "A message that matches no binding is UNROUTABLE: the publisher knows that no queue has it.".to_owned(),
    ])
}
