//! Logs to standard error. Whatever the filter says, what could print a message body or a
//! header stays silent.

use std::io::IsTerminal as _;

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::filter_fn, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use super::Error;
use crate::config::{LogFormat, TelemetryConfig};

/// Sets up logs. Once a process.
///
/// # Errors
/// When the filter is none, or logging was set up before.
pub fn init(config: &TelemetryConfig) -> Result<(), Error> {
    let filter = EnvFilter::builder().parse(&config.log).map_err(Error::Filter)?;
    let is_human = match config.log_format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if is_human {
        lines.with_ansi(std::io::stderr().is_terminal()).boxed()
    } else {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    };
    tracing_subscriber::registry()
        .with(filter_fn(is_harmless))
        .with(lines.with_filter(filter))
        .try_init()
        .map_err(Error::AlreadySet)
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

    impl std::io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("unpoisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
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
