//! One tenant's counters. A stream resolves them once and holds them; each event costs an atomic addition, a duration the
//! short lock of its histogram. Gauges are guarded: what a stream added goes with the stream.

use std::{fmt, time::Duration};

use super::{
    encode::{Encoder, metric},
    latency::{LONG, Latency, SHORT},
    names,
    values::{Counter, Gauge},
};
use crate::pb::Outcome;

const OUTCOMES: [(Outcome, &str); 6] = [
    (Outcome::Confirmed, "confirmed"),
    (Outcome::Unroutable, "unroutable"),
    (Outcome::Rejected, "rejected"),
    (Outcome::Denied, "denied"),
    (Outcome::Throttled, "throttled"),
    (Outcome::Unknown, "unknown"),
];

/// A closed list of label values: each variant has its place in an array of handles, and its word.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$what])* $variant,)* }

        impl $name {
            pub(super) const WORDS: &[&str] = &[$($word),*];

            /// The value of the label.
            pub const fn as_str(self) -> &'static str {
                Self::WORDS[self as usize]
            }
        }
    };
}
pub(super) use labels;

labels! {
    /// How a delivery was settled.
    Settlement {
        /// It is done.
        Ack = "ack",
        /// It comes again.
        Retry = "retry",
        /// It went to the dead letters.
        DeadLetter = "dead_letter",
        /// It was thrown away.
        Drop = "drop",
        /// It was taken back: the stream ended, or its lease did.
        TakenBack = "taken_back",
    }
}

labels! {
    /// Why a message was moved to the dead letters.
    DeadLetterReason {
        /// A consumer said so.
        Rejected = "rejected",
        /// It had as many attempts as its queue allows.
        DeliveryLimit = "delivery_limit",
        /// Its queue is gone.
        QueueDeleted = "queue_deleted",
    }
}

labels! {
    /// A limit of a plan.
    Limit {
        /// Open streams.
        Streams = "streams",
        /// Messages a second.
        Messages = "messages",
        /// Body bytes a second.
        Bytes = "bytes",
        /// Messages in flight.
        InFlightMessages = "in_flight_messages",
        /// Their bytes.
        InFlightBytes = "in_flight_bytes",
    }
}

labels! {
    /// Which way a stream's messages go.
    StreamKind {
        /// In.
        Publish = "publish",
        /// Out.
        Subscribe = "subscribe",
        /// From the dead letters back to their queues.
        Redrive = "redrive",
    }
}

/// One tenant's handles.
#[derive(Debug, Clone)]
pub struct TenantMetrics {
    published: [Counter; OUTCOMES.len()],
    published_bytes: Counter,
    delivered: Counter,
    delivered_bytes: Counter,
    redelivered: Counter,
    settled: [Counter; Settlement::WORDS.len()],
    dead_lettered: [Counter; DeadLetterReason::WORDS.len()],
    throttled: [Counter; Limit::WORDS.len()],
    reauthenticated: Counter,
    open: [Gauge; StreamKind::WORDS.len()],
    in_flight: [Gauge; StreamKind::WORDS.len()],
    in_flight_bytes: [Gauge; StreamKind::WORDS.len()],
    limits: [Gauge; Limit::WORDS.len()],
    confirm: Latency,
    end_to_end: Latency,
}

impl TenantMetrics {
    pub(super) fn new() -> Self {
        Self {
            published: Default::default(),
            published_bytes: Counter::default(),
            delivered: Counter::default(),
            delivered_bytes: Counter::default(),
            redelivered: Counter::default(),
            settled: Default::default(),
            dead_lettered: Default::default(),
            throttled: Default::default(),
            reauthenticated: Counter::default(),
            open: Default::default(),
            in_flight: Default::default(),
            in_flight_bytes: Default::default(),
            limits: Default::default(),
            confirm: Latency::new(&SHORT),
            end_to_end: Latency::new(&LONG),
        }
    }

    /// Messages had this outcome.
    pub fn published(&self, outcome: Outcome, count: u64) {
        for ((which, _), counter) in OUTCOMES.iter().zip(&self.published) {
            if *which == outcome {
                counter.inc_by(count);
            }
        }
    }

    /// Body bytes were taken for publishing.
    pub fn published_bytes(&self, bytes: u64) {
        self.published_bytes.inc_by(bytes);
    }

    /// The broker confirmed a message after this time. A trace that is kept becomes an exemplar.
    pub fn confirmed_after(&self, duration: Duration, trace: Option<String>) {
        self.confirm.observe(duration, trace);
    }

