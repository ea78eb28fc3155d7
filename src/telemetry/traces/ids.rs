//! Ids of traces and spans: random, but for a trace whose id was told before its first span began.

use std::cell::Cell;

use opentelemetry::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

thread_local! {
    static TOLD: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// The generator of a gateway's ids.
#[derive(Debug, Default)]
pub(super) struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        TOLD.take().unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}

/// Starts a span; when it begins a trace, that has this id.
pub(super) fn told<T>(id: TraceId, start: impl FnOnce() -> T) -> T {
    TOLD.set(Some(id));
    let started = start();
    TOLD.set(None);
    started
}
