//! `warrengate dev`: it starts, tests itself, keeps its state, and leaves nothing running.

use std::{path::Path, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::harness::{
    installation,
    wait::{until, within, within_minutes},
};

/// Ports that were free when they were checked.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: Vec<_> = (0..N).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    std::array::from_fn(|n| listeners[n].local_addr().unwrap().port())
}

struct Dev {
    folder: tempfile::TempDir,
    ports: [u16; 4],
}

impl Dev {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("dev").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self { folder, ports: free_ports() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let [grpc, ops, amqps, management] = self.ports;
        let mut command = Command::new(env!("CARGO_BIN_EXE_warrengate"));
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for name in ["ENDPOINT", "CA", "CLIENT_ID", "CLIENT_SECRET", "TOKEN"] {
            command.env_remove(format!("WARRENGATE_{name}"));
        }
        command.args(args).kill_on_drop(true);
        if args.first() == Some(&"dev") {
            command.args(["--grpc", &format!("127.0.0.1:{grpc}"), "--ops", &format!("127.0.0.1:{ops}")]);
            command.args(["--amqps-port", &amqps.to_string(), "--management-port", &management.to_string()]);
            if let Some(broker) = installation() {
                command.arg("--broker").arg(broker);
            }
        }
        command
    }

    /// Runs it until it reports that it is ready.
    async fn ready(&self) -> Child {
        let mut dev = self.command(&["dev"]).stderr(Stdio::inherit()).spawn().unwrap();
        let mut lines = BufReader::new(dev.stdout.take().unwrap()).lines();
        within_minutes("dev to be ready", 3, async {
            loop {
                let line = lines.next_line().await.unwrap().expect("dev reports that it is ready before it ends");
                if line.contains("ready at") {
                    break;
                }
            }
        })
        .await;
        // Output is read to the end, because a closed pipe would end the process.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        dev
    }

    async fn run(&self, args: &[&str]) -> String {
        let output = within_minutes("a command", 3, self.command(args).output()).await.unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{args:?}: {}\n{out}\n{err}", output.status);
        out
    }

    /// Processes that were started for this folder, which their environment or arguments contain.
    fn remaining(&self) -> Vec<String> {
        let folder = self.folder.path().display().to_string();
        if !cfg!(target_os = "linux") {
            // With the environment of this user's processes.
            let ps = std::process::Command::new("ps").args(["-A", "-E", "-ww", "-o", "command="]).output().unwrap();
            let all = String::from_utf8_lossy(&ps.stdout).into_owned();
            return all.lines().filter(|line| line.contains(&folder)).map(str::to_owned).collect();
        }
        let mut remaining = Vec::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let read = |file: &str| {
                let bytes = std::fs::read(entry.path().join(file)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).replace('\0', " ")
            };
            let words = read("cmdline");
            // A zombie has no arguments.
            if !words.is_empty() && (words.contains(&folder) || read("environ").contains(&folder)) {
                remaining.push(words);
            }
        }
        remaining
    }

    async fn wait_until_nothing_remains(&self) {
        until("no remaining processes", async || self.remaining().is_empty().then_some(())).await;
    }
}

async fn signal(child: &Child, name: &str) {
    let id = child.id().unwrap().to_string();
    assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().await.unwrap().success());
}

#[tokio::test]
async fn dev_keeps_tenants_and_messages_over_a_restart_and_leaves_nothing_running() {
    let dev = Dev::new();
    let mut first = dev.ready().await;
    assert!(!dev.remaining().is_empty(), "this test must see what runs");
    dev.run(&["queue", "declare", "orders"]).await;
    dev.run(&["publish", "--queue", "orders", "saved"]).await;
    let globex =
        within("globex", dev.command(&["subscribe", "orders", "--as", "globex", "--count", "1"]).output()).await;
    assert_eq!(globex.unwrap().status.code(), Some(1));
    signal(&first, "INT").await;
    assert!(within("dev to stop", first.wait()).await.unwrap().success());
    dev.wait_until_nothing_remains().await;

    let mut second = dev.ready().await;
    assert_eq!(dev.run(&["subscribe", "orders", "--count", "1"]).await.trim_end(), "saved");
    // Even a crash of the whole process leaves no broker behind.
    signal(&second, "KILL").await;
    within("dev to exit", second.wait()).await.unwrap();
    dev.wait_until_nothing_remains().await;
    assert!(Path::new(&dev.folder.path().join(".warrengate/dev.env")).exists());
}

