//! The broker's open consumers, channels and connections of all tenants, from its HTTP API.

use std::{collections::HashSet, time::Duration};

use anyhow::ensure;
use reqwest::{Certificate, Identity};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use warrengate::pki::{CertsDir, Item};
use warrengate_testkit::node::Node;

use crate::wait;

/// The broker updates its statistics every five seconds; idle connections are closed after five.
const TIMEOUT: Duration = Duration::from_secs(30);

pub struct Management {
    http: reqwest::Client,
    root: String,
    password: SecretString,
}

/// The open objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    pub connections: usize,
    pub channels: usize,
    pub consumers: usize,
}

impl std::fmt::Display for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} consumers on {} channels of {} connections", self.consumers, self.channels, self.connections)
    }
}

impl Open {
    pub fn is_empty(self) -> bool {
        self.connections + self.channels + self.consumers == 0
    }
}

impl Management {
    pub fn new(node: &Node, certs: &CertsDir, password: &SecretString) -> anyhow::Result<Self> {
        let mut identity = std::fs::read(certs.key(Item::Provisioner))?;
        identity.extend(std::fs::read(certs.certificate(Item::Provisioner))?);
        let ca = std::fs::read(certs.certificate(Item::BrokerCa))?;
        let http = reqwest::Client::builder()
            .tls_certs_only([Certificate::from_pem(&ca)?])
            .identity(Identity::from_pem(&identity)?)
            .timeout(Duration::from_secs(10))
            .build()?;
        let root = format!("https://127.0.0.1:{}/api", node.management_port());
        Ok(Self { http, root, password: password.clone() })
    }

    async fn rows(&self, what: &str) -> anyhow::Result<Vec<Value>> {
        let request = self.http.get(format!("{}/{what}", self.root));
        let answer =
            request.basic_auth(warrengate::pki::PROVISIONER, Some(self.password.expose_secret())).send().await?;
        ensure!(answer.status().is_success(), "{what}: {}", answer.status());
        Ok(serde_json::from_str(&answer.text().await?)?)
    }

    /// Queues that contain messages, except dead letters: `wg.f01 wg.delay.1000: 1 ready, 0 out`.
    pub async fn nonempty_queues(&self) -> anyhow::Result<Vec<String>> {
        let rows = self.rows("queues").await?;
        let number = |row: &Value, name: &str| row[name].as_u64().unwrap_or(0);
        let nonempty = rows.iter().filter(|row| row["name"] != "wg.dead-letters" && number(row, "messages") > 0);
        let text = |row: &Value| {
            let name = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            let (ready, out) = (number(row, "messages_ready"), number(row, "messages_unacknowledged"));
            let all = number(row, "messages");
            format!(
                "{} {}: {all} in all, {ready} ready, {out} out, led by {}",
                name("vhost"),
                name("name"),
                name("leader")
            )
        };
        Ok(nonempty.map(text).collect())
    }

    /// The open objects now. Statistics may be some seconds old. A channel without its connection is ignored:
    /// statistics that arrive after a channel's end remain for up to two minutes (RabbitMQ's
    /// `core_metrics_gc_interval`).
    pub async fn open(&self) -> anyhow::Result<Open> {
        let channels = self.rows("channels").await?;
        let connections = self.rows("connections").await?;
        let names: HashSet<_> = connections.iter().filter_map(|row| row["name"].as_str()).collect();
        let is_current =
            |row: &&Value| row["connection_details"]["name"].as_str().is_some_and(|name| names.contains(name));
        Ok(Open {
            connections: connections.len(),
            channels: channels.iter().filter(is_current).count(),
            consumers: self.rows("consumers").await?.len(),
        })
    }

    /// The open objects as soon as they satisfy the condition, or after the time limit.
    pub async fn until(&self, wanted: impl Fn(Open) -> bool) -> anyhow::Result<Open> {
        let mut last = self.open().await?;
        let _ = wait::until("the broker's statistics", TIMEOUT, async || {
            if let Ok(open) = self.open().await {
                last = open;
            }
            wanted(last)
        })
        .await;
        Ok(last)
    }
}
