//! Routing by topic: a log line is published once, under a key that says where it is from and how bad it is; bindings
//! decide who reads it. Lines enter, each reader's share leaves.

use super::{
    super::Error,
    Noticed,
    stage::{Stage, check},
};
use crate::pb::ExchangeType;

const LINES: [(&str, &str); 5] = [
    ("shop.info", "a customer came in"),
    ("shop.cart.info", "a book was put into the cart"),
    ("shop.error", "the till is stuck"),
    ("bank.info", "the day begins"),
    ("bank.error", "the safe does not open"),
];

/// Each reader, its pattern, and the lines that the pattern means.
const READERS: [(&str, &str, &[usize]); 3] =
    [("archive", "#", &[0, 1, 2, 3, 4]), ("on-call", "*.error", &[2, 4]), ("shop-team", "shop.#", &[0, 1, 2])];

pub(super) async fn play(stage: &Stage<'_>) -> Result<Noticed, Error> {
    stage.exchange("logs", ExchangeType::Topic).await?;
    for (reader, pattern, _) in READERS {
        stage.queue(reader).await?;
        stage.bind("logs", reader, pattern).await?;
        stage.say(&format!("  queue {reader:9} is bound to the topic exchange \"logs\" by {pattern}"))?;
    }
    stage.say("\nFive lines are published, each once:\n")?;
    for (key, line) in LINES {
        stage.say(&format!("  {key:14}  {line}"))?;
    }
    stage.publish(LINES.map(|(key, line)| stage.to_exchange("logs", key, line)).into()).await?;
    for (reader, pattern, wanted) in READERS {
        let got = stage.take(reader, wanted.len()).await?;
        stage.say(&format!("\n{reader} ({pattern}) reads:"))?;
        for line in &got {
            stage.say(&format!("  {line}"))?;
        }
        let meant: Vec<_> = wanted.iter().map(|at| LINES[*at].1).collect();
        check(got == meant, || format!("{reader} read {got:?} instead of {meant:?}"))?;
    }
    Ok(vec![
        "The publisher named no reader: it said what the line is about, in words parted by dots.".to_owned(),
        "* stands for exactly one word, # for any number: shop.# has shop.cart.info, *.error does not have a.b.error."
            .to_owned(),
        "Each queue has a copy of its own: what the archive acknowledges is still there for those on call.".to_owned(),
    ])
}
