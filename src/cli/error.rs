//! Errors of commands: a sentence with one next step, and an exit code.

use std::{fmt::Write as _, io};

use serde_json::{Value, json};
use tonic::Code;

use super::connection;
use crate::client;

/// The exit code of wrong usage.
pub(super) const USAGE: u8 = 2;
const FAILURE: u8 = 1;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Required arguments are missing, or arguments contradict each other.
    #[error("{0}")]
    Usage(String),
    /// The client's error.
    #[error("{}", describe(.0))]
    Client(#[from] client::Error),
    /// The client's error, with a sentence that fits the command.
    #[error("{0}")]
    Advised(String, #[source] client::Error),
    /// Something on this machine could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// The operation and its object.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Standard output is closed or full.
    #[error("cannot write the result: {0}")]
    Output(#[source] io::Error),
    /// The command was executed without success.
    #[error("{0}")]
    Failed(String),
    /// Another module's error, with its causes.
    #[error("{}", chain(.0))]
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
            // The reader of a pipe such as `... | head` has read enough.
            _ if self.is_closed_pipe() => 0,
            _ => FAILURE,
        }
    }

    /// The error as an object: `message`, `exit_code`, and the details from the gateway.
    pub(super) fn json(&self) -> Value {
        let mut object = json!({ "message": self.to_string(), "exit_code": self.exit_code() });
        if let Self::Client(error) | Self::Advised(_, error) = self {
            let refusal = error.refusal();
            let reason = refusal.map(client::Refusal::reason).filter(|reason| !reason.is_empty());
            object["reason"] = reason.unwrap_or_else(|| error.reason()).into();
            object["code"] = refusal.map(|refusal| format!("{:?}", refusal.code())).into();
            object["field"] = refusal.and_then(client::Refusal::field).into();
            object["retry_after_seconds"] =
                refusal.and_then(client::Refusal::retry_after).map(|after| after.as_secs_f64()).into();
        }
        object
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

/// Calls that occur in the gateway's messages, and the corresponding commands.
const COMMANDS: [(&str, &str); 4] = [
    ("UpdateTenant", "`warrengate tenant update`"),
    ("RotateClientSecret", "`warrengate client rotate-secret`"),
    ("UpdateClient", "`warrengate client update`"),
    ("UpdatePlan", "`warrengate plan update`"),
];

/// The client's message with commands instead of calls; for refused credentials or grants, with their source.
fn describe(error: &client::Error) -> String {
    let mut text = COMMANDS.iter().fold(error.to_string(), |text, (call, command)| text.replace(call, command));
    let about_access = matches!(error.code(), Some(Code::Unauthenticated | Code::PermissionDenied));
    if let Some(identity) = connection::identity_in_use().filter(|_| about_access) {
        let _ = write!(text, "\n  connected as {identity}");
    }
    text
}

/// An error and its causes. Some errors repeat their cause, so a cause that was printed already is omitted.
fn chain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            let _ = write!(text, "{separator}{cause}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_cause_is_printed_once() {
        let source = io::Error::other("the port is taken; choose another");
        let repeated = anyhow::Error::new(source).context("the port is taken; choose another");
        assert_eq!(Error::Other(repeated).to_string(), "the port is taken; choose another");
        let context = anyhow::Error::new(io::Error::other("no such file")).context("cannot start");
        assert_eq!(Error::Other(context).to_string(), "cannot start: no such file");
    }

    #[test]
    fn calls_are_named_as_commands_and_errors_have_a_json_form() {
        let status = tonic::Status::already_exists("the tenant exists with another plan; UpdateTenant changes it");
        let error = Error::from(status);
        assert!(error.to_string().contains("`warrengate tenant update` changes it"), "{error}");
        let json = error.json();
        assert_eq!((&json["code"], &json["exit_code"]), (&"AlreadyExists".into(), &1.into()), "{json}");
        assert_eq!(Error::Usage("no".to_owned()).json(), json!({ "message": "no", "exit_code": 2 }));
    }
}