#[tokio::test]
async fn dev_smoke_test_checks_the_stack_and_exits() {
    let dev = Dev::new();
    let out = dev.run(&["dev", "--smoke"]).await;
    assert!(out.contains("globex was refused"), "{out}");
    dev.wait_until_nothing_remains().await;
    let again = dev.run(&["dev", "--smoke", "--reset", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!(json["proof"]["cross_tenant_refusal"], "QUEUE_NOT_FOUND", "{json}");
    dev.wait_until_nothing_remains().await;
}

#[tokio::test]
async fn a_reset_does_not_destroy_the_state_of_a_running_dev() {
    let dev = Dev::new();
    let mut first = dev.ready().await;
    let before = std::fs::read_to_string(dev.folder.path().join(".warrengate/dev.env")).unwrap();
    for args in [&["dev", "--reset"][..], &["dev"]] {
        let refused = within("the second dev", dev.command(args).output()).await.unwrap();
        let text = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(1), "{text}");
        assert_eq!(text.matches("another `warrengate dev` is using").count(), 1, "{text}");
    }
    assert_eq!(std::fs::read_to_string(dev.folder.path().join(".warrengate/dev.env")).unwrap(), before);
    dev.run(&["queue", "list"]).await;
    signal(&first, "TERM").await;
    assert!(within("dev to stop", first.wait()).await.unwrap().success());
    dev.wait_until_nothing_remains().await;
}

#[tokio::test]
async fn dev_survives_rotated_secrets() {
    let dev = Dev::new();
    let file = dev.folder.path().join(".warrengate/dev.env");
    let mut first = dev.ready().await;
    // The command updates the file.
    dev.run(&["client", "rotate-secret", "admin"]).await;
    dev.run(&["tenant", "list"]).await;
    // From another folder, there is no file to update.
    let saved = std::fs::read_to_string(&file).unwrap();
    for client in ["acme.app", "admin"] {
        dev.run(&["client", "rotate-secret", client]).await;
    }
    signal(&first, "INT").await;
    assert!(within("dev to stop", first.wait()).await.unwrap().success());
    std::fs::write(&file, saved).unwrap();
    let mut second = dev.ready().await;
    dev.run(&["tenant", "list"]).await;
    dev.run(&["queue", "list"]).await;
    signal(&second, "INT").await;
    assert!(within("dev to stop", second.wait()).await.unwrap().success());
}

#[tokio::test]
async fn dev_chooses_free_ports_and_reports_them_as_json() {
    let dev = Dev::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_warrengate"));
    command.current_dir(dev.folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command.args(["dev", "--ports", "auto", "--json"]);
    if let Some(broker) = installation() {
        command.arg("--broker").arg(broker);
    }
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within_minutes("dev to be ready", 3, lines.next_line()).await.unwrap().expect("a line");
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["event"], "ready", "{ready}");
    let endpoint = ready["endpoint"].as_str().unwrap();
    assert!(endpoint.starts_with("https://127.0.0.1:") && !endpoint.ends_with(":8443"), "{ready}");
    let environment = std::fs::read_to_string(ready["environment"].as_str().unwrap()).unwrap();
    assert!(environment.contains(endpoint), "{environment}");
    dev.run(&["queue", "list"]).await;
    signal(&child, "TERM").await;
    assert!(within("dev to stop", child.wait()).await.unwrap().success());
    dev.wait_until_nothing_remains().await;
}
