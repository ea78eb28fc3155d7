//! Runs the `warrengate` binary: arguments, standard input and output, exit codes.

use std::process::{Output, Stdio};

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use super::{SharedStack, wait::within};

/// The binary with a client's settings, in a folder without a `dev.env`.
pub fn warrengate(client_id: &str, secret: &SecretString) -> Command {
    let shared = SharedStack::get();
    let mut command = Command::new(env!("CARGO_BIN_EXE_warrengate"));
    command
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .env("WARRENGATE_ENDPOINT", shared.stack.endpoint())
        .env("WARRENGATE_CA", shared.stack.gateway_ca())
        .env("WARRENGATE_CLIENT_ID", client_id)
        .env("WARRENGATE_CLIENT_SECRET", secret.expose_secret())
        .env_remove("WARRENGATE_TOKEN")
        .env("WARRENGATE_NO_TOKEN_CACHE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs it to completion.
pub async fn run(mut command: Command, args: &[&str]) -> Output {
    within("a command", command.args(args).output()).await.unwrap()
}

/// Its output, if it succeeded.
pub async fn ok(command: Command, args: &[&str]) -> String {
    let output = run(command, args).await;
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}: {}\n{out}\n{err}", output.status);
    out
}

/// Its output with `--json`.
pub async fn json(command: Command, args: &[&str]) -> Value {
    let text = ok(command, &[args, &["--json"]].concat()).await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
}

/// The lines that it prints.
pub fn lines(child: &mut Child) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(child.stdout.take().expect("a pipe")).lines()
}
