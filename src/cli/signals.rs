//! SIGINT and SIGTERM as events: the first requests an orderly end, the next an immediate one.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Error;

/// The signals that request an end.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on the signals no longer end the process.
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
