//! Command-line arguments, from `./scripts/faults --minutes 10` or from `cargo test`.
//!
//! `cargo test` passes the same arguments to every test target. A filter that does not name this target does not start
//! it.

use anyhow::{Context as _, bail};

/// The name of the one test, for filters.
const NAME: &str = "faults_of_every_kind_lose_nothing_that_was_confirmed";
/// The duration in an ordinary test run.
const SHORT_MINUTES: f64 = 2.0;

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Inject faults for this duration.
    Run { minutes: f64, seed: u64, tolerate_delays: bool },
    /// Print this text and exit.
    Print(String),
    /// Consume for another process of this program.
    Consume,
}

/// libtest's options that take a value.
const WITH_VALUE: [&str; 6] = ["--test-threads", "--skip", "--color", "--format", "--logfile", "--shuffle-seed"];

pub fn read(arguments: impl Iterator<Item = String>) -> anyhow::Result<Command> {
    let (mut minutes, mut seed, mut tolerate_delays) = (SHORT_MINUTES, None, false);
    let (mut filters, mut skipped, mut exact, mut list, mut only_ignored) =
        (Vec::new(), Vec::new(), false, false, false);
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        let (name, inline_value) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
            _ => (argument.clone(), None),
        };
        let mut value =
            || inline_value.clone().or_else(|| arguments.next()).with_context(|| format!("{name} needs a value"));
        match name.as_str() {
            crate::load::processes::ARGUMENT => return Ok(Command::Consume),
            "--minutes" => minutes = value()?.parse().context("--minutes needs a number")?,
            "--seed" => seed = Some(value()?.parse().context("--seed needs a whole number")?),
            // For a machine with other load: delays are reported but are no failures.
            "--tolerate-delays" => tolerate_delays = true,
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
    let matches_name = |filter: &String| if exact { filter == NAME } else { NAME.contains(filter.as_str()) };
    let wanted =
        !only_ignored && (filters.is_empty() || filters.iter().any(matches_name)) && !skipped.iter().any(matches_name);
    Ok(match (list, wanted) {
        (true, true) => Command::Print(format!("{NAME}: test\n")),
        (true, false) => Command::Print(String::new()),
        (false, true) => {
            let seed = seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
            Command::Run { minutes, seed, tolerate_delays }
        }
        (false, false) => Command::Print("\nrunning 0 tests (1 filtered out)\n\n".to_owned()),
    })
}

/// Checks the parser, because this target has no libtest to run a unit test.
pub fn check() {
    let parse = |words: &str| read(words.split_whitespace().map(str::to_owned)).ok();
    let runs = |words: &str| matches!(parse(words), Some(Command::Run { .. }));
    assert!(runs("") && runs("faults") && runs("--nocapture --test-threads 2 lose_nothing"));
    assert!(!runs("unroutable") && !runs("--ignored") && !runs("--skip faults") && !runs("--exact faults"));
    assert!(!runs("--list") && !runs("restart:: --test-threads=1"));
    assert_eq!(parse("--minutes 10 --seed 7"), Some(Command::Run { minutes: 10.0, seed: 7, tolerate_delays: false }));
    assert!(parse("--minutes").is_none() && parse("--minutes 0").is_none());
}
