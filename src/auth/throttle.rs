//! Rate limits of client authentication: failures per client, per address and per pair of both, and requests of
//! authenticated clients. A client that has authenticated from an address is not locked out there by other clients'
//! failures.
//!
//! A wrong secret is only detected by its check. Therefore only one request of a client or address over its limit is
//! checked at a time; otherwise all requests that already wait for a check would be checked.
//!
//! Invariant: memory is bounded. When there are too many keys, further ones of the same kind share one bucket.

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

/// The maximum number of buckets of each kind, about 200 bytes each.
const MAX_BUCKETS: usize = 8192;
/// How long a successful authentication is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// How long a bucket is kept after its last failure. It is full again by then.
const BUCKET_LIFETIME: Duration = Duration::from_secs(60);
/// When to try again while another request is being checked.
const RETRY_AFTER_CHECK: Duration = Duration::from_millis(100);

/// How many seconds' tokens one client may fetch at once after a pause. It needs a few an hour, but many processes with
/// one client may start together.
const TOKENS_BURST_SECONDS: u32 = 10;

type Pair = (ClientId, IpAddr);

/// The rate limits of client authentication.
pub(super) struct Throttle {
    addresses: Buckets<IpAddr>,
    /// By client id, whether the client exists or not.
    clients: Buckets<ClientId>,
    /// Failures of clients that authenticated from the same address before.
    pairs: Buckets<Pair>,
    /// Clients and the addresses from which they have authenticated. The least recently used pair is removed when it is
    /// full.
    authenticated: Cache<Pair, ()>,
    /// Requests of each client that has authenticated before, with correct and with wrong secrets.
    requests: DefaultKeyedRateLimiter<ClientId>,
}

/// One request for a token.
pub(super) struct Attempt<'a> {
    throttle: &'a Throttle,
    client: Option<ClientId>,
    address: Option<IpAddr>,
    is_known: bool,
    /// Returned when the attempt ends, for whatever reason.
    _probes: [Option<ProbePermit>; 2],
}

/// The permit for the only request of a client or address over its limit that is checked at a time.
struct ProbePermit(Arc<Bucket>);

impl Drop for ProbePermit {
    fn drop(&mut self) {
        self.0.times().is_being_checked = false;
    }
}

impl Throttle {
    pub(super) fn new(config: &AuthConfig) -> Self {
        let per_second = NonZeroU32::new(config.tokens_per_second_per_client).unwrap_or(NonZeroU32::MIN);
        let tokens = Quota::per_second(per_second)
            .allow_burst(per_second.saturating_mul(NonZeroU32::MIN.saturating_add(TOKENS_BURST_SECONDS - 1)));
        Self {
            addresses: Buckets::new(config.failed_logins_per_minute_per_address),
            clients: Buckets::new(config.failed_logins_per_minute_per_client),
            pairs: Buckets::new(config.failed_logins_per_minute_per_client),
            authenticated: Cache::builder()
                .max_capacity(MAX_BUCKETS as u64)
                .time_to_live(REMEMBERED)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
            requests: RateLimiter::keyed(tokens),
        }
    }

    /// Begins an attempt. An unknown address is not counted; an attempt with a malformed id counts for its address
    /// only.
    pub(super) fn attempt(&self, client: Option<ClientId>, address: Option<IpAddr>) -> Result<Attempt<'_>, Error> {
        let address = address.map(network);
        let pair = client.clone().zip(address);
        let is_known = pair.as_ref().is_some_and(|pair| self.authenticated.get(pair).is_some());
        let probes = match &pair {
            Some(pair) if is_known => {
                self.count_request(&pair.0)?;
                [self.pairs.enter(pair)?, None]
            }
            _ => {
                let of_client = client.as_ref().map_or(Ok(None), |client| self.clients.enter(client))?;
                [of_client, address.as_ref().map_or(Ok(None), |address| self.addresses.enter(address))?]
            }
        };
        Ok(Attempt { throttle: self, client, address, is_known, _probes: probes })
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
    /// Whether this client has authenticated from this address before.
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    /// Records that the secret was correct.
    pub(super) fn succeeded(self) {
        if let Some(pair) = self.client.zip(self.address) {
            self.throttle.authenticated.insert(pair, ());
        }
    }

