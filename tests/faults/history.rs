//! The recorded history of every message and every stream, reported by publishers and consumers of this and other
//! processes.
//!
//! Facts are only ever added.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use warrengate::pb::Outcome;

use crate::message::Disposition;

/// A stream's number.
pub type StreamId = usize;

/// How a consumer settled a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Settlement {
    Ack,
    Retry,
}

/// An observation of a consumer, which may be sent through a pipe.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub enum Observation {
    /// The stream was opened, for the first time or again.
    Started,
    Delivered {
        id: String,
        attempt: u32,
        redelivered: bool,
    },
    Settled {
        id: String,
        settlement: Settlement,
    },
    Interrupted {
        reason: String,
    },
    Resumed,
    /// The stream failed, and the application opens it again.
    Failed {
        error: String,
    },
    /// A delivery with unexpected content.
    Wrong {
        what: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Publish,
    Subscribe,
}

/// A delivery of a message.
#[derive(Debug, Clone)]
pub struct Delivered {
    pub stream: StreamId,
    pub attempt: u32,
    pub at: Instant,
    pub settled: Option<(Settlement, Instant)>,
}

/// Everything recorded about one message.
#[derive(Debug, Clone)]
pub struct Message {
    pub disposition: Disposition,
    pub sent: Instant,
    pub outcome: Option<(Outcome, String)>,
    pub deliveries: Vec<Delivered>,
}

impl Message {
    pub fn is_confirmed(&self) -> bool {
        matches!(self.outcome, Some((Outcome::Confirmed, _)))
    }

    pub fn is_done(&self) -> bool {
        self.deliveries.iter().any(|delivery| matches!(delivery.settled, Some((Settlement::Ack, _))))
    }

    /// The time of the last event.
    pub fn last(&self) -> Instant {
        self.deliveries.last().map_or(self.sent, |delivery| delivery.at)
    }

    /// How often a consumer requested a retry.
    pub fn retries(&self) -> usize {
        self.deliveries.iter().filter(|delivery| matches!(delivery.settled, Some((Settlement::Retry, _)))).count()
    }

    /// Deliveries without a preceding retry.
    pub fn duplicates(&self) -> usize {
        self.deliveries.len().saturating_sub(1 + self.retries())
    }
}

/// Everything recorded about one stream.
#[derive(Debug, Clone)]
pub struct Stream {
    pub name: String,
    pub tenant: String,
    pub direction: Direction,
    /// The route of its client.
    pub route: usize,
    /// Whether it always has work.
    pub steady: bool,
    /// Whether it is in use.
    pub open: bool,
    /// The time of its last work; `None` while it is not open.
    last: Option<Instant>,
    pub longest: Duration,
    /// The first work since the checkpoint.
    since_checkpoint: Option<Instant>,
    interrupted: Option<Instant>,
    pub interruptions: usize,
    pub failures: Vec<String>,
}

#[derive(Default)]
struct State {
    messages: HashMap<String, Message>,
    streams: Vec<Stream>,
    wrong_tenant: Vec<String>,
    violations: Vec<String>,
    checkpoint: Option<Instant>,
    /// When the clients of a route were disconnected or killed by the suite.
    disconnects: Vec<(usize, Instant)>,
}

/// The history of a run.
#[derive(Default)]
pub struct History(Mutex<State>);

impl History {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Registers a stream.
    pub fn stream(&self, tenant: &str, what: &str, direction: Direction, route: usize, steady: bool) -> StreamId {
        let mut state = self.state();
        state.streams.push(Stream {
            name: format!("{tenant} {what}"),
            tenant: tenant.to_owned(),
            direction,
            route,
            steady,
            open: false,
            last: None,
            longest: Duration::ZERO,
            since_checkpoint: None,
            interrupted: None,
            interruptions: 0,
            failures: Vec::new(),
        });
        state.streams.len() - 1
    }

    /// Records that a stream is in use, or not any more.
    pub fn open(&self, stream: StreamId, open: bool) {
        let stream = &mut self.state().streams[stream];
        stream.open = open;
        stream.last = open.then(Instant::now);
    }

    pub fn sent(&self, id: String, disposition: Disposition) {
        let message = Message { disposition, sent: Instant::now(), outcome: None, deliveries: Vec::new() };
        self.state().messages.insert(id, message);
    }

    /// The message was not sent, because the publisher's stream was refused permanently.
    pub fn refused(&self, stream: StreamId, id: &str, error: String) {
        let mut state = self.state();
        state.messages.remove(id);
        state.streams[stream].failures.push(error);
    }

    pub fn outcome(&self, stream: StreamId, id: &str, outcome: Outcome, reason: String) {
        let mut state = self.state();
        if matches!(outcome, Outcome::Confirmed | Outcome::Unroutable) {
            state.worked(stream);
        }
        let violations = match state.messages.get_mut(id) {
            None => Some(format!("an outcome of {id}, which was never sent")),
            Some(message) if message.outcome.is_some() => Some(format!("a second outcome of {id}")),
            Some(message) => {
                let unroutable = message.disposition == Disposition::Unroutable;
                let fits = match outcome {
                    Outcome::Confirmed => !unroutable,
                    Outcome::Unroutable => unroutable,
                    _ => true,
                };
                message.outcome = Some((outcome, reason));
                (!fits).then(|| format!("{id} has the outcome {outcome:?}"))
            }
        };
        state.violations.extend(violations);
    }

