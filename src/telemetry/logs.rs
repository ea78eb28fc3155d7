//! Logs to standard error, a line an event. Whatever the filter says, what could print a message body or a header stays
//! silent; whatever a value holds, its line is one. What is logged can be changed while the process runs.

use std::io::{self, IsTerminal as _, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    filter::filter_fn,
    layer::SubscriberExt as _,
    reload::{self, Handle},
    util::SubscriberInitExt as _,
};

use super::Error;
use crate::config::{LogFormat, TelemetryConfig};

/// Changes what is logged.
pub struct LogFilter(Handle<EnvFilter, Registry>);

impl std::fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogFilter(..)")
    }
}

impl LogFilter {
    /// From now on, what this filter lets through.
    ///
    /// # Errors
    /// When it is none; what was logged before still is.
    pub fn set(&self, filter: &str) -> Result<(), Error> {
        let filter = EnvFilter::builder().parse(filter).map_err(Error::Filter)?;
        // Fails when the subscriber is gone, and then nothing is logged at all.
        let _ = self.0.reload(filter);
        Ok(())
    }
}

/// Sets up logs. Once a process.
///
/// # Errors
/// When the filter is none, or logging was set up before.
pub fn init(config: &TelemetryConfig) -> Result<LogFilter, Error> {
    let filter = EnvFilter::builder().parse(&config.log).map_err(Error::Filter)?;
    let (filter, handle) = reload::Layer::new(filter);
    let is_human = match config.log_format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stderr().is_terminal(),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(|| OneLine(io::stderr()));
    let lines = if is_human {
        lines.with_ansi(io::stderr().is_terminal()).boxed()
    } else {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter).with_filter(filter_fn(is_harmless)))
        .try_init()
        .map_err(Error::AlreadySet)?;
    Ok(LogFilter(handle))
}

/// Writes an event, which comes in one piece, as one line of printable characters and colours: every other control character
/// inside it is shown as an escape. The library does so with most, but not with all that a span's fields may hold.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        match line.contains(char::is_control) {
            true => self.0.write_all(&[escaped(line).as_bytes(), b"\n"].concat())?,
            false => self.0.write_all(event)?,
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn escaped(line: &str) -> String {
    let mut out = String::with_capacity(line.len() + 16);
    let mut rest = line;
    while let Some(next) = rest.chars().next() {
        let colour = colour(rest);
        if let Some(length) = colour {
            out.push_str(&rest[..length]);
        } else if next.is_control() && next != '\t' {
            out.extend(next.escape_default());
        } else {
            out.push(next);
        }
        rest = &rest[colour.unwrap_or(next.len_utf8())..];
    }
    out
}

/// The length of a colour's sequence (ECMA-48, SGR) at the beginning of a text.
fn colour(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then_some(text.len() - parameters.len() + end + 1)
}

/// Not: lapin's warning on each returned message, which holds its body; its errors on each closed channel, which any tenant
/// can cause and our own lines tell with the tenant; and other crates' TRACE, which shows frames
/// (lapin), headers (h2) and addresses with passwords (amq-protocol).
fn is_harmless(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let is_ours = target == "warrengate" || target.starts_with("warrengate::");
    is_ours || (*metadata.level() != Level::TRACE && !matches!(target, "lapin::returned_messages" | "lapin::channel"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{debug, trace, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("unpoisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_a_peer_sends_can_break_a_line() {
        let evil = format!("a\nINFO forged\r\u{1b}[2J\u{9b}1m{}", "x".repeat(1 << 20));
        for json in [false, true] {
            let buffer = Buffer::default();
            let writer = buffer.clone();
            let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || OneLine(writer.clone()));
            let lines = if json { lines.json().boxed() } else { lines.boxed() };
            tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
                let span = tracing::info_span!("call", method = %evil, client = evil);
                let _entered = span.enter();
                warn!(error = %evil, debug = ?evil, "{evil}");
                warn!("next");
            });
            let text = buffer.0.lock().expect("unpoisoned").clone();
            let text = String::from_utf8(text).expect("text");
            assert_eq!(text.lines().count(), 2, "json: {json}");
            assert!(!text.contains(['\u{1b}', '\r', '\u{9b}']), "json: {json}");
        }
    }

    #[test]
    fn what_is_logged_changes_while_it_runs() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let (filter, handle) = reload::Layer::new(EnvFilter::new("warn"));
        let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
        let handle = LogFilter(handle);
        tracing::subscriber::with_default(subscriber, || {
            debug!(target: "warrengate::stream", "before");
            handle.set("warn,warrengate::stream=debug").expect("a filter");
            debug!(target: "warrengate::stream", "after");
            debug!(target: "warrengate::broker", "another room");
            assert!(handle.set("warrengate=loud").is_err());
            debug!(target: "warrengate::stream", "still");
        });
        let text = String::from_utf8(buffer.0.lock().expect("unpoisoned").clone()).expect("text");
        assert!(text.contains("after") && text.contains("still"), "{text}");
        assert!(!text.contains("before") && !text.contains("another"), "{text}");
    }

    #[test]
    fn bodies_stay_silent_whatever_the_filter_says() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let filter = EnvFilter::builder().parse("trace,lapin::returned_messages=trace").expect("a filter");
        let subscriber = tracing_subscriber::registry().with(filter_fn(is_harmless)).with(lines.with_filter(filter));
        tracing::subscriber::with_default(subscriber, || {
            warn!(target: "lapin::returned_messages", "body-1");
            trace!(target: "lapin::channels", "body-2");
            trace!(target: "warrengatex", "body-3");
            debug!(target: "lapin::channels", "shown-1");
            trace!(target: "warrengate::stream", "shown-2");
        });
        let text = String::from_utf8(buffer.0.lock().expect("unpoisoned").clone()).expect("text");
        assert!(!text.contains("body-"), "{text}");
        assert!(text.contains("shown-1") && text.contains("shown-2"), "{text}");
    }
}
