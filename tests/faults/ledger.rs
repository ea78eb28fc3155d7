//! The ledger of every message and every stream, filled by publishers and consumers of this and other processes.
//!
//! Facts are only ever added.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use warrengate::pb::Outcome;

use crate::message::Fate;

/// A stream's number.
pub type StreamId = usize;

/// How a consumer settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum How {
    Ack,
    Retry,
}

/// What a consumer tells, also over a pipe.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub enum Seen {
    /// The stream stands for the first time, or was opened anew.
    Started,
    Delivered {
        id: String,
        attempt: u32,
        redelivered: bool,
    },
    Settled {
        id: String,
        how: How,
    },
    Interrupted {
        reason: String,
    },
    Resumed,
    /// The stream failed and was opened again by the application.
    Failed {
        error: String,
    },
    /// A delivery that is not what it should be.
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
    pub settled: Option<(How, Instant)>,
}

/// All about one message.
#[derive(Debug, Clone)]
pub struct Message {
    pub fate: Fate,
    pub sent: Instant,
    pub outcome: Option<(Outcome, String)>,
    pub deliveries: Vec<Delivered>,
}

impl Message {
    pub fn is_confirmed(&self) -> bool {
        matches!(self.outcome, Some((Outcome::Confirmed, _)))
    }

    pub fn is_done(&self) -> bool {
        self.deliveries.iter().any(|delivery| matches!(delivery.settled, Some((How::Ack, _))))
    }

    /// When it was last heard of.
    pub fn last(&self) -> Instant {
        self.deliveries.last().map_or(self.sent, |delivery| delivery.at)
    }

    /// How often a consumer asked for it again.
    pub fn retries(&self) -> usize {
        self.deliveries.iter().filter(|delivery| matches!(delivery.settled, Some((How::Retry, _)))).count()
    }

    /// Deliveries that no retry asked for.
    pub fn duplicates(&self) -> usize {
        self.deliveries.len().saturating_sub(1 + self.retries())
    }
}

/// All about one stream.
#[derive(Debug, Clone)]
pub struct Stream {
    pub name: String,
    pub tenant: String,
    pub direction: Direction,
    /// Which road its client takes.
    pub road: usize,
    /// Whether there is always work for it.
    pub steady: bool,
    /// Whether somebody uses it now.
    pub open: bool,
    /// Since when there is no work done; none while it is not open.
    last: Option<Instant>,
    pub longest: Duration,
    /// The first work since the mark.
    since_mark: Option<Instant>,
    interrupted: Option<Instant>,
    pub interruptions: usize,
    pub failures: Vec<String>,
}

#[derive(Default)]
struct Book {
    messages: HashMap<String, Message>,
    streams: Vec<Stream>,
    wrong_tenant: Vec<String>,
    wrong: Vec<String>,
    mark: Option<Instant>,
    /// When the clients of a road lost their connection, or were killed, by the suite.
    broken: Vec<(usize, Instant)>,
}

