//! Extracts from a broker's console and log the few lines that explain why it did not start.

const LINES: usize = 15;

/// The errors up to RabbitMQ's own summary of them; without errors, the last lines.
pub(super) fn explain(console: &str, log: &str) -> String {
    let mut lines = Vec::new();
    for line in console.lines().chain(log.lines()).filter_map(error) {
        if !lines.contains(&line) {
            lines.push(line);
        }
        if line.starts_with("Error during startup") || lines.len() == LINES {
            break;
        }
    }
    if lines.is_empty() {
        lines = console.lines().chain(log.lines()).filter(|line| !line.trim().is_empty()).collect();
        lines = lines.split_off(lines.len().saturating_sub(LINES));
    }
    lines.join("\n")
}

/// `2026-11-21 13:11:08.746802+00:00 [error] <0.132.0> text`: the text, if the line has that form.
fn error(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("[error] ").or_else(|| line.split_once("[critical] "))?;
    let (_, text) = rest.split_once("> ")?;
    (!text.trim().is_empty() && !text.starts_with("====")).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_shown_without_the_report_that_follows_it() {
        let log = "2026-11-21 13:11:08.7+00:00 [info] <0.1.0> hello\n\
                   2026-11-21 13:11:08.7+00:00 [error] <0.132.0> You've tried to set no_such_key\n\
                   2026-11-21 13:11:08.7+00:00 [error] <0.132.0> \n\
                   2026-11-21 13:11:08.7+00:00 [error] <0.132.0> Error during startup: {error,x}\n\
                   2026-11-21 13:11:08.7+00:00 [error] <0.132.0>   crasher:\n";
        assert_eq!(explain("", log), "You've tried to set no_such_key\nError during startup: {error,x}");
    }

    #[test]
    fn without_an_error_the_last_lines_are_shown() {
        assert_eq!(explain("/bin/sh: erl: not found\n\n", ""), "/bin/sh: erl: not found");
    }
}
