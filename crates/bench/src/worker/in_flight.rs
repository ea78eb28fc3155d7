//! Unanswered messages in the order of sending. Futures are polled from the front, with one waker and no allocation for
//! each message, because the broker answers in nearly this order.

use std::{collections::VecDeque, future::poll_fn, task::Poll};

use futures_util::FutureExt as _;

use super::feed::Due;

/// Pending answers, each with the time at which its message was due.
pub(super) struct InFlight<F>(VecDeque<(F, Due)>);

impl<F: Future + Unpin> InFlight<F> {
    pub(super) fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(super) fn push(&mut self, answer: F, due: Due) {
        self.0.push_back((answer, due));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the oldest answer; stays pending if no answer is expected. Cancel safe.
    pub(super) async fn next(&mut self) -> (F::Output, Due) {
        let answered = poll_fn(|cx| match self.0.front_mut() {
            Some((answer, due)) => answer.poll_unpin(cx).map(|answer| (answer, *due)),
            None => Poll::Pending,
        });
        let answered = answered.await;
        self.0.pop_front();
        answered
    }

    /// The oldest answer, if it has arrived.
    pub(super) fn ready(&mut self) -> Option<(F::Output, Due)> {
        self.next().now_or_never()
    }
}
