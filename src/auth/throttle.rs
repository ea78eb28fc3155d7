//! Who asked with wrong secrets, and how soon it may ask again. A client's id as it was sent and the asker's address enter; an
//! [`Attempt`] leaves, or a time to wait. Only wrong secrets count, so that a thousand clients behind one address can fetch
//! their tokens, and who was right from an address is not shut out there by others' guesses.
//!
//! Invariant: memory is bounded. What finds no place of its own shares one with all others of its kind.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock as _};

use super::Error;
use crate::{config::AuthConfig, names::ClientId};

/// Places of each kind. Some 200 bytes each.
const PLACES: usize = 8192;
/// Who was right is remembered for so long.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// How long a place is kept after its last wrong secret: by then it is as good as new.
const KEPT: Duration = Duration::from_secs(60);

type Pair = (ClientId, IpAddr);

/// Counts wrong secrets.
pub(super) struct Throttle {
    addresses: Buckets<IpAddr>,
    /// By id, whether there is such a client or not.
    clients: Buckets<ClientId>,
    /// Those that were right before, apart from all others.
    pairs: Buckets<Pair>,
    right: Mutex<HashMap<Pair, Instant>>,
}

/// One request for a token.
pub(super) struct Attempt<'a> {
    throttle: &'a Throttle,
    client: Option<ClientId>,
    address: Option<IpAddr>,
    is_known: bool,
}

impl Throttle {
    pub(super) fn new(config: &AuthConfig) -> Self {
        Self {
            addresses: Buckets::new(config.wrong_secrets_per_address),
            clients: Buckets::new(config.wrong_secrets_per_client),
            pairs: Buckets::new(config.wrong_secrets_per_client),
            right: Mutex::default(),
        }
    }

    /// Begins. An address that is not known is not counted; an id that is none counts for its address alone.
    pub(super) fn attempt(&self, client: Option<ClientId>, address: Option<IpAddr>) -> Result<Attempt<'_>, Error> {
        let address = address.map(network);
        let pair = client.clone().zip(address);
        let is_known =
            pair.as_ref().is_some_and(|pair| self.right().get(pair).is_some_and(|since| since.elapsed() < REMEMBERED));
        let wait = match &pair {
            Some(pair) if is_known => self.pairs.wait(pair),
            _ => {
                let of_client = client.as_ref().and_then(|client| self.clients.wait(client));
                of_client.max(address.as_ref().and_then(|address| self.addresses.wait(address)))
            }
        };
        match wait {
            Some(retry_after) => Err(Error::Throttled { retry_after }),
            None => Ok(Attempt { throttle: self, client, address, is_known }),
        }
    }

    fn right(&self) -> MutexGuard<'_, HashMap<Pair, Instant>> {
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// Whether this client was right from this address before.
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    /// The secret was right.
    pub(super) fn succeeded(self) {
        let Some(pair) = self.client.zip(self.address) else { return };
        let mut right = self.throttle.right();
        if right.len() >= PLACES && !right.contains_key(&pair) {
            right.retain(|_, since| since.elapsed() < REMEMBERED);
            // The oldest goes: it may ask as a stranger.
            if right.len() >= PLACES
                && let Some(oldest) = right.iter().min_by_key(|(_, since)| **since).map(|(pair, _)| pair.clone())
            {
                right.remove(&oldest);
            }
        }
        right.insert(pair, Instant::now());
    }

    /// It was wrong, or the client is none.
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

/// Whom an address stands for: one customer has at least all addresses of a /64.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

/// A bucket for each key, and one for those that find no place.
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
    last: Instant,
    not_before: Option<Instant>,
}

impl Bucket {
    fn new(quota: Quota) -> Arc<Self> {
        let times = Mutex::new(Times { last: Instant::now(), not_before: None });
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

    /// How long this key has to wait.
    fn wait(&self, key: &K) -> Option<Duration> {
        let own = self.own();
        let bucket = match own.get(key) {
            Some(bucket) => bucket,
            None if own.len() >= PLACES => &self.shared,
            None => return None,
        };
        let wait = bucket.times().not_before?.checked_duration_since(Instant::now())?;
        (!wait.is_zero()).then_some(wait)
    }

    /// Counts a wrong secret.
    fn count(&self, key: K) {
        let bucket = self.bucket(key);
        let over = bucket.limiter.check().err();
        let now = Instant::now();
        let wait = over.map(|over| over.wait_time_from(bucket.limiter.clock().now()));
        let mut times = bucket.times();
        times.last = now;
        times.not_before = wait.map(|wait| now + wait);
    }

    fn bucket(&self, key: K) -> Arc<Bucket> {
        let mut own = self.own();
        if let Some(bucket) = own.get(&key) {
            return Arc::clone(bucket);
        }
        if own.len() >= PLACES {
            own.retain(|_, bucket| bucket.times().last.elapsed() < KEPT);
        }
        if own.len() >= PLACES {
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
            wrong_secrets_per_client: 10,
            wrong_secrets_per_address: 40,
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
    fn who_was_right_and_then_guesses_is_slowed_too_and_right_ones_are_never_counted() {
        let throttle = throttle();
        for _ in 0..1_000 {
            throttle.attempt(client("acme.app"), address("10.0.0.1")).expect("may").succeeded();
        }
        assert!((0..20).any(|_| fails(&throttle, "acme.app", "10.0.0.1")));
    }

    #[test]
    fn memory_is_bounded_and_those_without_a_place_share_one() {
        let throttle = throttle();
        for i in 0..3 * PLACES {
            let [a, b] = u16::try_from(i).expect("small").to_be_bytes();
            let _ = fails(&throttle, &format!("c{i}"), &format!("10.7.{a}.{b}"));
        }
        assert!(throttle.clients.own().len() <= PLACES && throttle.addresses.own().len() <= PLACES);
        assert!(throttle.attempt(client("brand-new"), address("10.8.0.1")).is_err(), "shared with the flood");
        for i in 0..PLACES + 10 {
            let id = client(&format!("r{i}"));
            Attempt { throttle: &throttle, client: id, address: address("10.0.0.1"), is_known: false }.succeeded();
        }
        assert!(throttle.right().len() <= PLACES);
    }
}
