//! The publisher of one stream. Messages are published in the order in which they were pushed, by the tenant's lanes
//! (`lanes.rs`), and each gets one outcome.

use std::{sync::Arc, task::Poll};

use tokio::time::Instant;

use super::{
    lanes::Lanes,
    mailbox::{Mailbox, Request},
    outcome::PublishOutcome,
    pending::PendingPublish,
};

/// Publishes the messages of one stream. Nothing is connected until the first message.
pub struct Publisher {
    lanes: Arc<Lanes>,
    mailbox: Arc<Mailbox>,
    in_flight: usize,
}

impl Publisher {
    pub(in crate::broker) fn new(lanes: Arc<Lanes>) -> Self {
        Self { lanes, mailbox: Arc::default(), in_flight: 0 }
    }

    /// Accepts messages; each is returned by [`Self::settled`] exactly once.
    pub fn push(&mut self, messages: Vec<PendingPublish>) {
        if messages.is_empty() {
            return;
        }
        let now = Instant::now();
        let due = now + self.lanes.deadline;
        self.in_flight += messages.len();
        self.lanes.deliver(&self.mailbox, messages.into_iter().map(|message| message.due(now, due)));
    }

    /// The number of messages without an outcome.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Waits for outcomes; returns one or more of them. Cancel safe. Never returns when there are no messages without
    /// an outcome.
    pub async fn settled(&mut self) -> Vec<PublishOutcome> {
        let settled = std::future::poll_fn(|cx| {
            self.mailbox.reader.register(cx.waker());
            let outcomes = std::mem::take(&mut self.mailbox.content().outcomes);
            if outcomes.is_empty() { Poll::Pending } else { Poll::Ready(outcomes) }
        })
        .await;
        self.in_flight -= settled.len();
        settled
    }

    /// Settles all messages without an outcome immediately, because the gateway stops. Messages that were sent may be
    /// stored.
    pub async fn abandon(&mut self) -> Vec<PublishOutcome> {
        let mut settled = Vec::new();
        // Without a lane, all outcomes are in the mailbox.
        Lanes::request(&self.mailbox, Request::Abandon);
        while self.in_flight > 0 {
            settled.extend(self.settled().await);
        }
        settled.sort_by_key(|outcome| outcome.order);
        settled
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        Lanes::request(&self.mailbox, Request::Forget);
    }
}
