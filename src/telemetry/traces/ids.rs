//! Generation of trace and span ids: random, except for a trace whose id was published before its first span began.

use std::cell::Cell;

use opentelemetry::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

thread_local! {
    static NEXT_TRACE_ID: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// The id generator of a gateway.
#[derive(Debug, Default)]
pub(super) struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        NEXT_TRACE_ID.take().unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}

/// Starts a span with this trace id if it begins a trace.
pub(super) fn with_trace_id<T>(id: TraceId, start: impl FnOnce() -> T) -> T {
    NEXT_TRACE_ID.set(Some(id));
    let started = start();
    NEXT_TRACE_ID.set(None);
    started
}
