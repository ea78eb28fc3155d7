//! The table: each attack with its bound and the measured value.

use std::{io::Write as _, sync::OnceLock, time::Instant};

use crate::Scale;

static BEGAN: OnceLock<Instant> = OnceLock::new();

/// Prints a line of progress, with the time since the first line.
pub fn say(line: &str) {
    let began = BEGAN.get_or_init(Instant::now);
    print(&format!("[{:4.0} s] {line}\n", began.elapsed().as_secs_f32()));
}

fn print(text: &str) {
    let mut output = std::io::stdout().lock();
    // Nobody may be reading the output any more.
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

enum Verdict {
    Passed,
    Failed,
    /// Exceeded, but not enforced in this run.
    Reported,
}

/// The results.
pub struct Report {
    scale: Scale,
    rows: Vec<(String, String, String, Verdict)>,
}

impl Report {
    pub fn new(scale: Scale) -> Self {
        Self { scale, rows: Vec::new() }
    }

    /// Checks a bound that every run must keep.
    pub fn must(&mut self, attack: &str, bound: &str, result: String, is_kept: bool) {
        self.add(attack, bound, result, if is_kept { Verdict::Passed } else { Verdict::Failed });
    }

    /// Checks a bound on time.
    pub fn time(&mut self, attack: &str, bound: &str, result: String, is_kept: bool) {
        let verdict = match (is_kept, self.scale.enforces_times) {
            (true, _) => Verdict::Passed,
            (false, true) => Verdict::Failed,
            (false, false) => Verdict::Reported,
        };
        self.add(attack, bound, result, verdict);
    }

    fn add(&mut self, attack: &str, bound: &str, result: String, verdict: Verdict) {
        say(&format!("  {attack}: {bound}: {result}"));
        self.rows.push((attack.into(), bound.into(), result, verdict));
    }

    pub fn is_passed(&self) -> bool {
        !self.rows.is_empty() && !self.rows.iter().any(|(.., verdict)| matches!(verdict, Verdict::Failed))
    }

    pub fn print(&self) {
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        print(&format!("\n{:<28} {:<44} {:<44} ({build} build)\n", "attack", "bound", "measured"));
        for (attack, bound, result, verdict) in &self.rows {
            let verdict = match verdict {
                Verdict::Passed => "kept",
                Verdict::Failed => "EXCEEDED",
                Verdict::Reported => "exceeded, not enforced",
            };
            print(&format!("{attack:<28} {bound:<44} {result:<44} {verdict}\n"));
        }
        print(if self.is_passed() { "all bounds kept\n" } else { "a bound was exceeded\n" });
    }
}

/// The value below which this percentage of the values are.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((sorted.len() as f64 * percent / 100.0) as usize).or(sorted.get(last)).copied().unwrap_or(f64::NAN)
}
