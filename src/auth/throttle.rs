//! Rate limits of client authentication: failures per client, per address and per pair of both, and requests of clients that
//! succeed. A client that has authenticated from an address is not locked out there by other clients' failures. Because a
//! secret is known to be wrong only after it was checked, a client or address over its limit is checked one request at a
//! time; otherwise all requests that already wait for a check would still get one.
//!
//! Invariant: memory is bounded. A key that finds no bucket of its own shares one with all others of its kind.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _};
use moka::{policy::EvictionPolicy, sync::Cache};

use super::Error;
use crate::{config::AuthConfig, names::ClientId};

/// Buckets of each kind. Some 200 bytes each.
const MAX_BUCKETS: usize = 8192;
/// How long a successful authentication is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// How long a bucket is kept after its last wrong secret; it is full again by then.
const KEPT: Duration = Duration::from_secs(60);
/// When to try again while another request is being checked.
const RETRY_AFTER_CHECK: Duration = Duration::from_millis(100);

/// Tokens that one client may fetch a second from this gateway, and at once after a pause. It needs a few an hour; many
/// processes with one client may start together.
const TOKENS_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(19);
const TOKENS_AT_ONCE: NonZeroU32 = NonZeroU32::MIN.saturating_add(199);

type Pair = (ClientId, IpAddr);

/// The limits.
pub(super) struct Throttle {
    addresses: Buckets<IpAddr>,
    /// By id, whether there is such a client or not.
    clients: Buckets<ClientId>,
    /// Failures of clients that authenticated from the same address before.
    pairs: Buckets<Pair>,
    /// Who authenticated, and from where. When it is full, the least recently used pair is treated as unknown again.
    authenticated: Cache<Pair, ()>,
    /// Requests of each client that was right before, whatever its secret is now.
    requests: DefaultKeyedRateLimiter<ClientId>,
}

/// One request for a token.
pub(super) struct Attempt<'a> {
    throttle: &'a Throttle,
    client: Option<ClientId>,
    address: Option<IpAddr>,
    is_known: bool,
    /// Given back however the attempt ends.
    _looks: [Option<ProbePermit>; 2],
}

/// The permit for the only request of a client or address over its limit that is checked at a time.
struct ProbePermit(Arc<Bucket>);

impl Drop for ProbePermit {
    fn drop(&mut self) {
        self.0.times().is_looked_at = false;
    }
}

impl Throttle {
    pub(super) fn new(config: &AuthConfig) -> Self {
        Self {
            addresses: Buckets::new(config.failed_logins_per_minute_per_address),
            clients: Buckets::new(config.failed_logins_per_minute_per_client),
            pairs: Buckets::new(config.failed_logins_per_minute_per_client),
            authenticated: Cache::builder()
                .max_capacity(MAX_BUCKETS as u64)
                .time_to_live(REMEMBERED)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
            requests: RateLimiter::keyed(Quota::per_second(TOKENS_PER_SECOND).allow_burst(TOKENS_AT_ONCE)),
        }
    }

    /// Begins an attempt. An unknown address is not counted; a malformed id counts for its address alone.
    pub(super) fn attempt(&self, client: Option<ClientId>, address: Option<IpAddr>) -> Result<Attempt<'_>, Error> {
        let address = address.map(network);
        let pair = client.clone().zip(address);
        let is_known = pair.as_ref().is_some_and(|pair| self.authenticated.get(pair).is_some());
        let looks = match &pair {
            Some(pair) if is_known => {
                self.count_request(&pair.0)?;
                [self.pairs.enter(pair)?, None]
            }
            _ => {
                let of_client = client.as_ref().map_or(Ok(None), |client| self.clients.enter(client))?;
                [of_client, address.as_ref().map_or(Ok(None), |address| self.addresses.enter(address))?]
            }
        };
        Ok(Attempt { throttle: self, client, address, is_known, _looks: looks })
    }

    fn count_request(&self, client: &ClientId) -> Result<(), Error> {
        if self.requests.len() > MAX_BUCKETS {
            self.requests.retain_recent();
        }
        let over = self.requests.check_key(client).err();
        over.map_or(Ok(()), |over| {
            Err(Error::TooManyTokens { retry_after: over.wait_time_from(self.requests.clock().now()) })
        })
    }
}

