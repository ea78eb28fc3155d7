//! The evaluation of a run: a table, every violation, and the last line.

use std::{collections::BTreeMap, time::Duration};

use comfy_table::{Table, presets};

use crate::{
    attempts,
    history::{History, Message},
    inject::Injected,
    memory::Growth,
    plan::{Fault, Network},
};

/// The time limit for all streams to work again after the broker or the network is restored.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// The time limit for noticing a silent broker.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);

/// The data to evaluate.
pub struct Inputs<'a> {
    pub history: &'a History,
    pub injected: &'a [Injected],
    /// When the first fault could be injected.
    pub began: std::time::Instant,
    /// The memory of the gateway that ran throughout the second half.
    pub memory: Option<Growth>,
    /// Violations found during the run.
    pub violations: Vec<String>,
}

/// The result.
pub struct Evaluation {
    pub table: String,
    pub violations: Vec<String>,
    /// What took longer than allowed. On a machine with other load this is not significant.
    pub late: Vec<String>,
    pub last_line: String,
}

#[derive(Default)]
struct Counts {
    outcomes: BTreeMap<&'static str, u64>,
    confirmed: u64,
    lost: Vec<String>,
    unanswered: u64,
    duplicates: u64,
    duplicated: u64,
    deliveries: u64,
    retries: u64,
}

impl Counts {
    fn add(&mut self, id: &str, message: &Message) {
        match &message.outcome {
            None => self.unanswered += 1,
            Some((outcome, _)) => *self.outcomes.entry(outcome.as_str_name()).or_default() += 1,
        }
        self.confirmed += u64::from(message.is_confirmed());
        if message.is_confirmed() && !message.is_done() {
            self.lost.push(id.to_owned());
        }
        self.deliveries += message.deliveries.len() as u64;
        let again = message.duplicates() as u64;
        self.duplicates += again;
        self.duplicated += u64::from(again > 0);
        self.retries += message.retries() as u64;
    }
}

pub fn evaluate(inputs: Inputs<'_>) -> Evaluation {
    let Inputs { history, injected, began, memory, mut violations } = inputs;
    let counts = history.fold(Counts::default(), |counts, id, message| counts.add(id, message));
    let wrong_tenant = history.wrong_tenant();
    let streams = history.streams();
    let longest = streams.iter().max_by_key(|stream| stream.longest);
    let longest_ms = longest.map_or(0, |stream| stream.longest.as_millis());

    if !counts.lost.is_empty() {
        violations.push(format!("{} confirmed messages were lost: {}", counts.lost.len(), some(&counts.lost)));
    }
    if !wrong_tenant.is_empty() {
        violations.push(format!("{} deliveries to another tenant: {}", wrong_tenant.len(), some(&wrong_tenant)));
    }
    if counts.unanswered > 0 {
        violations.push(format!("{} messages have no outcome", counts.unanswered));
    }
    let unexpected = history.violations();
    if !unexpected.is_empty() {
        violations.push(format!("{} contradictions: {}", unexpected.len(), some(&unexpected)));
    }
    violations.extend(injected.iter().flat_map(violations_by));
    let mut late: Vec<_> = injected.iter().flat_map(delays_by).collect();
    let attempt_report = attempts::check(history, injected, began);
    violations.extend(attempt_report.violations());
    late.extend(attempt_report.late());
    if let Some(growth) = memory.filter(|growth| growth.grows) {
        let (from, to) = (growth.third_quarter / 1024, growth.last_quarter / 1024);
        violations.push(format!("the gateway's memory grows over the last half: {from} MiB, then {to} MiB"));
    }

    let mut table = faults(injected);
    let mut messages = plain();
    messages.set_header(["messages", "number", ""]);
    let mut row = |name: &str, number: u64, remark: &str| {
        messages.add_row([name.to_owned(), number.to_string(), remark.to_owned()]);
    };
    for (outcome, number) in &counts.outcomes {
        row(&outcome.trim_start_matches("OUTCOME_").to_lowercase(), *number, "");
    }
    row("without an outcome", counts.unanswered, "must be 0");
    row("confirmed and lost", counts.lost.len() as u64, "must be 0");
    row("delivered to another tenant", wrong_tenant.len() as u64, "must be 0");
    row("deliveries", counts.deliveries, "");
    row("retries requested", counts.retries, "");
    row("duplicates", counts.duplicates, &format!("duplicate deliveries, of {} messages", counts.duplicated));
    if let Some(stream) = longest {
        row("longest interruption (ms)", u64::try_from(longest_ms).unwrap_or(u64::MAX), &stream.name);
    }
    if let Some(growth) = memory {
        let remark = format!("median of the third quarter: {} MiB", growth.third_quarter / 1024);
        row("gateway's memory, last quarter (MiB)", growth.last_quarter / 1024, &remark);
    }
    row("retries by the policy", attempt_report.measured, &attempt_report.remark());
    table.push_str(&format!("{messages}\n"));
    if let Ok(load) = std::fs::read_to_string("/proc/loadavg") {
        // Other load on the machine delays everything.
        table.push_str(&format!("load average at the end: {load}"));
    }
    let refused: Vec<_> =
        streams.iter().flat_map(|s| s.failures.iter().map(move |f| format!("{}: {f}", s.name))).collect();
    if !refused.is_empty() {
        table.push_str(&format!(
            "{} streams were opened again by the application: {}\n",
            refused.len(),
            some(&refused)
        ));
    }
    let last_line = format!(
        "faults: injected={} confirmed={} confirmed_lost={} wrong_tenant={} unanswered={} duplicates={} \
         longest_interruption_ms={longest_ms}",
        injected.len(),
        counts.confirmed,
        counts.lost.len(),
        wrong_tenant.len(),
        counts.unanswered,
        counts.duplicates,
    );
    Evaluation { table, violations, late, last_line }
}

