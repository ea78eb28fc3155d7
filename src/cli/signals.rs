//! SIGINT and SIGTERM as events: the first one requests an orderly end, the next one an immediate end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Error;

/// The signals that request an end.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Starts listening; from now on the signals do not end the process by themselves.
    pub(super) fn listen() -> Result<Self, Error> {
        let failed = || Error::io("cannot listen for signals");
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed())?,
            terminate: signal(SignalKind::terminate()).map_err(failed())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
