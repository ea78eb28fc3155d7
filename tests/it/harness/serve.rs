//! A gateway in a separate process, as in production: `warrengate serve` with the broker and the store of a test's
//! stack.

use std::{
    net::SocketAddr,
    process::{ExitStatus, Stdio},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};
use warrengate::{client::Client, stack::Stack};

use super::{Tenant, dedicated::DedicatedStack, tenant::known, wait::within};

pub struct Serve {
    child: Child,
    pub grpc: SocketAddr,
    pub ops: SocketAddr,
}

impl Serve {
    /// Starts a gateway on a test's own stack, on free ports, with settings in addition to the stack's.
    pub async fn start(dedicated: &DedicatedStack, settings: &[(&str, &str)]) -> Self {
        Self::for_stack(&dedicated.stack, settings).await
    }

    /// The same for any stack.
    pub async fn for_stack(stack: &Stack, settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_warrengate"))
            .arg("serve")
            .envs(stack.settings().iter().cloned())
            .envs(settings.iter().copied())
            .env("WARRENGATE_TELEMETRY__LOG_FORMAT", "json")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let (grpc, ops) = within("the gateway to start", async {
            loop {
                let line = log.next_line().await.unwrap().expect("the gateway starts");
                let line: Value = serde_json::from_str(&line).unwrap_or_default();
                let address = |name: &str| line[name].as_str().and_then(|text| text.parse().ok());
                if let (Some(grpc), Some(ops)) = (address("grpc"), address("ops")) {
                    return (grpc, ops);
                }
            }
        })
        .await;
        // A full pipe would block it.
        let aloud = std::env::var_os("WARRENGATE_TEST_LOG").is_some();
        tokio::spawn(async move {
            while let Ok(Some(line)) = log.next_line().await {
                if aloud {
                    eprintln!("{line}");
                }
            }
        });
        Self { child, grpc, ops }
    }

    pub fn endpoint(&self) -> String {
        format!("https://{}", self.grpc)
    }

    /// A client of this tenant, once this gateway has loaded it.
    pub async fn client(&self, dedicated: &DedicatedStack, tenant: &Tenant) -> Client {
        let client = dedicated.client_at(&self.endpoint(), &tenant.client_id, &tenant.secret).await;
        known(&client).await;
        client
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let done = std::process::Command::new("kill").args(["-s", "TERM", &self.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Waits until the process has exited.
    pub async fn ended(&mut self) -> ExitStatus {
        within("the gateway's end", self.child.wait()).await.unwrap()
    }

    /// The HTTP status of its readiness.
    pub async fn readiness(&self) -> u16 {
        reqwest::get(format!("http://{}/readyz", self.ops)).await.unwrap().status().as_u16()
    }

    /// Its memory in bytes.
    pub fn resident(&self) -> u64 {
        // In kilobytes on Linux and macOS.
        let ps = std::process::Command::new("ps").args(["-o", "rss=", "-p", &self.id().to_string()]).output().unwrap();
        String::from_utf8_lossy(&ps.stdout).trim().parse::<u64>().unwrap() * 1024
    }

    /// The number of its threads that serve a connection to the broker; `None` where thread names cannot be read.
    pub fn broker_threads(&self) -> Option<usize> {
        if !cfg!(target_os = "linux") {
            return None;
        }
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        let name =
            |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("comm")).ok();
        Some(tasks.filter_map(name).filter(|name| name.trim() == "lapin-io-loop").count())
    }
}