    /// Records an observation of a consumer.
    pub fn observed(&self, stream: StreamId, observed: Observation) {
        let now = Instant::now();
        let mut state = self.state();
        match observed {
            Observation::Delivered { id, attempt, .. } => {
                state.worked(stream);
                if id.split('/').next() != Some(state.streams[stream].tenant.as_str()) {
                    let line = format!("{id} was delivered to {}", state.streams[stream].name);
                    state.wrong_tenant.push(line);
                }
                let delivered = Delivered { stream, attempt, at: now, settled: None };
                match state.messages.get_mut(&id) {
                    Some(message) => message.deliveries.push(delivered),
                    None => state.violations.push(format!("{id} was delivered but never sent")),
                }
            }
            Observation::Settled { id, settlement } => {
                let deliveries = state.messages.get_mut(&id).map(|message| &mut message.deliveries);
                let last = deliveries.and_then(|all| all.iter_mut().rev().find(|d| d.stream == stream));
                if let Some(delivery) = last {
                    delivery.settled = Some((settlement, now));
                }
            }
            Observation::Interrupted { .. } => {
                let stream = &mut state.streams[stream];
                stream.interruptions += 1;
                stream.interrupted.get_or_insert(now);
            }
            Observation::Failed { error } => {
                let stream = &mut state.streams[stream];
                stream.interrupted.get_or_insert(now);
                stream.failures.push(error);
            }
            Observation::Wrong { what } => {
                let what = format!("{}: {what}", state.streams[stream].name);
                state.violations.push(what);
            }
            Observation::Started | Observation::Resumed => {}
        }
    }

    /// Records that the clients of this route lose their unsettled deliveries, each of which counts as an attempt.
    pub fn disconnected(&self, route: usize) {
        self.state().disconnects.push((route, Instant::now()));
    }

    /// Sets the checkpoint for [`Self::all_work`] and [`Self::all_noticed`].
    pub fn checkpoint(&self) -> Instant {
        let now = Instant::now();
        let mut state = self.state();
        state.checkpoint = Some(now);
        for stream in &mut state.streams {
            (stream.since_checkpoint, stream.interrupted) = (None, None);
        }
        now
    }

    /// The time from the checkpoint until the last open stream worked; or the number of streams that have not, and one
    /// of them.
    pub fn all_work(&self) -> Result<(Duration, String), (usize, String)> {
        let state = self.state();
        let checkpoint = state.checkpoint.unwrap_or_else(Instant::now);
        let steady = || state.streams.iter().filter(|stream| stream.steady && stream.open);
        let mut missing = steady().filter(|stream| stream.since_checkpoint.is_none());
        if let Some(first) = missing.next() {
            return Err((1 + missing.count(), first.name.clone()));
        }
        let last = steady().filter_map(|stream| Some((stream.since_checkpoint?, &stream.name))).max();
        Ok(last.map_or((Duration::ZERO, String::new()), |(at, name)| (at - checkpoint, name.clone())))
    }

    /// The time from the checkpoint until the last of these streams was interrupted; or the number of streams that were
    /// not, and one.
    pub fn all_noticed(&self, affected: &[StreamId]) -> Result<(Duration, String), (usize, String)> {
        let state = self.state();
        let checkpoint = state.checkpoint.unwrap_or_else(Instant::now);
        let of = || affected.iter().map(|stream| &state.streams[*stream]);
        let mut missing = of().filter(|stream| stream.interrupted.is_none());
        if let Some(first) = missing.next() {
            return Err((1 + missing.count(), first.name.clone()));
        }
        let last = of().filter_map(|stream| Some((stream.interrupted?, &stream.name))).max();
        Ok(last.map_or((Duration::ZERO, String::new()), |(at, name)| (at - checkpoint, name.clone())))
    }

    /// The open streams that satisfy the condition.
    pub fn open_streams(&self, wanted: impl Fn(&Stream) -> bool) -> Vec<StreamId> {
        let state = self.state();
        let all = state.streams.iter().enumerate().filter(|(_, stream)| stream.open && wanted(stream));
        all.map(|(id, _)| id).collect()
    }

    pub fn streams(&self) -> Vec<Stream> {
        self.state().streams.clone()
    }

    /// Folds over all messages.
    pub fn fold<T>(&self, begin: T, mut add: impl FnMut(&mut T, &str, &Message)) -> T {
        let mut result = begin;
        self.state().messages.iter().for_each(|(id, message)| add(&mut result, id, message));
        result
    }

    pub fn disconnects(&self) -> Vec<(usize, Instant)> {
        self.state().disconnects.clone()
    }

    pub fn wrong_tenant(&self) -> Vec<String> {
        self.state().wrong_tenant.clone()
    }

    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }
}

impl State {
    fn worked(&mut self, stream: StreamId) {
        let now = Instant::now();
        let stream = &mut self.streams[stream];
        if let Some(last) = stream.last.filter(|_| stream.steady) {
            stream.longest = stream.longest.max(now - last);
        }
        stream.last = Some(now);
        stream.since_checkpoint.get_or_insert(now);
    }
}