/// Violations by one fault.
fn violations_by(done: &Injected) -> Vec<String> {
    let mut violations: Vec<String> = done.failure.iter().cloned().collect();
    let name = done.fault.name();
    violations.extend(done.recovery.as_ref().err().map(|why| format!("{name}: {why}")));
    if let Some(Err(why)) = &done.notice {
        violations.push(format!("{name}: not noticed: {why}"));
    }
    violations
}

/// What took longer than allowed.
fn delays_by(done: &Injected) -> Vec<String> {
    let mut late = Vec::new();
    let name = done.fault.name();
    // After the kill of a gateway, a consumer or a leader another one is available, so the time is measured from the
    // kill.
    if let Ok((after, stream)) = &done.recovery
        && *after > BACK_WITHIN
    {
        late.push(format!("{name}: {stream} recovered after {after:.1?}, more than {BACK_WITHIN:?}"));
    }
    if let Some(Ok((after, stream))) = &done.notice
        && *after > NOTICED_WITHIN
    {
        late.push(format!("{name}: {stream} was notified after {after:.1?}, more than {NOTICED_WITHIN:?}"));
    }
    late
}

fn faults(injected: &[Injected]) -> String {
    let mut table = plain();
    table.set_header(["fault", "times", "lasted (s)", "noticed after (s)", "all streams recovered after (s)"]);
    for fault in Fault::all() {
        let all: Vec<_> = injected.iter().filter(|done| done.fault == fault).collect();
        let lasted = all.iter().map(|done| done.restored - done.began);
        let noticed = all.iter().filter_map(|done| done.notice.as_ref()?.as_ref().ok()).map(|(after, _)| *after);
        let back = all.iter().filter_map(|done| done.recovery.as_ref().ok()).map(|(after, _)| *after);
        let clients = all.iter().filter(|done| done.network == Network::Clients).count();
        let name = match clients {
            0 => fault.name().to_owned(),
            _ => format!("{} ({clients} of them between clients and gateways)", fault.name()),
        };
        table.add_row([name, all.len().to_string(), range(lasted), range(noticed), range(back)]);
    }
    format!("{table}\n")
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// `1.0 – 2.5`.
fn range(times: impl Iterator<Item = Duration>) -> String {
    let times: Vec<f32> = times.map(|time| time.as_secs_f32()).collect();
    let Some(first) = times.first() else { return String::new() };
    let (min, max) = times.iter().fold((*first, *first), |(min, max), time| (min.min(*time), max.max(*time)));
    if times.len() == 1 { format!("{min:.1}") } else { format!("{min:.1} – {max:.1}") }
}

fn some(all: &[String]) -> String {
    let shown = all.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("; ");
    if all.len() > 5 { format!("{shown} …") } else { shown }
}