    /// Messages were delivered, of which some may have been before.
    pub fn delivered(&self, count: u64, bytes: u64, redelivered: u64) {
        self.delivered.inc_by(count);
        self.delivered_bytes.inc_by(bytes);
        self.redelivered.inc_by(redelivered);
    }

    /// A message was delivered for the first time, this long after it had arrived.
    pub fn arrived_after(&self, duration: Duration, trace: Option<String>) {
        self.end_to_end.observe(duration, trace);
    }

    /// Deliveries were settled.
    pub fn settled(&self, settlement: Settlement, count: u64) {
        self.settled[settlement as usize].inc_by(count);
    }

    /// A message was moved to the dead letters.
    pub fn dead_lettered(&self, reason: DeadLetterReason) {
        self.dead_lettered[reason as usize].inc();
    }

    /// Something was refused because of a limit.
    pub fn throttled(&self, limit: Limit, count: u64) {
        self.throttled[limit as usize].inc_by(count);
    }

    /// An open stream went on with a newer token.
    pub fn reauthenticated(&self) {
        self.reauthenticated.inc();
    }

    /// What the plan allows; 0 is unlimited.
    pub fn limit(&self, limit: Limit, value: u64) {
        self.limits[limit as usize].set(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// A stream is open until the guard is dropped.
    pub fn open_stream(&self, kind: StreamKind) -> OpenStream {
        self.open[kind as usize].inc();
        OpenStream {
            open: self.open[kind as usize].clone(),
            messages: Held::new(&self.in_flight[kind as usize]),
            bytes: Held::new(&self.in_flight_bytes[kind as usize]),
        }
    }
}

/// Counts an open stream, and what it has in flight, for as long as it lives.
#[derive(Debug)]
pub struct OpenStream {
    open: Gauge,
    messages: Held,
    bytes: Held,
}

impl OpenStream {
    /// What the stream has in flight now.
    pub fn holds(&mut self, messages: usize, bytes: usize) {
        self.messages.set(messages);
        self.bytes.set(bytes);
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// One stream's share of a gauge.
#[derive(Debug)]
struct Held {
    all: Gauge,
    own: i64,
}

impl Held {
    fn new(all: &Gauge) -> Self {
        Self { all: all.clone(), own: 0 }
    }

    fn set(&mut self, value: usize) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        if value != self.own {
            self.all.inc_by(value - self.own);
            self.own = value;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Writes all tenants' metrics.
pub(super) fn encode(encoder: &mut Encoder<'_>, tenants: &[(&str, &TenantMetrics)]) -> fmt::Result {
    // Each metric's samples must stand together.
    macro_rules! plain {
        ($($which:ident: $field:ident,)*) => {
            $(metric(encoder, &names::$which, |samples| {
                tenants.iter().try_for_each(|(tenant, metrics)| samples.add([("tenant", tenant)], &metrics.$field))
            })?;)*
        };
    }
    macro_rules! labelled {
        ($($which:ident: $field:ident by $words:expr,)*) => {
            $(metric(encoder, &names::$which, |samples| {
                for (tenant, metrics) in tenants {
                    for (word, value) in $words.zip(&metrics.$field) {
                        samples.add([("tenant", tenant), (names::$which.labels[1], word)], value)?;
                    }
                }
                Ok(())
            })?;)*
        };
    }
    let words = |words: &'static [&'static str]| words.iter().copied();
    labelled! { PUBLISHED: published by OUTCOMES.iter().map(|(_, word)| *word), }
    plain! {
        PUBLISHED_BYTES: published_bytes,
        DELIVERED: delivered,
        DELIVERED_BYTES: delivered_bytes,
        REDELIVERED: redelivered,
    }
    labelled! {
        SETTLED: settled by words(Settlement::WORDS),
        DEAD_LETTERED: dead_lettered by words(DeadLetterReason::WORDS),
        THROTTLED: throttled by words(Limit::WORDS),
    }
    plain! { REAUTHENTICATED: reauthenticated, }
    labelled! {
        OPEN_STREAMS: open by words(StreamKind::WORDS),
        IN_FLIGHT: in_flight by words(StreamKind::WORDS),
        IN_FLIGHT_BYTES: in_flight_bytes by words(StreamKind::WORDS),
    }
    metric(encoder, &names::PLAN_LIMIT, |samples| {
        for (tenant, metrics) in tenants {
            for (word, value) in words(Limit::WORDS).zip(&metrics.limits).filter(|(_, value)| value.get() > 0) {
                samples.add([("tenant", tenant), ("limit", word)], value)?;
            }
        }
        Ok(())
    })?;
    plain! { CONFIRM: confirm, END_TO_END: end_to_end, }
    Ok(())
}
