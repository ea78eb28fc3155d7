//! Request and reply: a request names its reply queue and a correlation id, and replies arrive in any order.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{Error, values},
    Observations,
    context::{Context, check, next, text},
};

const QUESTIONS: [(&str, &str); 3] = [("q-1", "book"), ("q-2", "lamp"), ("q-3", "piano")];

fn price(thing: &str) -> &'static str {
    match thing {
        "book" => "12.50",
        "lamp" => "40.00",
        _ => "8400.00",
    }
}

pub(super) async fn run(demo: &Context<'_>) -> Result<Observations, Error> {
    demo.queue("prices").await?;
    demo.queue("answers").await?;
    let mut answers = demo.subscribe("answers").await?;
    let questions = QUESTIONS.map(|(id, thing)| {
        let mut publication = demo.to_queue("prices", thing);
        if let Some(message) = &mut publication.message {
            message.correlation_id = id.to_owned();
            message.reply_to = demo.full("answers");
            // The requester does not wait longer for the reply.
            message.ttl = Some(values::api_duration(Duration::from_secs(30)));
        }
        publication
    });
    demo.publish(questions.into()).await?;
    for (id, thing) in QUESTIONS {
        demo.say(&format!("  asked    {id}: what does a {thing} cost?"))?;
    }
    demo.say("\nA price service receives the requests, and answers the last one first:\n")?;
    serve(demo).await?;

    let mut open: BTreeMap<_, _> = QUESTIONS.into_iter().collect();
    while !open.is_empty() {
        let answer = next(&mut answers).await?;
        answers.ack(&answer)?;
        let id = &answer.message().correlation_id;
        let thing =
            open.remove(id.as_str()).ok_or_else(|| Error::Failed(format!("a reply to the unknown request {id:?}")))?;
        demo.say(&format!("  answered {id}: a {thing} costs {}", text(&answer)))?;
        check(text(&answer) == price(thing), || format!("the price of a {thing} is not {}", text(&answer)))?;
    }
    answers.close().await?;
    Ok(vec![
        "A request has reply_to (where to reply) and correlation_id (which request); nothing else is needed."
            .to_owned(),
        "The replies arrived in another order, and each was matched to its request.".to_owned(),
        "The request has a ttl: if nobody answers in time, it becomes a dead letter instead of being answered late."
            .to_owned(),
        "Use this when the reply may take long or the service may be down; otherwise a direct call is simpler."
            .to_owned(),
    ])
}

/// The service, which replies in another order than requested.
async fn serve(demo: &Context<'_>) -> Result<(), Error> {
    let mut questions = demo.subscribe("prices").await?;
    let mut taken = Vec::new();
    while taken.len() < QUESTIONS.len() {
        taken.push(next(&mut questions).await?);
    }
    for question in taken.iter().rev() {
        let request = question.message();
        let mut answer = crate::client::publication("", request.reply_to.clone(), price(&text(question)));
        if let Some(message) = &mut answer.message {
            message.correlation_id.clone_from(&request.correlation_id);
        }
        // Acknowledged after the reply is confirmed: if the service crashes in between, the request is delivered again.
        demo.publish(vec![answer]).await?;
        questions.ack(question)?;
    }
    Ok(questions.close().await?)
}
