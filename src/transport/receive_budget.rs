//! The memory budget for the received bytes of one request. HTTP/2 receives them, but only the layers know the caller.

use std::sync::{Arc, OnceLock};

use crate::memory::{Full, MemoryBudget, MemoryPermit};

/// How much of the body of a call without a token is not charged, because the call is.
const ANONYMOUS_UNCHARGED: usize = 4 * 1024;
/// The same for a client's call that is not a stream, because acknowledgements must arrive to release memory. The number
/// of these calls is limited.
const CLIENT_UNCHARGED: usize = 16 * 1024;

/// A budget that is set while the request passes through the layers, before its body is received; an extension of the
/// request. Until then, and for a request that the layers refuse, no bytes may be received.
#[derive(Debug, Clone, Default)]
pub(super) struct ReceiveBudget(Arc<OnceLock<Payer>>);

#[derive(Debug)]
enum Payer {
    /// The part for unread bytes of a tenant's budget. A stream waits, while h2 holds what arrives.
    Client { memory: MemoryBudget, is_stream: bool },
    /// The budget of a network.
    Anonymous(MemoryBudget),
}

impl ReceiveBudget {
    /// For a request with a token.
    pub(super) fn set_client(&self, memory: MemoryBudget, is_stream: bool) {
        let _ = self.0.set(Payer::Client { memory, is_stream });
    }

    /// For a request without a token.
    pub(super) fn set_anonymous(&self, memory: MemoryBudget) {
        let _ = self.0.set(Payer::Anonymous(memory));
    }

    /// Whether to wait for memory; otherwise the request is refused.
    pub(super) fn is_patient(&self) -> bool {
        matches!(self.0.get(), Some(Payer::Client { is_stream: true, .. }))
    }

    /// Reserves memory for the last bytes of those that have arrived in all.
    pub(super) fn reserve(&self, bytes: usize, received: usize) -> Result<MemoryPermit, Full> {
        let beyond = |uncharged: usize| bytes.min(received.saturating_sub(uncharged));
        match self.0.get() {
            Some(Payer::Client { memory, is_stream: true }) => memory.try_reserve_share(bytes),
            Some(Payer::Client { memory, is_stream: false }) => memory.try_reserve_share(beyond(CLIENT_UNCHARGED)),
            Some(Payer::Anonymous(memory)) => memory.try_reserve(beyond(ANONYMOUS_UNCHARGED)),
            None => Err(Full),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_requests_need_no_memory_and_a_request_that_was_refused_has_none() {
        let budget = ReceiveBudget::default();
        assert_eq!(budget.reserve(1, 1).expect_err("nobody pays"), Full);
        budget.set_client(MemoryBudget::new(100), false);
        assert_eq!(budget.reserve(CLIENT_UNCHARGED, CLIENT_UNCHARGED).expect("not charged").bytes(), 0);
        let _permit = budget.reserve(60, CLIENT_UNCHARGED + 60).expect("free");
        assert_eq!(budget.reserve(60, CLIENT_UNCHARGED + 120).expect_err("no more"), Full);
        let budget = ReceiveBudget::default();
        budget.set_client(MemoryBudget::new(100), true);
        assert_eq!(budget.reserve(60, 60).expect("free").bytes(), 60, "streams are charged from the first byte");
    }
}
