//! Panics in the log, with their task, and without anything that could contain a message.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    panic::PanicHookInfo,
};

tokio::task_local! {
    static TASK: &'static str;
}

/// Runs a task under a name with which a panic is logged. Tasks of calls need no name, because their log span names
/// them.
pub async fn named_task<F: Future>(name: &'static str, task: F) -> F::Output {
    TASK.scope(name, task).await
}

/// Logs every panic of the process from now on, instead of printing it.
pub fn log_panics() {
    std::panic::set_hook(Box::new(log_panic));
}

/// The text of a panic, if it is a constant of the program. A formatted text is omitted, because it may contain data of
/// a peer.
pub fn panic_text(payload: &(dyn Any + Send)) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("the text is omitted, because it may contain data")
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let text = info.payload().downcast_ref::<&'static str>().copied();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let task = TASK.try_with(|name| *name).ok();
    let thread = std::thread::current();
    // Only if RUST_BACKTRACE requests it.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(panic = text, place, task, thread = thread.name(), backtrace, "panic");
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use futures_util::FutureExt as _;
    use tracing::Instrument as _;

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

    #[tokio::test]
    async fn a_panic_is_logged_with_its_task_and_call_and_without_what_a_peer_sent() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let lines = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        let guard = tracing::subscriber::set_default(lines);
        let earlier = std::panic::take_hook();
        log_panics();
        let body = "the body of a message".to_owned();
        let formatted = named_task("redelivery", async { panic!("cannot decode {body}") });
        let formatted = std::panic::AssertUnwindSafe(formatted).catch_unwind().await;
        let call =
            async { panic!("a constant of the program") }.instrument(tracing::error_span!("call", method = "Publish"));
        let constant = std::panic::AssertUnwindSafe(call).catch_unwind().await;
        std::panic::set_hook(earlier);
        drop(guard);
        let log = String::from_utf8(buffer.0.lock().expect("unpoisoned").clone()).expect("text");
        let line = |with: &str| log.lines().find(|line| line.contains(with)).unwrap_or_else(|| panic!("{with}: {log}"));
        assert!(line("redelivery").contains("panics.rs:"), "{log}");
        assert!(line("a constant of the program").contains("Publish"), "{log}");
        assert!(!log.contains("the body of a message"), "{log}");
        let texts = [formatted, constant].map(|result| panic_text(&*result.expect_err("panicked")));
        assert_eq!(texts, ["the text is omitted, because it may contain data", "a constant of the program"]);
    }
}
