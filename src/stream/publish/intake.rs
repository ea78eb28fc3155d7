//! Between what was read from a stream and what is at the broker. Checked messages enter, a frame at a time; they leave in their
//! order as the tenant's room in flight allows. While any wait here, the stream is not read: so at most one frame of each
//! stream waits, and HTTP/2 slows the client.

use std::collections::VecDeque;

use crate::{
    broker::{Outgoing, Settled},
    tenant::{Share, TenantScope},
};

/// What of one stream waits for room, and what it has in flight.
pub(super) struct Intake {
    waiting: VecDeque<Outgoing>,
    share: Share,
}

impl Intake {
    pub(super) fn new(scope: &TenantScope) -> Self {
        Self { waiting: VecDeque::new(), share: scope.share() }
    }

    /// Whether nothing waits for room.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a frame's messages in; those that have room leave at once.
    pub(super) fn enter(&mut self, messages: Vec<Outgoing>) -> Vec<Outgoing> {
        if !self.waiting.is_empty() {
            self.waiting.extend(messages);
            return Vec::new();
        }
        let Some(first) = messages.first() else { return messages };
        let room = self.share.take(first.order(), messages.iter().map(Outgoing::bytes));
        if room == messages.len() {
            return messages;
        }
        self.waiting = messages.into();
        self.waiting.drain(..room).collect()
    }

    /// Waits until there is room for what waits first; what leaves then. Cancel safe. Waits for ever when nothing waits.
    pub(super) async fn leave(&mut self) -> Vec<Outgoing> {
        let Some(first) = self.waiting.front() else { return std::future::pending().await };
        self.share.wait(first.order(), first.bytes()).await;
        let mut leaving: Vec<_> = self.waiting.pop_front().into_iter().collect();
        if let Some(next) = self.waiting.front() {
            let room = self.share.take(next.order(), self.waiting.iter().map(Outgoing::bytes));
            leaving.extend(self.waiting.drain(..room));
        }
        leaving
    }

    /// Everything that waits, room or not: the stream ends.
    pub(super) fn give_back(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.waiting).into()
    }

    /// Makes room of what has an outcome.
    pub(super) fn settled(&mut self, settled: &[Settled]) {
        self.share.settled(settled.iter().map(|settled| (settled.order, settled.bytes)));
    }
}
