//! A cache of verified tokens. Verifying a signature takes 30 µs or more, and clients send the same token with every
//! call. Only tokens that the [`Verifier`](super::Verifier) accepted are cached, under the SHA-256 of the whole token.
//! The cache is bounded, and revocation is checked separately for every call.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use moka::sync::Cache;
use sha2::{Digest as _, Sha256};

use super::Caller;

/// The maximum number of tokens in the cache, about 1 KiB each.
const MAX_TOKENS: u64 = 10_000;

/// The cache.
pub(super) struct TokenCache {
    /// Callers, each with the generation of the keys that verified its token.
    callers: Cache<[u8; 32], (u64, Caller)>,
    keys: AtomicU64,
    leeway: Duration,
}

/// The cache key of a token that is about to be verified, and the current generation of the keys.
pub(super) struct CacheKey {
    token: [u8; 32],
    keys: u64,
}

impl TokenCache {
    pub(super) fn new(leeway: Duration) -> Self {
        Self { callers: Cache::new(MAX_TOKENS), keys: AtomicU64::new(0), leeway }
    }

    /// Must be called before the keys are read.
    pub(super) fn key(&self, token: &str) -> CacheKey {
        CacheKey { token: Sha256::digest(token.as_bytes()).into(), keys: self.keys.load(Ordering::Acquire) }
    }

    /// The caller of a token that was verified before and has not expired. An expired token has to be verified again.
    pub(super) fn caller(&self, key: &CacheKey) -> Option<Caller> {
        let (keys, caller) = self.callers.get(&key.token)?;
        let ended = caller.expires().checked_add(self.leeway).is_none_or(|end| end <= SystemTime::now());
        (keys == key.keys && !ended).then_some(caller)
    }

    /// Stores the result of a verification. It is ignored if the keys have changed meanwhile.
    pub(super) fn remember(&self, key: &CacheKey, caller: &Caller) {
        self.callers.insert(key.token, (key.keys, caller.clone()));
    }

    /// Invalidates all entries because the keys have changed.
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
    fn a_token_is_cached_until_it_expires_and_another_token_is_not_found() {
        let cache = TokenCache::new(Duration::ZERO);
        let (good, over) = (cache.key("a.b.c"), cache.key("d.e.f"));
        assert!(cache.caller(&good).is_none());
        cache.remember(&good, &caller(Duration::from_secs(60)));
        cache.remember(&over, &caller(Duration::ZERO));
        assert!(cache.caller(&good).is_some());
        assert!(cache.caller(&over).is_none());
        assert!(cache.caller(&cache.key("a.b.C")).is_none());
    }

    #[test]
    fn a_change_of_the_keys_invalidates_all_tokens_including_one_that_is_being_verified() {
        let cache = TokenCache::new(Duration::ZERO);
        let before = cache.key("a.b.c");
        cache.forget();
        cache.remember(&before, &caller(Duration::from_secs(60)));
        assert!(cache.caller(&cache.key("a.b.c")).is_none());
    }
}
