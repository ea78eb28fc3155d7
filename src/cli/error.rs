//! How a command fails. It ends at a terminal, so it needs no status: a sentence with the next step, and an exit code.

use std::io;

use crate::client;

/// The exit code of wrong usage.
pub(super) const USAGE: u8 = 2;
const FAILURE: u8 = 1;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command was not given what it needs, or contradictions.
    #[error("{0}")]
    Usage(String),
    /// The client says what.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// Something on this machine could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, to what.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Standard output is gone or full.
    #[error("cannot write the result: {0}")]
    Output(#[source] io::Error),
    /// What was asked for was tried and is not so.
    #[error("{0}")]
    Failed(String),
    /// Another room's error, with what was being done.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl Error {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            // `... | head` has what it wanted.
            _ if self.is_closed_pipe() => 0,
            _ => FAILURE,
        }
    }

    pub(super) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Client(status.into())
    }
}
