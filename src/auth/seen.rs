//! Tokens that were found good a moment ago. A token's digest enters with its [`Caller`]; the caller leaves again while
//! the token lives and the keys are the same. A signature takes 30 µs or more to check, and clients send the same token with
//! every call. Invariants: only what the [`Verifier`](super::Verifier) accepted is here, under the whole token's SHA-256, which
//! nobody can forge another token to; what it holds is bounded; and revocation is asked for elsewhere, with every call.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use moka::sync::Cache;
use sha2::{Digest as _, Sha256};

use super::Caller;

/// Tokens remembered; about 1 KiB each.
const MOST: u64 = 10_000;

/// What was found good.
pub(super) struct Seen {
    /// With the generation of the keys that they were checked with.
    callers: Cache<[u8; 32], (u64, Caller)>,
    keys: AtomicU64,
    leeway: Duration,
}

/// A token about to be checked.
pub(super) struct Question {
    token: [u8; 32],
    keys: u64,
}

impl Seen {
    pub(super) fn new(leeway: Duration) -> Self {
        Self { callers: Cache::new(MOST), keys: AtomicU64::new(0), leeway }
    }

    /// Asks for a token, before the keys are read.
    pub(super) fn question(&self, token: &str) -> Question {
        Question { token: Sha256::digest(token.as_bytes()).into(), keys: self.keys.load(Ordering::Acquire) }
    }

    /// The caller of a token that was found good and has not ended; who ended hears it from the full check.
    pub(super) fn caller(&self, question: &Question) -> Option<Caller> {
        let (keys, caller) = self.callers.get(&question.token)?;
        let ended = caller.expires().checked_add(self.leeway).is_none_or(|end| end <= SystemTime::now());
        (keys == question.keys && !ended).then_some(caller)
    }

    /// Keeps what the full check found. Keys that changed meanwhile make it worth nothing.
    pub(super) fn remember(&self, question: &Question, caller: &Caller) {
        self.callers.insert(question.token, (question.keys, caller.clone()));
    }

    /// The keys have changed: nothing from before counts any more.
    pub(super) fn forget(&self) {
        self.keys.fetch_add(1, Ordering::AcqRel);
        self.callers.invalidate_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{auth::Grants, names::ClientId};

    fn caller(ends_in: Duration) -> Caller {
        let now = SystemTime::now();
        Caller::for_test(&ClientId::parse("acme.app").expect("an id"), Grants::default(), now, now + ends_in)
    }

    #[test]
    fn a_token_is_known_until_it_ends_and_another_never() {
        let seen = Seen::new(Duration::ZERO);
        let (good, over) = (seen.question("a.b.c"), seen.question("d.e.f"));
        assert!(seen.caller(&good).is_none());
        seen.remember(&good, &caller(Duration::from_secs(60)));
        seen.remember(&over, &caller(Duration::ZERO));
        assert!(seen.caller(&good).is_some());
        assert!(seen.caller(&over).is_none());
        assert!(seen.caller(&seen.question("a.b.C")).is_none());
    }

    #[test]
    fn keys_that_change_make_every_token_unknown_also_one_that_is_just_being_checked() {
        let seen = Seen::new(Duration::ZERO);
        let before = seen.question("a.b.c");
        seen.forget();
        seen.remember(&before, &caller(Duration::from_secs(60)));
        assert!(seen.caller(&seen.question("a.b.c")).is_none());
    }
}
