//! The protocol between the benchmark and its client processes: a [`Job`] as a line of JSON in, an [`Outcome`] out.
//!
//! Certificates, keys and tokens are passed through the pipe, never as arguments, which other users could read.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The path that messages take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// (a) Direct to the broker, as most programs do it: each publish is awaited, each delivery acknowledged
    /// separately.
    Ordinary,
    /// (b) Direct to the broker, tuned: publishes are pipelined and written together, acknowledgements batched.
    Direct,
    /// (c) Through the gateway, with the public client.
    Gateway,
}

impl Path {
    /// In the order of the first round.
    pub const ALL: [Self; 3] = [Self::Ordinary, Self::Direct, Self::Gateway];

    /// The name in the JSON report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ordinary => "ordinary",
            Self::Direct => "direct",
            Self::Gateway => "gateway",
        }
    }
}

/// Which direction is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Publishing with confirms.
    Publish,
    /// Consuming with acknowledgements, from a queue that was filled before.
    Consume,
    /// Both at the same time, by one application.
    Both,
}

impl Mode {
    /// The name in the JSON report.
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
    /// As many messages as possible, for this time.
    Full { seconds: f64 },
    /// Messages per second at times fixed in advance, whether or not earlier ones have arrived.
    Rate { per_second: f64, seconds: f64 },
    /// Until this number of messages has been consumed.
    Drain { messages: u64 },
    /// Streams of the job's direction are opened and kept open; a publish stream sends one message.
    Idle,
    /// Subscriptions are opened, receive what their windows allow, and acknowledge nothing.
    Hoard,
}

/// The addresses and authorities of the gateway and the broker.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Endpoints {
    /// `https://host:port`.
    pub(super) gateway: String,
    pub(super) gateway_ca: String,
    pub(super) broker_host: String,
    pub(super) broker_port: u16,
    pub(super) broker_ca: String,
}

/// A tenant's credentials for the gateway and for the broker.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) vhost: String,
    pub(super) certificate: String,
    pub(super) key: String,
    pub(super) token: String,
    /// The queue of each stream; one publishing and one consuming stream for each entry.
    pub(super) queues: Vec<String>,
}

/// One measurement by one client process.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) path: Path,
    pub(super) mode: Mode,
    pub(super) load: Load,
    /// The size of a body in bytes.
    pub(super) size: usize,
    /// The sizes of the bodies in turn, if they differ; [`Self::size`] is their mean.
    pub(super) sizes: Vec<usize>,
    /// The maximum number of messages in a frame of a publish stream.
    pub(super) frame: usize,
    /// Stream queues are read from their beginning.
    pub(super) is_stream_queue: bool,
    pub(super) tuning: Tuning,
    pub(super) endpoints: Endpoints,
    pub(super) accounts: Vec<Account>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("path", &self.path).field("load", &self.load).finish_non_exhaustive()
    }
}

/// What a client may choose for itself. The defaults are estimates that were not optimised: vary them before making a
/// claim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tuning {
    /// Publishing channels of the tuned direct client, for one stream.
    pub direct_channels: usize,
    /// Publishes that the tuned direct client writes together.
    pub direct_batch: usize,
    /// Maximum unconfirmed messages of a stream, for all clients.
    pub window: usize,
    /// Maximum unacknowledged deliveries of a stream, for all clients.
    pub prefetch: u16,
    /// Deliveries acknowledged together, where acknowledgements are batched.
    pub ack_every: usize,
    /// Threads of the client's runtime; `None` for the number of processors.
    pub threads: Option<usize>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { direct_channels: 2, direct_batch: 64, window: 1_000, prefetch: 1_000, ack_every: 100, threads: None }
    }
}

/// Maximum body bytes of a stream that are unanswered or unacknowledged.
const WINDOW_BYTES: usize = 32 << 20;
/// Maximum body bytes between publishing and consuming.
const BACKLOG_BYTES: usize = 128 << 20;
/// Maximum messages between publishing and consuming, when one process does both: a growing queue would distort the
/// measurement.
const BACKLOG: usize = 10_000;

impl Tuning {
    /// The same settings with windows reduced for bodies of this size.
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
    /// The maximum number of messages between publishing and consuming.
    pub(super) fn backlog(&self) -> u64 {
        BACKLOG.min((BACKLOG_BYTES / self.size.max(1)).max(64)) as u64
    }
}

/// The result of a client process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// From "go" to the last outcome and the last acknowledgement.
    pub(super) seconds: f64,
    pub(super) published: u64,
    pub(super) confirmed: u64,
    /// Messages with an outcome other than a confirm.
    pub(super) refused: u64,
    pub(super) consumed: u64,
    /// From when a message was due until it arrived at the consumer.
    pub(super) end_to_end: Latencies,
    /// From when a message was due until its confirm.
    pub(super) confirm: Latencies,
    /// Why it stopped early.
    pub(super) error: Option<String>,
}

/// Latencies in microseconds, as pairs of value and count.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Latencies(pub(super) Vec<(u64, u64)>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_shrink_for_large_bodies() {
        let small = Tuning::default().for_size(256);
        assert_eq!((small.window, small.prefetch, small.direct_batch), (1_000, 1_000, 64));
        let large = Tuning::default().for_size(1 << 20);
        assert_eq!((large.window, large.prefetch, large.direct_batch), (32, 32, 8));
        assert_eq!(Tuning::default().for_size(1 << 26).window, 16);
    }
}
