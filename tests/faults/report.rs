//! Output for people and scripts: progress lines, a table at the end, and one last line.

use std::{io::Write as _, sync::OnceLock, time::Instant};

static BEGAN: OnceLock<Instant> = OnceLock::new();

/// Prints a progress line with the time since the first one.
pub fn say(line: &str) {
    let began = BEGAN.get_or_init(Instant::now);
    print(&format!("[{:4.0} s] {line}\n", began.elapsed().as_secs_f32()));
}

/// Prints the text unchanged.
pub fn print(text: &str) {
    let mut output = std::io::stdout().lock();
    // Errors are ignored, because the reader may have ended.
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}
