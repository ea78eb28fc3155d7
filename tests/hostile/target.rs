//! The gateway under attack: a `warrengate serve` process on free ports, and its memory.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};
use warrengate::{pki::Item, stack::Stack};

use crate::wait::within;

/// `limits.max_buffered_bytes` of the gateway under attack.
pub const BUDGET: u64 = 256 << 20;
/// The share of one tenant.
pub const SHARE: u64 = BUDGET / 2;

pub struct Target {
    child: Child,
    pub grpc: SocketAddr,
    pub ops: SocketAddr,
    pub console: SocketAddr,
}

impl Target {
    pub async fn start(stack: &Stack) -> Self {
        let certs = stack.certs();
        let built = || env!("CARGO_BIN_EXE_warrengate").into();
        let mut child = Command::new(std::env::var_os("WARRENGATE_HOSTILE_GATEWAY").unwrap_or_else(built))
            .arg("serve")
            .envs(stack.settings().iter().cloned())
            .env("WARRENGATE_LIMITS__MAX_BUFFERED_BYTES", format!("{}MiB", BUDGET >> 20))
            .env("WARRENGATE_TELEMETRY__LOG_FORMAT", "json")
            .env("WARRENGATE_CONSOLE__LISTEN", "127.0.0.1:0")
            .env("WARRENGATE_CONSOLE__CERTIFICATE", certs.certificate(Item::Gateway))
            .env("WARRENGATE_CONSOLE__KEY", certs.key(Item::Gateway))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let (grpc, ops, console) = within("the gateway to start", async {
            let mut listening = None;
            loop {
                let line = log.next_line().await.unwrap().expect("the gateway starts");
                let line: Value = serde_json::from_str(&line).unwrap_or_default();
                let address = |name: &str| line[name].as_str().and_then(|text| text.parse().ok());
                if let (Some(grpc), Some(ops)) = (address("grpc"), address("ops")) {
                    listening = Some((grpc, ops));
                }
                if let (Some((grpc, ops)), Some(console)) = (listening, address("console")) {
                    return (grpc, ops, console);
                }
            }
        })
        .await;
        // The process would stop at a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        Self { child, grpc, ops, console }
    }

    pub fn endpoint(&self) -> String {
        format!("https://{}", self.grpc)
    }

    /// Starts measuring the peak of its memory.
    pub async fn measure(&self) -> Peak<'_> {
        // Memory that earlier attacks used is returned to the system within seconds.
        let mut start = self.memory("VmRSS:");
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = self.memory("VmRSS:");
            if now + (1 << 20) >= start {
                break;
            }
            start = now;
        }
        let start = self.memory("VmRSS:");
        // Resets VmHWM (proc(5)).
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.id()), "5");
        Peak { target: self, start }
    }

    /// The most bytes that are charged to its memory budget during this work, its most threads, and the result of the
    /// work.
    pub async fn most_during<T>(&self, work: impl Future<Output = T>) -> (f64, u64, T) {
        let (mut charged, mut threads) = (0_f64, 0);
        let sampling = async {
            loop {
                charged = charged.max(self.buffered().await.0);
                threads = threads.max(self.threads());
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        let result = tokio::select! {
            result = work => result,
            () = sampling => unreachable!("it does not end"),
        };
        (charged, threads, result)
    }

    /// Its threads.
    pub fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    /// The bytes charged to its memory budget, and their limit, from its metrics.
    pub async fn buffered(&self) -> (f64, f64) {
        let text = match reqwest::get(format!("http://{}/metrics", self.ops)).await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        };
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
        };
        (value("warrengate_buffered_bytes"), value("warrengate_buffered_bytes_limit"))
    }

    fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Bytes of memory.
    fn memory(&self, field: &str) -> u64 {
        1024 * self.status(field)
    }

    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("Linux");
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

/// The memory of the gateway since a point in time.
pub struct Peak<'a> {
    target: &'a Target,
    start: u64,
}

impl Peak<'_> {
    /// The largest growth of its resident memory, in bytes.
    pub fn growth(&self) -> u64 {
        self.target.memory("VmHWM:").saturating_sub(self.start)
    }
}

/// Bytes as text.
pub fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