impl Attempt<'_> {
    /// Whether this client was right from this address before.
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    /// The secret was right.
    pub(super) fn succeeded(self) {
        if let Some(pair) = self.client.zip(self.address) {
            self.throttle.authenticated.insert(pair, ());
        }
    }

    /// The secret was wrong, or there is no such client.
    pub(super) fn failed(self) {
        let throttle = self.throttle;
        match (self.client, self.address) {
            (Some(client), Some(address)) if self.is_known => throttle.pairs.count((client, address)),
            (client, address) => {
                client.into_iter().for_each(|client| throttle.clients.count(client));
                address.into_iter().for_each(|address| throttle.addresses.count(address));
            }
        }
    }
}

/// The network that an address is counted as: one customer has at least all addresses of a /64.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

/// A bucket for each key, and a shared one for keys beyond the capacity.
struct Buckets<K> {
    quota: Quota,
    own: Mutex<HashMap<K, Arc<Bucket>>>,
    shared: Arc<Bucket>,
}

struct Bucket {
    limiter: DefaultDirectRateLimiter,
    times: Mutex<Times>,
}

#[derive(Clone, Copy)]
struct Times {
    /// The last wrong one.
    last: Instant,
    /// The next look; none while its share is not used up.
    not_before: Option<Instant>,
    is_looked_at: bool,
}

