//! The metrics of one tenant. A stream obtains their handles once. Each event costs an atomic addition, and a duration
//! also a short lock of its histogram. Gauges are updated by guards, so that a stream's part is removed with the
//! stream.

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

/// A fixed list of label values. Each variant has an index in an array of handles, and a name.
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
        /// It was acknowledged.
        Ack = "ack",
        /// It is delivered again after a back-off.
        Retry = "retry",
        /// It was moved to the dead letters.
        DeadLetter = "dead_letter",
        /// It was deleted.
        Drop = "drop",
        /// It returned to the queue, because its stream or its lease ended.
        TakenBack = "taken_back",
    }
}

labels! {
    /// Why a message was moved to the dead letters.
    DeadLetterReason {
        /// A consumer rejected it.
        Rejected = "rejected",
        /// It has used up the attempts that its queue allows.
        DeliveryLimit = "delivery_limit",
        /// Its queue was deleted.
        QueueDeleted = "queue_deleted",
    }
}

labels! {
    /// A limit of a plan.
    Limit {
        /// Open streams.
        Streams = "streams",
        /// Messages per second.
        Messages = "messages",
        /// Body bytes per second.
        Bytes = "bytes",
        /// Messages in flight.
        InFlightMessages = "in_flight_messages",
        /// Their bytes.
        InFlightBytes = "in_flight_bytes",
    }
}

labels! {
    /// The kind of a stream.
    StreamKind {
        /// A publish stream.
        Publish = "publish",
        /// A subscription.
        Subscribe = "subscribe",
        /// A redrive of dead letters.
        Redrive = "redrive",
    }
}

/// The metric handles of one tenant.
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

    /// Counts published messages by outcome.
    pub fn published(&self, outcome: Outcome, count: u64) {
        for ((which, _), counter) in OUTCOMES.iter().zip(&self.published) {
            if *which == outcome {
                counter.inc_by(count);
            }
        }
    }

    /// Counts body bytes that were accepted for publishing.
    pub fn published_bytes(&self, bytes: u64) {
        self.published_bytes.inc_by(bytes);
    }

    /// Records the time until the broker confirmed a message. A sampled trace becomes an exemplar.
    pub fn confirmed_after(&self, duration: Duration, trace: Option<String>) {
        self.confirm.observe(duration, trace);
    }

    /// Counts delivered messages and how many of them are redeliveries.
    pub fn delivered(&self, count: u64, bytes: u64, redelivered: u64) {
        self.delivered.inc_by(count);
        self.delivered_bytes.inc_by(bytes);
        self.redelivered.inc_by(redelivered);
    }

    /// Records the time from a message's arrival to its first delivery.
    pub fn arrived_after(&self, duration: Duration, trace: Option<String>) {
        self.end_to_end.observe(duration, trace);
    }

    /// Counts settled deliveries.
    pub fn settled(&self, settlement: Settlement, count: u64) {
        self.settled[settlement as usize].inc_by(count);
    }

    /// Counts a message that was moved to the dead letters.
    pub fn dead_lettered(&self, reason: DeadLetterReason) {
        self.dead_lettered[reason as usize].inc();
    }

    /// Counts streams or messages that were refused because of a limit.
    pub fn throttled(&self, limit: Limit, count: u64) {
        self.throttled[limit as usize].inc_by(count);
    }

    /// Counts the renewal of an open stream's token.
    pub fn reauthenticated(&self) {
        self.reauthenticated.inc();
    }

    /// Sets a limit of the plan; 0 is unlimited.
    pub fn limit(&self, limit: Limit, value: u64) {
        self.limits[limit as usize].set(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// Counts an open stream until the guard is dropped.
    pub fn open_stream(&self, kind: StreamKind) -> OpenStream {
        self.open[kind as usize].inc();
        OpenStream {
            open: self.open[kind as usize].clone(),
            messages: GaugePart::new(&self.in_flight[kind as usize]),
            bytes: GaugePart::new(&self.in_flight_bytes[kind as usize]),
        }
    }
}

/// Counts an open stream and its messages in flight until it is dropped.
#[derive(Debug)]
pub struct OpenStream {
    open: Gauge,
    messages: GaugePart,
    bytes: GaugePart,
}

impl OpenStream {
    /// Sets the stream's messages in flight and their bytes.
    pub fn set_in_flight(&mut self, messages: usize, bytes: usize) {
        self.messages.set(messages);
        self.bytes.set(bytes);
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// The part of one stream in a gauge.
#[derive(Debug)]
struct GaugePart {
    all: Gauge,
    own: i64,
}

impl GaugePart {
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

impl Drop for GaugePart {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Writes all tenants' metrics.
pub(super) fn encode(encoder: &mut Encoder<'_>, tenants: &[(&str, &TenantMetrics)]) -> fmt::Result {
    // The samples of each metric must be contiguous.
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
