//! Runs, and rounds of runs. The order of the paths changes from round to round.
//!
//! A run whose counts do not add up is an error, never a figure.

use serde::Serialize;

use super::{
    Error,
    figures::{Percentiles, number},
    job::{Account, Job, Load, Mode, Outcome, Path},
    meter::PerProcess,
    plan::{Cell, Plan},
    process::{GatewayProcess, Worker},
    rig::{Rig, names},
};

/// The result of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// The number of the round, from 0.
    pub round: usize,
    /// The path that the messages took.
    pub path: Path,
    /// The measured time.
    pub seconds: f64,
    /// Messages sent.
    pub published: u64,
    /// Messages confirmed by the broker, which must be all of them.
    pub confirmed: u64,
    /// Messages acknowledged by the consumer.
    pub consumed: u64,
    /// Completed messages per second.
    pub messages_per_second: f64,
    /// The size of their bodies, in MiB per second.
    pub mib_per_second: f64,
    /// Processor time for each message, in microseconds.
    pub cpu_us_per_message: PerProcess<Option<f64>>,
    /// Resident memory at the end, in MiB.
    pub memory_mib: PerProcess<Option<f64>>,
    /// The share of the machine's processors used by other programs: 0 to 1.
    pub others_share: f64,
    /// From when a message was due until its arrival; at fixed rates.
    pub end_to_end_ms: Option<Percentiles>,
    /// From when a message was due until its confirm; at fixed rates.
    pub confirm_ms: Option<Percentiles>,
}

/// The parameters that the runs of a scenario share.
pub(super) struct Setting<'a> {
    pub(super) plan: &'a Plan,
    pub(super) cell: &'a Cell,
    pub(super) gateway: Option<&'a GatewayProcess>,
    /// The prefix of the tenants' names.
    pub(super) tenants: &'a str,
    pub(super) load: Shape,
}

/// How a load differs from the usual one.
#[derive(Debug, Clone, Default)]
pub(super) struct Shape {
    /// The queues of each tenant; `None` for the usual number.
    pub(super) queues: Option<usize>,
    /// The sizes of the bodies in turn; empty if all have the size of the combination.
    pub(super) sizes: Vec<usize>,
}

/// All paths, in turn.
pub(super) async fn rounds(rig: &mut Rig, plan: &Plan, cell: &Cell, rate: Option<f64>) -> Result<Vec<Run>, Error> {
    let mut runs = Vec::new();
    for round in 0..plan.rounds {
        for turn in 0..Path::ALL.len() {
            let path = Path::ALL[(round + turn) % Path::ALL.len()];
            let setting = Setting { plan, cell, gateway: None, tenants: "bench", load: Shape::default() };
            let run = Box::pin(run(rig, &setting, path, rate, round)).await?;
            plan.say(&line(&run, plan.rounds));
            runs.push(run);
        }
    }
    Ok(runs)
}

/// A progress line.
pub(super) fn line(run: &Run, rounds: usize) -> String {
    let cpu = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |time| format!("{time:.1}"));
    let latency =
        run.end_to_end_ms.map_or_else(String::new, |ms| format!(", p50 {:.2} ms, p99 {:.2} ms", ms.p50, ms.p99));
    format!(
        "round {}/{rounds} {:8} {:8.0} messages/s; µs of CPU each: application {}, gateway {}, broker {}{latency}; others {:.0} %",
        run.round + 1,
        run.path.name(),
        run.messages_per_second,
        cpu(run.cpu_us_per_message.application),
        cpu(run.cpu_us_per_message.gateway),
        cpu(run.cpu_us_per_message.broker),
        run.others_share * 100.0,
    )
}

/// Measures one path once, on its own queues, at full speed or at a rate.
pub(super) async fn run(
    rig: &mut Rig,
    setting: &Setting<'_>,
    path: Path,
    rate: Option<f64>,
    round: usize,
) -> Result<Run, Error> {
    let Setting { plan, cell, .. } = setting;
    let names = names(setting.tenants, cell.tenants);
    let accounts = match setting.load.queues {
        None => rig.accounts(&names, &plan.tenant_plan, cell.queue, cell.streams).await?,
        Some(queues) => rig.accounts_sharing(&names, &plan.tenant_plan, cell.queue, (cell.streams, queues)).await?,
    };
    let result = Box::pin(with_queues(rig, setting, path, rate, &accounts)).await;
    let (outcome, used) = match result {
        Ok(result) => result,
        Err(error) => {
            // The first error is reported.
            let _ = rig.delete(&accounts).await;
            return Err(error);
        }
    };
    rig.delete(&accounts).await?;
    Ok(figures(round, path, cell, &outcome, used))
}

