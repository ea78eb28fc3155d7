//! Admission of checked messages to the broker, in their order, within the tenant's limit in flight.
//!
//! Invariant: while a message waits here, its stream is not read. At most one frame of each stream waits, and HTTP/2
//! flow control slows the client.

use std::collections::VecDeque;

use crate::{
    broker::{PendingPublish, PublishOutcome},
    tenant::{InFlightPermit, TenantScope},
};

/// The waiting messages of one stream, and its permits for those in flight.
pub(super) struct Intake {
    waiting: VecDeque<PendingPublish>,
    permit: InFlightPermit,
}

impl Intake {
    pub(super) fn new(scope: &TenantScope) -> Self {
        Self { waiting: VecDeque::new(), permit: scope.in_flight_permit() }
    }

    /// Whether no message waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds a frame's messages; returns those that may be published at once.
    pub(super) fn enter(&mut self, messages: Vec<PendingPublish>) -> Vec<PendingPublish> {
        if !self.waiting.is_empty() {
            self.waiting.extend(messages);
            return Vec::new();
        }
        let Some(first) = messages.first() else { return messages };
        let permitted = self.permit.take(first.order(), messages.iter().map(PendingPublish::bytes));
        if permitted == messages.len() {
            return messages;
        }
        self.waiting = messages.into();
        self.waiting.drain(..permitted).collect()
    }

    /// Waits until the first waiting message may be published; returns it with the following ones that may be
    /// published as well. Pending while nothing waits. Cancel safe.
    pub(super) async fn leave(&mut self) -> Vec<PendingPublish> {
        let Some(first) = self.waiting.front() else { return std::future::pending().await };
        self.permit.wait(first.order(), first.bytes()).await;
        let mut leaving: Vec<_> = self.waiting.pop_front().into_iter().collect();
        if let Some(next) = self.waiting.front() {
            let permitted = self.permit.take(next.order(), self.waiting.iter().map(PendingPublish::bytes));
            leaving.extend(self.waiting.drain(..permitted));
        }
        leaving
    }

    /// Removes all waiting messages, because the stream ends.
    pub(super) fn take_all(&mut self) -> Vec<PendingPublish> {
        std::mem::take(&mut self.waiting).into()
    }

    /// Returns the permits of messages that have an outcome.
    pub(super) fn settled(&mut self, settled: &[PublishOutcome]) {
        self.permit.settled(settled.iter().map(|settled| (settled.order, settled.bytes)));
    }
}
