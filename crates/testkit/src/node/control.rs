//! `rabbitmqctl` for a private node. A call takes a second or two, because it starts a separate Erlang runtime.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::process::Command;

use super::Error;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the tool with the environment of a node.
pub(super) async fn run(
    program: &Path,
    environment: impl IntoIterator<Item = (&'static str, std::ffi::OsString)>,
    words: &[&str],
) -> Result<String, Error> {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_for_others(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.envs(environment);
    // Like the node itself, it listens on the loopback address only.
    command.env("RABBITMQ_CTL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}");
    command.args(words).current_dir("/").stdin(Stdio::null()).kill_on_drop(true);
    let failed = |why: String| Error::Control { what: words.join(" "), why };
    let output = match tokio::time::timeout(TIMEOUT, command.output()).await {
        Ok(output) => output.map_err(Error::process("start rabbitmqctl"))?,
        Err(_) => return Err(failed(format!("no result within {} s", TIMEOUT.as_secs()))),
    };
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// Whether a variable is meant for another RabbitMQ or may be a secret of the gateway.
pub(super) fn is_for_others(name: &str) -> bool {
    ["RABBITMQ_", "ERL_", "WARRENGATE_"].iter().any(|prefix| name.starts_with(prefix)) || name == "NOTIFY_SOCKET"
}
