//! The verdict of a run: a table, every promise that was not kept, and the last line.

use std::{collections::BTreeMap, time::Duration};

use comfy_table::{Table, presets};

use crate::{
    attempts,
    inject::Injected,
    ledger::{Ledger, Message},
    memory::Judged,
    plan::{Fault, Leg},
};

/// Every stream works again so soon after the broker, or the network, is back.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// A broker that is silent is noticed so soon.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);

/// All that is judged.
pub struct Evidence<'a> {
    pub ledger: &'a Ledger,
    pub injected: &'a [Injected],
    /// When the first fault could come.
    pub began: std::time::Instant,
    /// Of the gateway that lived through the last half.
    pub memory: Option<Judged>,
    /// What was found wrong on the way.
    pub broken: Vec<String>,
}

/// What it comes to.
pub struct Verdict {
    pub table: String,
    pub broken: Vec<String>,
    /// What was later than promised: of a machine that has other work, that says little.
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

pub fn judge(evidence: Evidence<'_>) -> Verdict {
    let Evidence { ledger, injected, began, memory, mut broken } = evidence;
    let counts = ledger.fold(Counts::default(), |counts, id, message| counts.add(id, message));
    let wrong_tenant = ledger.wrong_tenant();
    let streams = ledger.streams();
    let longest = streams.iter().max_by_key(|stream| stream.longest);
    let longest_ms = longest.map_or(0, |stream| stream.longest.as_millis());

    if !counts.lost.is_empty() {
        broken.push(format!("{} confirmed messages are lost: {}", counts.lost.len(), some(&counts.lost)));
    }
    if !wrong_tenant.is_empty() {
        broken.push(format!("{} deliveries to another tenant: {}", wrong_tenant.len(), some(&wrong_tenant)));
    }
    if counts.unanswered > 0 {
        broken.push(format!("{} messages have no outcome", counts.unanswered));
    }
    let wrong = ledger.wrong();
    if !wrong.is_empty() {
        broken.push(format!("{} facts that cannot be: {}", wrong.len(), some(&wrong)));
    }
    broken.extend(injected.iter().flat_map(broken_by));
    let mut late: Vec<_> = injected.iter().flat_map(late_by).collect();
    let tries = attempts::judge(ledger, injected, began);
    broken.extend(tries.broken());
    late.extend(tries.late());
    if let Some(judged) = memory.filter(|judged| judged.grows) {
        let (from, to) = (judged.third_quarter / 1024, judged.last_quarter / 1024);
        broken.push(format!("the gateway's memory grows over the last half: {from} MiB, then {to} MiB"));
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
    row("asked for again (retry)", counts.retries, "");
    row(
        "duplicates",
        counts.duplicates,
        &format!("deliveries that nobody asked for, of {} messages", counts.duplicated),
    );
    if let Some(stream) = longest {
        row("longest interruption (ms)", u64::try_from(longest_ms).unwrap_or(u64::MAX), &stream.name);
    }
    if let Some(judged) = memory {
        let remark = format!("median of the third quarter: {} MiB", judged.third_quarter / 1024);
        row("gateway's memory, last quarter (MiB)", judged.last_quarter / 1024, &remark);
    }
    row("retries by the policy", tries.measured, &tries.remark());
    table.push_str(&format!("{messages}\n"));
    if let Ok(load) = std::fs::read_to_string("/proc/loadavg") {
        // A machine that has other work makes everything late.
        table.push_str(&format!("load average at the end: {load}"));
    }
    let refused: Vec<_> =
        streams.iter().flat_map(|s| s.failures.iter().map(move |f| format!("{}: {f}", s.name))).collect();
    if !refused.is_empty() {
        table.push_str(&format!("{} streams were opened anew by the application: {}\n", refused.len(), some(&refused)));
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
    Verdict { table, broken, late, last_line }
}

/// What went wrong after one fault.
fn broken_by(done: &Injected) -> Vec<String> {
    let mut broken: Vec<String> = done.wrong.iter().cloned().collect();
    let name = done.fault.name();
    broken.extend(done.recovery.as_ref().err().map(|why| format!("{name}: {why}")));
    if let Some(Err(why)) = &done.notice {
        broken.push(format!("{name}: not noticed: {why}"));
    }
    broken
}

/// What took longer than promised.
fn late_by(done: &Injected) -> Vec<String> {
    let mut late = Vec::new();
    let name = done.fault.name();
    // Of a gateway, a consumer or a leader that was killed another is there: counted from the kill.
    if let Ok((after, stream)) = &done.recovery
        && *after > BACK_WITHIN
    {
        late.push(format!("{name}: {stream} worked {after:.1?} after it was over, more than {BACK_WITHIN:?}"));
    }
    if let Some(Ok((after, stream))) = &done.notice
        && *after > NOTICED_WITHIN
    {
        late.push(format!("{name}: {stream} was told after {after:.1?}, more than {NOTICED_WITHIN:?}"));
    }
    late
}

fn faults(injected: &[Injected]) -> String {
    let mut table = plain();
    table.set_header(["fault", "times", "lasted (s)", "noticed after (s)", "every stream works after (s)"]);
    for fault in Fault::all() {
        let all: Vec<_> = injected.iter().filter(|done| done.fault == fault).collect();
        let lasted = all.iter().map(|done| done.whole - done.began);
        let noticed = all.iter().filter_map(|done| done.notice.as_ref()?.as_ref().ok()).map(|(after, _)| *after);
        let back = all.iter().filter_map(|done| done.recovery.as_ref().ok()).map(|(after, _)| *after);
        let clients = all.iter().filter(|done| done.leg == Leg::Clients).count();
        let name = match clients {
            0 => fault.name().to_owned(),
            _ => format!("{} ({clients} of them before clients)", fault.name()),
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
    let (least, most) = times.iter().fold((*first, *first), |(least, most), time| (least.min(*time), most.max(*time)));
    if times.len() == 1 { format!("{least:.1}") } else { format!("{least:.1} – {most:.1}") }
}

fn some(all: &[String]) -> String {
    let shown = all.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("; ");
    if all.len() > 5 { format!("{shown} …") } else { shown }
}