    /// Records that the secret was wrong or the client does not exist.
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

/// The network by which an address is counted. An IPv6 customer has at least all addresses of a /64.
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
    /// The last failure.
    last: Instant,
    /// When the next request may be checked; `None` while the limit is not reached.
    not_before: Option<Instant>,
    is_being_checked: bool,
}

impl Bucket {
    fn new(quota: Quota) -> Arc<Self> {
        let times = Mutex::new(Times { last: Instant::now(), not_before: None, is_being_checked: false });
        Arc::new(Self { limiter: RateLimiter::direct(quota), times })
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    /// Buckets for this many failures per minute, half of which may occur at once.
    fn new(per_minute: u32) -> Self {
        let per_minute = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(per_minute.get() / 2).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_minute(per_minute).allow_burst(burst);
        Self { quota, own: Mutex::default(), shared: Bucket::new(quota) }
    }

    fn lock_own(&self) -> MutexGuard<'_, HashMap<K, Arc<Bucket>>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits this key, or returns how long it has to wait.
    fn enter(&self, key: &K) -> Result<Option<ProbePermit>, Error> {
        let own = self.lock_own();
        let bucket = match own.get(key) {
            Some(bucket) => bucket,
            None if own.len() >= MAX_BUCKETS => &self.shared,
            None => return Ok(None),
        };
        let (mut times, now) = (bucket.times(), Instant::now());
        if times.last.elapsed() > BUCKET_LIFETIME {
            times.not_before = None;
        }
        match times.not_before {
            None => Ok(None),
            Some(at) if at > now => Err(Error::Throttled { retry_after: at - now }),
            Some(_) if times.is_being_checked => Err(Error::Throttled { retry_after: RETRY_AFTER_CHECK }),
            Some(_) => {
                times.is_being_checked = true;
                Ok(Some(ProbePermit(Arc::clone(bucket))))
            }
        }
    }

    /// Counts a failure.
    fn count(&self, key: K) {
        let bucket = self.bucket(key);
        let over = bucket.limiter.check().err();
        let now = Instant::now();
        let wait = over.map(|over| over.wait_time_from(bucket.limiter.clock().now()));
        let mut times = bucket.times();
        times.last = now;
        // Once the limit was reached, it applies until there were no failures for a while.
        times.not_before = wait.map(|wait| now + wait).or(times.not_before);
    }

    fn bucket(&self, key: K) -> Arc<Bucket> {
        let mut own = self.lock_own();
        if let Some(bucket) = own.get(&key) {
            return Arc::clone(bucket);
        }
        if own.len() >= MAX_BUCKETS {
            own.retain(|_, bucket| bucket.times().last.elapsed() < BUCKET_LIFETIME);
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
    fn guesses_at_a_client_are_limited_except_for_addresses_from_which_it_authenticated() {
        let throttle = throttle();
        throttle.attempt(client("acme.app"), address("10.0.0.1")).expect("admitted").succeeded();
        let refused = (0..50).filter(|i| fails(&throttle, "acme.app", &format!("10.0.1.{i}"))).count();
        assert!(refused >= 40, "{refused}");
        assert!(throttle.attempt(client("acme.app"), address("10.0.0.1")).expect("admitted").is_known());
        let unauthenticated = throttle.attempt(client("acme.app"), address("10.0.0.2"));
        assert!(
            matches!(unauthenticated, Err(Error::Throttled { retry_after }) if retry_after <= Duration::from_secs(60))
        );
        assert!(throttle.attempt(client("acme.other"), address("10.0.0.2")).is_ok());
    }

    #[test]
    fn an_address_is_limited_for_all_client_ids_and_a_network_counts_as_one_address() {
        let throttle = throttle();
        throttle.attempt(client("acme.app"), address("2001:db8::1")).expect("admitted").succeeded();
        let refused = (0..60).filter(|i| fails(&throttle, &format!("x{i}"), &format!("2001:db8::{i:x}"))).count();
        assert!(refused >= 39, "{refused}");
        assert!(throttle.attempt(None, address("2001:db8::ffff")).is_err());
        assert!(throttle.attempt(None, address("2001:db8:0:1::1")).is_ok());
        assert!(throttle.attempt(client("acme.app"), address("2001:db8::7")).is_ok(), "it has authenticated before");
    }

    #[test]
    fn a_client_that_has_authenticated_and_then_sends_wrong_secrets_is_limited() {
        let throttle = throttle();
        for _ in 0..100 {
            throttle.attempt(client("acme.app"), address("10.0.0.1")).expect("admitted").succeeded();
        }
        assert!((0..20).any(|_| fails(&throttle, "acme.app", "10.0.0.1")));
    }

    #[test]
    fn a_client_that_requests_too_many_tokens_is_limited_and_another_one_is_not() {
        let throttle = throttle();
        let succeed = |id: &str| throttle.attempt(client(id), address("10.0.0.1")).map(Attempt::succeeded);
        succeed("acme.other").expect("admitted");
        let refused = (0..2_000).filter(|_| succeed("acme.app").is_err()).count();
        assert!(refused > 1_000, "{refused}");
        assert!(matches!(succeed("acme.app"), Err(Error::TooManyTokens { .. })));
        assert!(succeed("acme.other").is_ok());
    }

    #[test]
    fn requests_over_the_limit_are_checked_one_at_a_time_and_an_abandoned_check_does_not_lock_out() {
        // One failure every 10 ms, so that this test does not wait long.
        let throttle =
            Throttle::new(&AuthConfig { failed_logins_per_minute_per_address: 6_000, ..AuthConfig::for_test() });
        let here = address("10.0.0.1");
        // None of the waiting requests has been checked yet, so all are admitted.
        let waiting: Vec<_> = (0..4_000).filter_map(|_| throttle.attempt(None, here).ok()).collect();
        assert_eq!(waiting.len(), 4_000);
        waiting.into_iter().for_each(Attempt::failed);
        let mut admitted = None;
        while admitted.is_none() {
            admitted = throttle.attempt(None, here).ok();
        }
        assert!(throttle.attempt(None, here).is_err(), "the next one is admitted after this one was checked");
        admitted.take().expect("an attempt").failed();
        for _ in 0..2 {
            while throttle.attempt(None, here).is_err() {}
        }
    }

    #[test]
    fn memory_is_bounded_and_keys_beyond_the_limit_share_a_bucket() {
        let throttle = throttle();
        for i in 0..3 * MAX_BUCKETS {
            let [a, b] = u16::try_from(i).expect("small").to_be_bytes();
            let _ = fails(&throttle, &format!("c{i}"), &format!("10.7.{a}.{b}"));
        }
        assert!(throttle.clients.lock_own().len() <= MAX_BUCKETS && throttle.addresses.lock_own().len() <= MAX_BUCKETS);
        assert!(
            throttle.attempt(client("brand-new"), address("10.8.0.1")).is_err(),
            "it shares a bucket with the others"
        );
        for i in 0..MAX_BUCKETS + 10 {
            let id = client(&format!("r{i}"));
            let (client, address) = (id, address("10.0.0.1"));
            Attempt { throttle: &throttle, client, address, is_known: false, _probes: [None, None] }.succeeded();
        }
        throttle.authenticated.run_pending_tasks();
        assert!(throttle.authenticated.entry_count() <= MAX_BUCKETS as u64);
        let last =
            (client(&format!("r{}", MAX_BUCKETS + 9)).expect("a client"), "10.0.0.1".parse().expect("an address"));
        assert!(throttle.authenticated.contains_key(&last), "the latest is remembered");
    }
}
