//! Logs to standard error, one line per event. Events that could contain a message body or a header are suppressed
//! regardless of the filter, and no value can break a line. The filter can be changed while the process runs.

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

/// Changes the log filter.
pub struct LogFilter(Handle<EnvFilter, Registry>);

impl std::fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogFilter(..)")
    }
}

impl LogFilter {
    /// Replaces the filter.
    ///
    /// # Errors
    /// When the filter is invalid; the previous one remains in effect.
    pub fn set(&self, filter: &str) -> Result<(), Error> {
        let filter = EnvFilter::builder().parse(filter).map_err(Error::Filter)?;
        // Fails if the subscriber was dropped, in which case nothing is logged.
        let _ = self.0.reload(filter);
        Ok(())
    }
}

/// Sets up logs; once per process.
///
/// # Errors
/// When the filter is invalid, or logging has been set up before.
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
        .with(lines.with_filter(filter).with_filter(filter_fn(is_safe_to_log)))
        .try_init()
        .map_err(Error::AlreadySet)?;
    Ok(LogFilter(handle))
}

/// Writes each event as one line of printable characters and colours; all other control characters are escaped. The
/// library escapes most of them, but not in all fields of spans.
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

/// The length of a colour sequence (ECMA-48, SGR) at the beginning of a text.
fn colour(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then_some(text.len() - parameters.len() + end + 1)
}

/// Excludes lapin's warning on each returned message, which contains the body; its errors on each closed channel and lost
/// connection, which any tenant can cause and which the gateway logs with the tenant; and TRACE events of other crates,
/// which contain frames (lapin), headers (h2) and addresses with passwords (amq-protocol).
fn is_safe_to_log(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let is_own = target == "warrengate" || target.starts_with("warrengate::");
    let is_repeated = *metadata.level() == Level::ERROR && target.starts_with("lapin::");
    is_own
        || (*metadata.level() != Level::TRACE
            && !is_repeated
            && !matches!(target, "lapin::returned_messages" | "lapin::channel"))
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
    fn no_value_of_a_peer_can_break_a_line() {
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
    fn the_filter_can_be_changed_at_runtime() {
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
            debug!(target: "warrengate::broker", "another module");
            assert!(handle.set("warrengate=loud").is_err());
            debug!(target: "warrengate::stream", "still");
        });
        let text = String::from_utf8(buffer.0.lock().expect("unpoisoned").clone()).expect("text");
        assert!(text.contains("after") && text.contains("still"), "{text}");
        assert!(!text.contains("before") && !text.contains("another"), "{text}");
    }

    #[test]
    fn bodies_are_not_logged_with_any_filter() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let filter = EnvFilter::builder().parse("trace,lapin::returned_messages=trace").expect("a filter");
        let subscriber = tracing_subscriber::registry().with(filter_fn(is_safe_to_log)).with(lines.with_filter(filter));
        tracing::subscriber::with_default(subscriber, || {
            warn!(target: "lapin::returned_messages", "body-1");
            trace!(target: "lapin::channels", "body-2");
            trace!(target: "warrengatex", "body-3");
            tracing::error!(target: "lapin::io_loop", "body-4");
            debug!(target: "lapin::channels", "shown-1");
            trace!(target: "warrengate::stream", "shown-2");
        });
        let text = String::from_utf8(buffer.0.lock().expect("unpoisoned").clone()).expect("text");
        assert!(!text.contains("body-"), "{text}");
        assert!(text.contains("shown-1") && text.contains("shown-2"), "{text}");
    }
}
