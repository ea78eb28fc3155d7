//! The table: each attack with its bar and what was measured.

use std::{io::Write as _, sync::OnceLock, time::Instant};

use crate::Scale;

static BEGAN: OnceLock<Instant> = OnceLock::new();

/// A line of progress, with the time since the first.
pub fn say(line: &str) {
    let began = BEGAN.get_or_init(Instant::now);
    print(&format!("[{:4.0} s] {line}\n", began.elapsed().as_secs_f32()));
}

fn print(text: &str) {
    let mut output = std::io::stdout().lock();
    // A reader that is gone is no failure.
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

enum Verdict {
    Passed,
    Failed,
    /// Missed, but not judged in this run.
    Reported,
}

/// What was measured.
pub struct Report {
    scale: Scale,
    rows: Vec<(String, String, String, Verdict)>,
}

impl Report {
    pub fn new(scale: Scale) -> Self {
        Self { scale, rows: Vec::new() }
    }

    /// A bar that every run must keep.
    pub fn must(&mut self, attack: &str, bar: &str, result: String, is_kept: bool) {
        self.add(attack, bar, result, if is_kept { Verdict::Passed } else { Verdict::Failed });
    }

    /// A bar on time.
    pub fn time(&mut self, attack: &str, bar: &str, result: String, is_kept: bool) {
        let verdict = match (is_kept, self.scale.judges_time) {
            (true, _) => Verdict::Passed,
            (false, true) => Verdict::Failed,
            (false, false) => Verdict::Reported,
        };
        self.add(attack, bar, result, verdict);
    }

    fn add(&mut self, attack: &str, bar: &str, result: String, verdict: Verdict) {
        say(&format!("  {attack}: {bar}: {result}"));
        self.rows.push((attack.into(), bar.into(), result, verdict));
    }

    pub fn is_passed(&self) -> bool {
        !self.rows.is_empty() && !self.rows.iter().any(|(.., verdict)| matches!(verdict, Verdict::Failed))
    }

    pub fn print(&self) {
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        print(&format!("\n{:<28} {:<44} {:<44} ({build} build)\n", "attack", "bar", "measured"));
        for (attack, bar, result, verdict) in &self.rows {
            let verdict = match verdict {
                Verdict::Passed => "kept",
                Verdict::Failed => "MISSED",
                Verdict::Reported => "missed, not judged",
            };
            print(&format!("{attack:<28} {bar:<44} {result:<44} {verdict}\n"));
        }
        print(if self.is_passed() { "all bars kept\n" } else { "a bar was missed\n" });
    }
}

/// The value below which so many per cent of the values are.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((sorted.len() as f64 * percent / 100.0) as usize).or(sorted.get(last)).copied().unwrap_or(f64::NAN)
}
