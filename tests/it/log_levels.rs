//! Changing the log filter at runtime by the file and SIGHUP, as docs/operations.md describes.

use std::process::Stdio;

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{ChildStderr, Command},
};
use warrengate::client::Credentials;

use crate::harness::{SharedStack, Tenant, wait::within};

/// The next line with this message.
async fn line(log: &mut Lines<BufReader<ChildStderr>>, message: &str) -> Value {
    within(message, async {
        loop {
            let line = log.next_line().await.unwrap().expect("the gateway runs");
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["message"] == message {
                return line;
            }
            // The current filter excludes this line.
            assert_ne!(line["message"], "call ended", "{line}");
        }
    })
    .await
}

#[tokio::test]
async fn sighup_changes_the_log_filter_by_target_and_an_invalid_filter_changes_nothing() {
    let shared = SharedStack::get();
    let tenant = Tenant::fresh().await;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = folder.path().join("warrengate.toml");
    let filter = |text: &str| std::fs::write(&file, format!("[telemetry]\nlog = \"{text}\"\n")).unwrap();
    filter("warn,warrengate::cli=info");
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_warrengate"))
        .args(["serve", "--config"])
        .arg(&file)
        .envs(shared.stack.settings().iter().cloned())
        .env("WARRENGATE_GRPC__LISTEN", "127.0.0.1:0")
        .env("WARRENGATE_OPS__LISTEN", "127.0.0.1:0")
        .env("WARRENGATE_TELEMETRY__LOG_FORMAT", "json")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pid = gateway.id().unwrap().to_string();
    let signal =
        |name: &str| assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    let mut log = BufReader::new(gateway.stderr.take().unwrap()).lines();
    let up = line(&mut log, "gateway started").await;
    let credentials = Credentials::Secret { client_id: tenant.client_id.clone(), secret: tenant.secret.clone() };
    let client = shared.client_at(&format!("https://{}", up["grpc"].as_str().unwrap()), credentials).await;
    let call = async || client.auth().who_am_i(warrengate::pb::WhoAmIRequest {}).await.unwrap();

    // No calls are logged until the filter includes them.
    call().await;
    filter("warn,warrengate::cli=info,warrengate::transport=debug");
    signal("-HUP");
    line(&mut log, "log filter reloaded").await;
    call().await;
    let ended = line_of_call(&mut log).await;
    assert_eq!(
        (ended["level"].as_str(), ended["target"].as_str()),
        (Some("DEBUG"), Some("warrengate::transport::trace"))
    );
    let span = &ended["span"];
    assert_eq!((span["tenant"].as_str(), span["client"].as_str()), (Some(&*tenant.id), Some(&*tenant.client_id)));
    assert_eq!(span["trace_id"].as_str().map(str::len), Some(32), "{ended}");

    filter("an=invalid=filter");
    signal("-HUP");
    loop {
        let entry: Value = serde_json::from_str(&within("a line", log.next_line()).await.unwrap().unwrap()).unwrap();
        if entry["message"] == "invalid log filter ignored" {
            break;
        }
    }
    call().await;
    line_of_call(&mut log).await;
    signal("-TERM");
    let rest = tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
    assert!(within("the end", gateway.wait()).await.unwrap().success());
    rest.await.unwrap();
}

async fn line_of_call(log: &mut Lines<BufReader<ChildStderr>>) -> Value {
    within("the line of a call", async {
        loop {
            let line = log.next_line().await.unwrap().expect("the gateway runs");
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["message"] == "call ended"
                && line["span"]["method"].as_str().is_some_and(|it| it.contains("WhoAmI"))
            {
                return line;
            }
        }
    })
    .await
}
