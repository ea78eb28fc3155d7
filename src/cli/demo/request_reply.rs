//! Request and reply: a question says where its answer is wanted and which question it is; the answers come in any order
//! and find theirs. Questions enter, answers leave.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{Error, values},
    Noticed,
    stage::{Stage, check, next, text},
};

const QUESTIONS: [(&str, &str); 3] = [("q-1", "book"), ("q-2", "lamp"), ("q-3", "piano")];

fn price(thing: &str) -> &'static str {
    match thing {
        "book" => "12.50",
        "lamp" => "40.00",
        _ => "8400.00",
    }
}

pub(super) async fn play(stage: &Stage<'_>) -> Result<Noticed, Error> {
    stage.queue("prices").await?;
    stage.queue("answers").await?;
    let mut answers = stage.subscribe("answers").await?;
    let questions = QUESTIONS.map(|(id, thing)| {
        let mut publication = stage.to_queue("prices", thing);
        if let Some(message) = &mut publication.message {
            message.correlation_id = id.to_owned();
            message.reply_to = stage.full("answers");
            // Nobody waits longer for the answer; then the question need not be asked any more.
            message.ttl = Some(values::api_duration(Duration::from_secs(30)));
        }
        publication
    });
    stage.publish(questions.into()).await?;
    for (id, thing) in QUESTIONS {
        stage.say(&format!("  asked    {id}: what does a {thing} cost?"))?;
    }
    stage.say("\nA price service takes the questions, and answers the last first:\n")?;
    serve(stage).await?;

    let mut open: BTreeMap<_, _> = QUESTIONS.into_iter().collect();
    while !open.is_empty() {
        let answer = next(&mut answers).await?;
        answers.ack(&answer)?;
        let id = &answer.message().correlation_id;
        let thing = open.remove(id.as_str()).ok_or_else(|| Error::Failed(format!("an answer to {id:?}")))?;
        stage.say(&format!("  answered {id}: a {thing} costs {}", text(&answer)))?;
        check(text(&answer) == price(thing), || format!("the price of a {thing} is not {}", text(&answer)))?;
    }
    answers.close().await?;
    Ok(vec![
        "A question carries reply_to (where) and correlation_id (which): that is all there is to it.".to_owned(),
        "The answers came in another order, and each found its question.".to_owned(),
        "The question has a ttl: when nobody answers in time it is not answered late, but becomes a dead letter.".to_owned(),
        "Ask this way when the answer may take its time or the answerer may be away; for the rest, a plain call is simpler."
            .to_owned(),
    ])
}

/// The service: answers in another order than it was asked.
async fn serve(stage: &Stage<'_>) -> Result<(), Error> {
    let mut questions = stage.subscribe("prices").await?;
    let mut taken = Vec::new();
    while taken.len() < QUESTIONS.len() {
        taken.push(next(&mut questions).await?);
    }
    for question in taken.iter().rev() {
        let asked = question.message();
        let mut answer = crate::client::publication("", asked.reply_to.clone(), price(&text(question)));
        if let Some(message) = &mut answer.message {
            message.correlation_id.clone_from(&asked.correlation_id);
        }
        // Acknowledged after the answer is confirmed: a service that dies in between is asked again.
        stage.publish(vec![answer]).await?;
        questions.ack(question)?;
    }
    Ok(questions.close().await?)
}
