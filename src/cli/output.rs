//! Output of commands: results as text or JSON on standard output, notes and errors on standard error.
//!
//! Control characters in untrusted text never reach a terminal.

use std::{
    borrow::Cow,
    io::{IsTerminal as _, Write as _},
};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};

use super::Error;

/// The process's standard output and error.
#[derive(Debug, Clone)]
pub struct Output {
    json: bool,
    terminal: bool,
    colour: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let colour = wanted && std::io::stderr().is_terminal();
        Self { json, terminal: std::io::stdout().is_terminal(), colour }
    }

    /// Whether results are printed as JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a result as text, or as JSON with `--json`.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub fn result(&self, json: impl FnOnce() -> Value, text: impl FnOnce() -> String) -> Result<(), Error> {
        if self.json { self.line(&format!("{:#}", json())) } else { self.line(&self.safe(&text())) }
    }

    /// Prints a line to standard output as it is, and flushes it.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub fn line(&self, text: &str) -> Result<(), Error> {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(Error::Output)
    }

    /// Prints a remark on standard error.
    pub fn note(&self, text: &str) {
        // Nothing can be done when standard error is closed.
        let _ = writeln!(std::io::stderr(), "{}", printable(text));
    }

    /// Prints why the command failed, as a line of JSON with `--json`.
    pub(super) fn error(&self, error: &Error) {
        if self.json {
            let _ = writeln!(std::io::stderr(), "{}", json!({ "error": error.json() }));
            return;
        }
        let label = if self.colour { "\u{1b}[1;31merror:\u{1b}[0m" } else { "error:" };
        let _ = writeln!(std::io::stderr(), "{label} {}", printable(&error.to_string()));
    }

    /// Untrusted text, escaped when standard output is a terminal; unchanged in a file or a pipe.
    pub(super) fn safe<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.terminal { printable(text) } else { Cow::Borrowed(text) }
    }
}

/// Control characters other than line ends and tabs, escaped.
fn printable(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if harmful(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

/// A table for people.
pub(super) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    // None when standard output is not a terminal: then lines are as long as they need to be.
    if let Some((terminal_size::Width(width), _)) = terminal_size::terminal_size_of(std::io::stdout()) {
        table.set_width(width);
    }
    table.set_header(header.map(str::to_uppercase));
    rows.into_iter().for_each(|row| {
        table.add_row(row);
    });
    if table.row_count() == 0 { "none".to_owned() } else { table.trim_fmt() }
}

/// Properties of one object, one per line, without empty ones.
pub(super) fn properties<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let pairs: Vec<_> = pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = pairs.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("plain\tä\n"), "plain\tä\n");
        assert_eq!(printable("\u{1b}]0;owned\u{7}"), "\\u{1b}]0;owned\\u{7}");
    }

    #[test]
    fn tables_and_properties_line_up() {
        assert_eq!(
            properties([("name", "q".into()), ("durable", "yes".into()), ("empty", String::new())]),
            "name     q\ndurable  yes"
        );
        let text = table(["name", "ready"], [["orders".to_owned(), "3".to_owned()]]);
        assert!(text.lines().count() == 2 && text.contains("NAME") && text.contains("orders"), "{text}");
        assert_eq!(table(["name"], []), "none");
    }
}
