//! The protocol between the benchmark and its client processes: a [`Job`] as a line of JSON in, an [`Outcome`] out.
//!
//! Certificates, keys and tokens are passed through the pipe, never as arguments, which other users could read.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How the messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// (a) Straight to the broker, as most programs do it: each publish is waited for, each delivery acknowledged alone.
    Ordinary,
    /// (b) Straight to the broker, as well as we can: publishes pipelined and written together, acknowledgements merged.
    Direct,
    /// (c) Through the gateway, with the public client.
    Gateway,
}

impl Path {
    /// In the order in which the first round takes them.
    pub const ALL: [Self; 3] = [Self::Ordinary, Self::Direct, Self::Gateway];

    /// As in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ordinary => "ordinary",
            Self::Direct => "direct",
            Self::Gateway => "gateway",
        }
    }
}

/// Which half is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Publishing with confirms.
    Publish,
    /// Consuming with acknowledgements, from a queue that was filled before.
    Consume,
    /// Both at once, by one application.
    Both,
}

impl Mode {
    /// As in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Consume => "consume",
            Self::Both => "both",
        }
    }

    pub(super) fn publishes(self) -> bool {
        self != Self::Consume
    }

    pub(super) fn consumes(self) -> bool {
        self != Self::Publish
    }
}

/// How much is sent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Load {
    /// As much as goes, for so many seconds.
    Full { seconds: f64 },
    /// So many messages a second at times fixed beforehand, whether the last ones came through or not.
    Rate { per_second: f64, seconds: f64 },
    /// Until so many messages were consumed.
    Drain { messages: u64 },
    /// Subscriptions are opened and held; nothing is sent.
    Idle,
    /// Subscriptions are opened, take what their windows allow, and acknowledge nothing.
    Hoard,
}

/// Where everything is.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Doors {
    /// `https://host:port`.
    pub(super) gateway: String,
    pub(super) gateway_ca: String,
    pub(super) broker_host: String,
    pub(super) broker_port: u16,
    pub(super) broker_ca: String,
}

/// A tenant, as both ways in know it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) vhost: String,
    pub(super) certificate: String,
    pub(super) key: String,
    pub(super) token: String,
    /// One stream each way for each of them.
    pub(super) queues: Vec<String>,
}

/// One measurement by one process.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) path: Path,
    pub(super) mode: Mode,
    pub(super) load: Load,
    /// Bytes of a body.
    pub(super) size: usize,
    /// Most messages in a frame of a publish stream.
    pub(super) frame: usize,
    /// Stream queues are read from their beginning.
    pub(super) is_stream_queue: bool,
    pub(super) tuning: Tuning,
    pub(super) doors: Doors,
    pub(super) accounts: Vec<Account>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("path", &self.path).field("load", &self.load).finish_non_exhaustive()
    }
}

/// What a client may choose for itself. The defaults are a first guess, not measured yet: a run that varies them comes before any claim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tuning {
    /// Publishing channels of the best direct client, for one stream.
    pub direct_channels: usize,
    /// Publishes written together by the best direct client.
    pub direct_batch: usize,
    /// Unconfirmed messages of a stream, all clients alike.
    pub window: usize,
    /// Unacknowledged deliveries of a stream, all clients alike.
    pub prefetch: u16,
    /// Deliveries acknowledged at once, where they are merged.
    pub ack_every: usize,
    /// Threads of the client's runtime; nothing for as many as there are processors.
    pub threads: Option<usize>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { direct_channels: 2, direct_batch: 64, window: 1_000, prefetch: 1_000, ack_every: 100, threads: None }
    }
}

/// Body bytes of a stream that may be unanswered, or unacknowledged.
const WINDOW_BYTES: usize = 32 << 20;
/// Body bytes between publishing and consuming.
const BACKLOG_BYTES: usize = 128 << 20;
/// Messages between publishing and consuming, where one process does both: a queue that only grows would measure
/// something else.
const BACKLOG: usize = 10_000;

impl Tuning {
    /// With windows that bodies of this size do not blow up.
    pub(super) fn for_size(&self, size: usize) -> Self {
        let most = (WINDOW_BYTES / size.max(1)).max(16);
        let window = self.window.min(most);
        Self {
            window,
            direct_batch: self.direct_batch.min(window.div_ceil(4)),
            prefetch: self.prefetch.min(u16::try_from(most).unwrap_or(u16::MAX)),
            ..self.clone()
        }
    }
}

impl Job {
    /// Most messages between publishing and consuming.
    pub(super) fn backlog(&self) -> u64 {
        BACKLOG.min((BACKLOG_BYTES / self.size.max(1)).max(64)) as u64
    }
}

/// What a client process did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// From the word "go" to the last outcome and the last acknowledgement.
    pub(super) seconds: f64,
    pub(super) published: u64,
    pub(super) confirmed: u64,
    /// Published, with another outcome than a confirm.
    pub(super) refused: u64,
    pub(super) consumed: u64,
    /// From when a message was due to its arrival at the consumer.
    pub(super) end_to_end: Latencies,
    /// From when a message was due to its confirm.
    pub(super) confirm: Latencies,
    /// Why it stopped early.
    pub(super) error: Option<String>,
}

/// Latencies in microseconds, as (value, how often).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Latencies(pub(super) Vec<(u64, u64)>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_bodies_have_small_windows() {
        let small = Tuning::default().for_size(256);
        assert_eq!((small.window, small.prefetch, small.direct_batch), (1_000, 1_000, 64));
        let large = Tuning::default().for_size(1 << 20);
        assert_eq!((large.window, large.prefetch, large.direct_batch), (32, 32, 8));
        assert_eq!(Tuning::default().for_size(1 << 26).window, 16);
    }
}