impl Bucket {
    fn new(quota: Quota) -> Arc<Self> {
        let times = Mutex::new(Times { last: Instant::now(), not_before: None, is_looked_at: false });
        Arc::new(Self { limiter: RateLimiter::direct(quota), times })
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    /// So many a minute, half of them at once.
    fn new(per_minute: u32) -> Self {
        let per_minute = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(per_minute.get() / 2).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_minute(per_minute).allow_burst(burst);
        Self { quota, own: Mutex::default(), shared: Bucket::new(quota) }
    }

    fn own(&self) -> MutexGuard<'_, HashMap<K, Arc<Bucket>>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits this key, or returns how long it has to wait.
    fn enter(&self, key: &K) -> Result<Option<ProbePermit>, Error> {
        let own = self.own();
        let bucket = match own.get(key) {
            Some(bucket) => bucket,
            None if own.len() >= MAX_BUCKETS => &self.shared,
            None => return Ok(None),
        };
        let (mut times, now) = (bucket.times(), Instant::now());
        if times.last.elapsed() > KEPT {
            times.not_before = None;
        }
        match times.not_before {
            None => Ok(None),
            Some(at) if at > now => Err(Error::Throttled { retry_after: at - now }),
            Some(_) if times.is_looked_at => Err(Error::Throttled { retry_after: RETRY_AFTER_CHECK }),
            Some(_) => {
                times.is_looked_at = true;
                Ok(Some(ProbePermit(Arc::clone(bucket))))
            }
        }
    }

    /// Counts a wrong secret.
    fn count(&self, key: K) {
        let bucket = self.bucket(key);
        let over = bucket.limiter.check().err();
        let now = Instant::now();
        let wait = over.map(|over| over.wait_time_from(bucket.limiter.clock().now()));
        let mut times = bucket.times();
        times.last = now;
        // Once used up, it stays so until there was none for a while.
        times.not_before = wait.map(|wait| now + wait).or(times.not_before);
    }

    fn bucket(&self, key: K) -> Arc<Bucket> {
        let mut own = self.own();
        if let Some(bucket) = own.get(&key) {
            return Arc::clone(bucket);
        }
        if own.len() >= MAX_BUCKETS {
            own.retain(|_, bucket| bucket.times().last.elapsed() < KEPT);
        }
        if own.len() >= MAX_BUCKETS {
            return Arc::clone(&self.shared);
        }
        let bucket = Bucket::new(self.quota);
        own.insert(key, Arc::clone(&bucket));
        bucket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle() -> Throttle {
        Throttle::new(&AuthConfig {
            failed_logins_per_minute_per_client: 10,
            failed_logins_per_minute_per_address: 40,
            ..AuthConfig::for_test()
        })
    }

    fn client(id: &str) -> Option<ClientId> {
        ClientId::parse(id).ok()
    }

    fn address(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    fn fails(throttle: &Throttle, id: &str, from: &str) -> bool {
        throttle.attempt(client(id), address(from)).map(Attempt::failed).is_err()
    }

    #[test]
    fn guesses_at_a_client_are_slowed_from_everywhere_but_not_for_whom_was_right_there() {
        let throttle = throttle();
        throttle.attempt(client("acme.app"), address("10.0.0.1")).expect("may").succeeded();
        let refused = (0..50).filter(|i| fails(&throttle, "acme.app", &format!("10.0.1.{i}"))).count();
        assert!(refused >= 40, "{refused}");
        assert!(throttle.attempt(client("acme.app"), address("10.0.0.1")).expect("may").is_known());
        let stranger = throttle.attempt(client("acme.app"), address("10.0.0.2"));
        assert!(matches!(stranger, Err(Error::Throttled { retry_after }) if retry_after <= Duration::from_secs(60)));
        assert!(throttle.attempt(client("acme.other"), address("10.0.0.2")).is_ok());
    }

    #[test]
    fn an_address_is_slowed_whatever_ids_it_tries_and_a_network_is_one() {
        let throttle = throttle();
        throttle.attempt(client("acme.app"), address("2001:db8::1")).expect("may").succeeded();
        let refused = (0..60).filter(|i| fails(&throttle, &format!("x{i}"), &format!("2001:db8::{i:x}"))).count();
        assert!(refused >= 39, "{refused}");
        assert!(throttle.attempt(None, address("2001:db8::ffff")).is_err());
        assert!(throttle.attempt(None, address("2001:db8:0:1::1")).is_ok());
        assert!(throttle.attempt(client("acme.app"), address("2001:db8::7")).is_ok(), "it was right before");
    }

    #[test]
    fn a_client_that_was_right_and_then_guesses_is_slowed_down_too() {
        let throttle = throttle();
        for _ in 0..100 {
            throttle.attempt(client("acme.app"), address("10.0.0.1")).expect("may").succeeded();
        }
        assert!((0..20).any(|_| fails(&throttle, "acme.app", "10.0.0.1")));
    }

    #[test]
    fn a_client_that_fetches_tokens_without_end_is_slowed_down_and_another_is_not() {
        let throttle = throttle();
        let right = |id: &str| throttle.attempt(client(id), address("10.0.0.1")).map(Attempt::succeeded);
        right("acme.other").expect("may");
        let refused = (0..2_000).filter(|_| right("acme.app").is_err()).count();
        assert!(refused > 1_000, "{refused}");
        assert!(matches!(right("acme.app"), Err(Error::TooManyTokens { .. })));
        assert!(right("acme.other").is_ok());
    }

    #[test]
    fn who_has_used_up_its_share_is_looked_at_one_by_one_and_a_look_that_is_given_up_does_not_shut_it_out() {
        // A wrong one every 10 ms, so that nobody waits for long here.
        let throttle =
            Throttle::new(&AuthConfig { failed_logins_per_minute_per_address: 6_000, ..AuthConfig::for_test() });
        let here = address("10.0.0.1");
        // All at once, as many as can wait for a check: none is known to be wrong yet.
        let waiting: Vec<_> = (0..4_000).filter_map(|_| throttle.attempt(None, here).ok()).collect();
        assert_eq!(waiting.len(), 4_000);
        waiting.into_iter().for_each(Attempt::failed);
        let mut looked = None;
        while looked.is_none() {
            looked = throttle.attempt(None, here).ok();
        }
        assert!(throttle.attempt(None, here).is_err(), "the next comes when this one is known");
        looked.take().expect("a look").failed();
        for _ in 0..2 {
            while throttle.attempt(None, here).is_err() {}
        }
    }

    #[test]
    fn memory_is_bounded_and_those_without_a_place_share_one() {
        let throttle = throttle();
        for i in 0..3 * MAX_BUCKETS {
            let [a, b] = u16::try_from(i).expect("small").to_be_bytes();
            let _ = fails(&throttle, &format!("c{i}"), &format!("10.7.{a}.{b}"));
        }
        assert!(throttle.clients.own().len() <= MAX_BUCKETS && throttle.addresses.own().len() <= MAX_BUCKETS);
        assert!(throttle.attempt(client("brand-new"), address("10.8.0.1")).is_err(), "shared with the flood");
        for i in 0..MAX_BUCKETS + 10 {
            let id = client(&format!("r{i}"));
            let (client, address) = (id, address("10.0.0.1"));
            Attempt { throttle: &throttle, client, address, is_known: false, _looks: [None, None] }.succeeded();
        }
        throttle.authenticated.run_pending_tasks();
        assert!(throttle.authenticated.entry_count() <= MAX_BUCKETS as u64);
        let last =
            (client(&format!("r{}", MAX_BUCKETS + 9)).expect("a client"), "10.0.0.1".parse().expect("an address"));
        assert!(throttle.authenticated.contains_key(&last), "the latest is remembered");
    }
}