/// The ledger.
#[derive(Default)]
pub struct Ledger(Mutex<Book>);

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap()
    }

    /// A stream that is going to be.
    pub fn stream(&self, tenant: &str, what: &str, direction: Direction, road: usize, steady: bool) -> StreamId {
        let mut book = self.book();
        book.streams.push(Stream {
            name: format!("{tenant} {what}"),
            tenant: tenant.to_owned(),
            direction,
            road,
            steady,
            open: false,
            last: None,
            longest: Duration::ZERO,
            since_mark: None,
            interrupted: None,
            interruptions: 0,
            failures: Vec::new(),
        });
        book.streams.len() - 1
    }

    /// Somebody begins, or stops, to use it.
    pub fn open(&self, stream: StreamId, open: bool) {
        let stream = &mut self.book().streams[stream];
        stream.open = open;
        stream.last = open.then(Instant::now);
    }

    pub fn sent(&self, id: String, fate: Fate) {
        let message = Message { fate, sent: Instant::now(), outcome: None, deliveries: Vec::new() };
        self.book().messages.insert(id, message);
    }

    /// It was not sent after all: the publisher's stream was refused for good.
    pub fn refused(&self, stream: StreamId, id: &str, error: String) {
        let mut book = self.book();
        book.messages.remove(id);
        book.streams[stream].failures.push(error);
    }

    pub fn outcome(&self, stream: StreamId, id: &str, outcome: Outcome, reason: String) {
        let mut book = self.book();
        if matches!(outcome, Outcome::Confirmed | Outcome::Unroutable) {
            book.works(stream);
        }
        let wrong = match book.messages.get_mut(id) {
            None => Some(format!("an outcome of {id}, which was never sent")),
            Some(message) if message.outcome.is_some() => Some(format!("a second outcome of {id}")),
            Some(message) => {
                let unroutable = message.fate == Fate::Unroutable;
                let fits = match outcome {
                    Outcome::Confirmed => !unroutable,
                    Outcome::Unroutable => unroutable,
                    _ => true,
                };
                message.outcome = Some((outcome, reason));
                (!fits).then(|| format!("{id} has the outcome {outcome:?}"))
            }
        };
        book.wrong.extend(wrong);
    }

    /// What a consumer saw.
    pub fn seen(&self, stream: StreamId, seen: Seen) {
        let now = Instant::now();
        let mut book = self.book();
        match seen {
            Seen::Delivered { id, attempt, .. } => {
                book.works(stream);
                if id.split('/').next() != Some(book.streams[stream].tenant.as_str()) {
                    let line = format!("{id} came to {}", book.streams[stream].name);
                    book.wrong_tenant.push(line);
                }
                let delivered = Delivered { stream, attempt, at: now, settled: None };
                match book.messages.get_mut(&id) {
                    Some(message) => message.deliveries.push(delivered),
                    None => book.wrong.push(format!("{id} was delivered and never sent")),
                }
            }
            Seen::Settled { id, how } => {
                let deliveries = book.messages.get_mut(&id).map(|message| &mut message.deliveries);
                let last = deliveries.and_then(|all| all.iter_mut().rev().find(|d| d.stream == stream));
                if let Some(delivery) = last {
                    delivery.settled = Some((how, now));
                }
            }
            Seen::Interrupted { .. } => {
                let stream = &mut book.streams[stream];
                stream.interruptions += 1;
                stream.interrupted.get_or_insert(now);
            }
            Seen::Failed { error } => {
                let stream = &mut book.streams[stream];
                stream.interrupted.get_or_insert(now);
                stream.failures.push(error);
            }
            Seen::Wrong { what } => {
                let what = format!("{}: {what}", book.streams[stream].name);
                book.wrong.push(what);
            }
            Seen::Started | Seen::Resumed => {}
        }
    }

    /// The clients of this road lose what they have: what was delivered to them and is not settled uses up an attempt.
    pub fn breaks(&self, road: usize) {
        self.book().broken.push((road, Instant::now()));
    }

    /// From now on it is asked which streams work since then, and which were interrupted since then.
    pub fn mark(&self) -> Instant {
        let now = Instant::now();
        let mut book = self.book();
        book.mark = Some(now);
        for stream in &mut book.streams {
            (stream.since_mark, stream.interrupted) = (None, None);
        }
        now
    }

    /// How long after the mark the last of the open streams worked; or how many have not yet, and one of them.
    pub fn all_work(&self) -> Result<(Duration, String), (usize, String)> {
        let book = self.book();
        let mark = book.mark.unwrap_or_else(Instant::now);
        let steady = || book.streams.iter().filter(|stream| stream.steady && stream.open);
        let mut missing = steady().filter(|stream| stream.since_mark.is_none());
        if let Some(first) = missing.next() {
            return Err((1 + missing.count(), first.name.clone()));
        }
        let last = steady().filter_map(|stream| Some((stream.since_mark?, &stream.name))).max();
        Ok(last.map_or((Duration::ZERO, String::new()), |(at, name)| (at - mark, name.clone())))
    }

    /// How long after the mark the last of these streams heard that it is interrupted; or how many have not yet, and one.
    pub fn all_noticed(&self, affected: &[StreamId]) -> Result<(Duration, String), (usize, String)> {
        let book = self.book();
        let mark = book.mark.unwrap_or_else(Instant::now);
        let of = || affected.iter().map(|stream| &book.streams[*stream]);
        let mut missing = of().filter(|stream| stream.interrupted.is_none());
        if let Some(first) = missing.next() {
            return Err((1 + missing.count(), first.name.clone()));
        }
        let last = of().filter_map(|stream| Some((stream.interrupted?, &stream.name))).max();
        Ok(last.map_or((Duration::ZERO, String::new()), |(at, name)| (at - mark, name.clone())))
    }

    /// The open streams that this is true for.
    pub fn open_streams(&self, wanted: impl Fn(&Stream) -> bool) -> Vec<StreamId> {
        let book = self.book();
        let all = book.streams.iter().enumerate().filter(|(_, stream)| stream.open && wanted(stream));
        all.map(|(id, _)| id).collect()
    }

    pub fn streams(&self) -> Vec<Stream> {
        self.book().streams.clone()
    }

    /// What the messages come to.
    pub fn fold<T>(&self, begin: T, mut add: impl FnMut(&mut T, &str, &Message)) -> T {
        let mut result = begin;
        self.book().messages.iter().for_each(|(id, message)| add(&mut result, id, message));
        result
    }

    pub fn broken(&self) -> Vec<(usize, Instant)> {
        self.book().broken.clone()
    }

    pub fn wrong_tenant(&self) -> Vec<String> {
        self.book().wrong_tenant.clone()
    }

    pub fn wrong(&self) -> Vec<String> {
        self.book().wrong.clone()
    }
}

impl Book {
    fn works(&mut self, stream: StreamId) {
        let now = Instant::now();
        let stream = &mut self.streams[stream];
        if let Some(last) = stream.last.filter(|_| stream.steady) {
            stream.longest = stream.longest.max(now - last);
        }
        stream.last = Some(now);
        stream.since_mark.get_or_insert(now);
    }
}
