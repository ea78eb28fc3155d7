//! Routing by topic: a log line is published once, with a key of its service and level; bindings select who receives
//! it.

use super::{
    super::Error,
    Observations,
    context::{Context, check},
};
use crate::pb::ExchangeType;

const LINES: [(&str, &str); 5] = [
    ("shop.info", "a customer came in"),
    ("shop.cart.info", "a book was put into the cart"),
    ("shop.error", "the till is stuck"),
    ("bank.info", "the day begins"),
    ("bank.error", "the safe does not open"),
];

/// Each reader, its pattern, and the lines that match.
const READERS: [(&str, &str, &[usize]); 3] =
    [("archive", "#", &[0, 1, 2, 3, 4]), ("on-call", "*.error", &[2, 4]), ("shop-team", "shop.#", &[0, 1, 2])];

pub(super) async fn run(demo: &Context<'_>) -> Result<Observations, Error> {
    demo.exchange("logs", ExchangeType::Topic).await?;
    for (reader, pattern, _) in READERS {
        demo.queue(reader).await?;
        demo.bind("logs", reader, pattern).await?;
        demo.say(&format!("  queue {reader:9} is bound to the topic exchange \"logs\" by {pattern}"))?;
    }
    demo.say("\nFive lines are published, each once:\n")?;
    for (key, line) in LINES {
        demo.say(&format!("  {key:14}  {line}"))?;
    }
    demo.publish(LINES.map(|(key, line)| demo.to_exchange("logs", key, line)).into()).await?;
    for (reader, pattern, wanted) in READERS {
        let got = demo.take(reader, wanted.len()).await?;
        demo.say(&format!("\n{reader} ({pattern}) reads:"))?;
        for line in &got {
            demo.say(&format!("  {line}"))?;
        }
        let meant: Vec<_> = wanted.iter().map(|at| LINES[*at].1).collect();
        check(got == meant, || format!("{reader} read {got:?} instead of {meant:?}"))?;
    }
    Ok(vec![
        "The publisher does not know the readers: its routing key describes the line, in words separated by dots."
            .to_owned(),
        "* matches exactly one word, # any number: shop.# matches shop.cart.info, *.error does not match a.b.error."
            .to_owned(),
        "Each queue has a copy of its own: a line that the archive acknowledges remains in the queue on-call."
            .to_owned(),
    ])
}
