//! Command-line arguments, from `./scripts/faults --minutes 10` or from `cargo test`.
//!
//! `cargo test` passes the same arguments to every test target. A filter that does not name this target does not start
//! it.

use anyhow::{Context as _, bail};

/// The one test, as a filter sees it.
const NAME: &str = "faults_of_every_kind_lose_nothing_that_was_confirmed";
/// The length of the run that is part of every test run.
const SHORT_MINUTES: f64 = 2.0;

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Order {
    /// Inject faults for so long.
    Run { minutes: f64, seed: u64, tell_times: bool },
    /// Say what there is, and nothing else.
    Say(String),
    /// Consume for another process of this program.
    Consume,
}

/// libtest's options that have a value of their own.
const WITH_VALUE: [&str; 6] = ["--test-threads", "--skip", "--color", "--format", "--logfile", "--shuffle-seed"];

pub fn read(arguments: impl Iterator<Item = String>) -> anyhow::Result<Order> {
    let (mut minutes, mut seed, mut tell_times) = (SHORT_MINUTES, None, false);
    let (mut filters, mut skipped, mut exact, mut list, mut only_ignored) =
        (Vec::new(), Vec::new(), false, false, false);
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        let (name, given) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
            _ => (argument.clone(), None),
        };
        let mut value = || given.clone().or_else(|| arguments.next()).with_context(|| format!("{name} needs a value"));
        match name.as_str() {
            crate::load::processes::ARGUMENT => return Ok(Order::Consume),
            "--minutes" => minutes = value()?.parse().context("--minutes needs a number")?,
            "--seed" => seed = Some(value()?.parse().context("--seed needs a whole number")?),
            // For a machine that has other work: what is only late is told, and is no failure.
            "--tell-times" => tell_times = true,
            "--skip" => skipped.push(value()?),
            "--exact" => exact = true,
            "--list" => list = true,
            "--ignored" => only_ignored = true,
            name if WITH_VALUE.contains(&name) => drop(value()?),
            "-Z" => drop(value()?),
            name if name.starts_with('-') => {}
            _ => filters.push(argument),
        }
    }
    if !(1.0..=600.0).contains(&minutes) {
        bail!("--minutes takes 1 to 600");
    }
    let means = |filter: &String| if exact { filter == NAME } else { NAME.contains(filter.as_str()) };
    let wanted = !only_ignored && (filters.is_empty() || filters.iter().any(means)) && !skipped.iter().any(means);
    Ok(match (list, wanted) {
        (true, true) => Order::Say(format!("{NAME}: test\n")),
        (true, false) => Order::Say(String::new()),
        (false, true) => {
            let seed = seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
            Order::Run { minutes, seed, tell_times }
        }
        (false, false) => Order::Say("\nrunning 0 tests (1 filtered out)\n\n".to_owned()),
    })
}

/// Proves that the reading is right: this target has no libtest to run a test in.
pub fn check() {
    let ask = |words: &str| read(words.split_whitespace().map(str::to_owned)).ok();
    let runs = |words: &str| matches!(ask(words), Some(Order::Run { .. }));
    assert!(runs("") && runs("faults") && runs("--nocapture --test-threads 2 lose_nothing"));
    assert!(!runs("unroutable") && !runs("--ignored") && !runs("--skip faults") && !runs("--exact faults"));
    assert!(!runs("--list") && !runs("restart:: --test-threads=1"));
    assert_eq!(ask("--minutes 10 --seed 7"), Some(Order::Run { minutes: 10.0, seed: 7, tell_times: false }));
    assert!(ask("--minutes").is_none() && ask("--minutes 0").is_none());
}
