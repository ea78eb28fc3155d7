//! A Jaeger of the test's own, found or built by scripts/jaeger; none where neither is possible.

use std::{path::Path, process::Stdio};

use serde_json::Value;
use tokio::process::{Child, Command};

use super::wait::{until, within_minutes};

pub struct Jaeger {
    /// Ends with it.
    _process: Child,
    pub otlp: String,
    pub otlp_http: String,
    pub query: String,
}

impl Jaeger {
    /// Prints why when there is none.
    #[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
    pub async fn start() -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/jaeger");
        let mut find = Command::new(script);
        find.arg("path").stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let found = within_minutes("scripts/jaeger", 20, find.output()).await.unwrap();
        if found.status.code() == Some(77) {
            eprintln!("{}", String::from_utf8_lossy(&found.stderr));
            return None;
        }
        assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
        let program = String::from_utf8(found.stdout).unwrap();
        let [query, grpc, http] = free_ports();
        let ports = [
            ("query.http-server", query),
            ("query.grpc-server", 0),
            ("collector.otlp.grpc", grpc),
            ("collector.otlp.http", http),
            ("collector.grpc-server", 0),
            ("collector.http-server", 0),
            ("admin.http", 0),
        ];
        let process = Command::new(program.trim())
            .args(ports.map(|(name, port)| format!("--{name}.host-port=127.0.0.1:{port}")))
            .args(["--collector.otlp.enabled=true", "--log-level=error"])
            .env("OTEL_TRACES_SAMPLER", "always_off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let jaeger = Self {
            _process: process,
            otlp: format!("http://127.0.0.1:{grpc}"),
            otlp_http: format!("http://127.0.0.1:{http}/v1/traces"),
            query: format!("http://127.0.0.1:{query}"),
        };
        until("Jaeger answers", async || reqwest::get(format!("{}/api/services", jaeger.query)).await.ok()).await;
        Some(jaeger)
    }

    /// A trace's spans, when there are so many.
    pub async fn trace(&self, id: &str, spans: usize) -> Vec<Value> {
        let url = format!("{}/api/traces/{id}", self.query);
        until(&format!("{spans} spans of trace {id} in Jaeger"), async || {
            let answer: Value = serde_json::from_str(&reqwest::get(&url).await.ok()?.text().await.ok()?).ok()?;
            let found = answer["data"][0]["spans"].as_array()?.clone();
            (found.len() >= spans).then_some(found)
        })
        .await
    }
}

/// Of the loopback address; taken by whoever is first, which here is Jaeger.
fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