/// Resources used during the run.
struct Usage {
    cpu: PerProcess<Option<f64>>,
    memory: PerProcess<Option<u64>>,
    others: f64,
}

async fn with_queues(
    rig: &Rig,
    setting: &Setting<'_>,
    path: Path,
    rate: Option<f64>,
    accounts: &[Account],
) -> Result<(Outcome, Usage), Error> {
    let Setting { plan, cell, .. } = setting;
    let gateway = setting.gateway.unwrap_or_else(|| rig.gateway());
    let seconds = plan.duration.as_secs_f64();
    let job = |path, mode, load| {
        let job = rig.job(plan, cell, gateway, (path, mode, load), accounts.to_vec());
        Job { sizes: setting.load.sizes.clone(), ..job }
    };
    let load = match (cell.mode, rate) {
        (Mode::Consume, _) => {
            // Filled in the same way for all paths, and not measured.
            let mut filling = Worker::start(&job(Path::Direct, Mode::Publish, Load::Full { seconds })).await?;
            filling.go().await?;
            let filled = filling.outcome().await?;
            filling.end().await?;
            // The queues also contain the warm-up messages, so there are more than these.
            Load::Drain { messages: filled.confirmed }
        }
        (_, Some(per_second)) => Load::Rate { per_second, seconds },
        (_, None) => Load::Full { seconds },
    };
    let mut worker = Worker::start(&job(path, cell.mode, load)).await?;
    let measured = (path == Path::Gateway).then_some(gateway);
    let mut meter = rig.meter(Some(&worker), measured);
    let before = meter.read(None);
    worker.go().await?;
    let outcome = worker.outcome().await?;
    let after = meter.read(Some(&before));
    worker.end().await?;
    check(cell.mode, load, &outcome)?;
    let used = Usage { cpu: after.cpu_since(&before), memory: after.memory, others: after.others_since(&before) };
    Ok((outcome, used))
}

/// Checks that every message was completed successfully.
fn check(mode: Mode, load: Load, outcome: &Outcome) -> Result<(), Error> {
    let Outcome { published, confirmed, refused, consumed, .. } = *outcome;
    let is_right = match (mode, load) {
        (_, Load::Drain { messages }) => consumed >= messages,
        (Mode::Publish, _) => published == confirmed && refused == 0,
        _ => published == confirmed && refused == 0 && consumed == confirmed,
    };
    if is_right && confirmed + consumed > 0 {
        return Ok(());
    }
    let text = format!("{published} published, {confirmed} confirmed, {refused} refused, {consumed} consumed");
    Err(Error::Counts(text.into()))
}

fn figures(round: usize, path: Path, cell: &Cell, outcome: &Outcome, used: Usage) -> Run {
    let messages = number(if cell.mode == Mode::Consume { outcome.consumed } else { outcome.confirmed });
    let per_second = messages / outcome.seconds.max(f64::EPSILON);
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    Run {
        round,
        path,
        seconds: outcome.seconds,
        published: outcome.published,
        confirmed: outcome.confirmed,
        consumed: outcome.consumed,
        messages_per_second: per_second,
        mib_per_second: mib(per_second * number(cell.size as u64)),
        cpu_us_per_message: used.cpu.map(|seconds| Some(seconds? * 1e6 / messages)),
        memory_mib: used.memory.map(|bytes| Some(mib(number(bytes?)))),
        others_share: used.others,
        end_to_end_ms: Percentiles::of(&outcome.end_to_end),
        confirm_ms: Percentiles::of(&outcome.confirm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_lost_a_message_is_an_error() {
        let full = Load::Full { seconds: 1.0 };
        let mut outcome = Outcome { published: 9, confirmed: 9, consumed: 9, ..Outcome::default() };
        assert!(check(Mode::Both, full, &outcome).is_ok());
        outcome.consumed = 8;
        assert!(check(Mode::Both, full, &outcome).is_err());
        assert!(check(Mode::Publish, full, &outcome).is_ok());
        assert!(check(Mode::Consume, Load::Drain { messages: 9 }, &outcome).is_err());
        assert!(check(Mode::Both, full, &Outcome::default()).is_err(), "a run without messages is an error, too");
    }
}
