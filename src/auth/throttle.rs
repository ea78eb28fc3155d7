//! Who asked with wrong secrets, and how soon it may ask again. A client's id as it was sent and the asker's address enter; an
//! [`Attempt`] leaves, or a time to wait. Only wrong secrets count, so that a thousand clients behind one address can fetch
//! their tokens, and who was right from an address is not shut out there by others' guesses. As a secret is known to be wrong only
//! when it was checked, who has used up its share is looked at one by one: else all that wait for a check would come too late.
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
/// When to come again while another one is looked at.
const NEXT_LOOK: Duration = Duration::from_millis(100);

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
    /// Given back however the attempt ends.
    _looks: [Option<Look>; 2],
}

/// The only look at one who has used up its share.
struct Look(Arc<Bucket>);

impl Drop for Look {
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
            right: Mutex::default(),
        }
    }

    /// Begins. An address that is not known is not counted; an id that is none counts for its address alone.
    pub(super) fn attempt(&self, client: Option<ClientId>, address: Option<IpAddr>) -> Result<Attempt<'_>, Error> {
        let address = address.map(network);
        let pair = client.clone().zip(address);
        let is_known =
            pair.as_ref().is_some_and(|pair| self.right().get(pair).is_some_and(|since| since.elapsed() < REMEMBERED));
        let looks = match &pair {
            Some(pair) if is_known => [self.pairs.enter(pair)?, None],
            _ => {
                let of_client = client.as_ref().map_or(Ok(None), |client| self.clients.enter(client))?;
                [of_client, address.as_ref().map_or(Ok(None), |address| self.addresses.enter(address))?]
            }
        };
        Ok(Attempt { throttle: self, client, address, is_known, _looks: looks })
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

    /// Lets this key in, or says how long it has to wait.
    fn enter(&self, key: &K) -> Result<Option<Look>, Error> {
        let own = self.own();
        let bucket = match own.get(key) {
            Some(bucket) => bucket,
            None if own.len() >= PLACES => &self.shared,
            None => return Ok(None),
        };
        let (mut times, now) = (bucket.times(), Instant::now());
        if times.last.elapsed() > KEPT {
            times.not_before = None;
        }
        match times.not_before {
            None => Ok(None),
            Some(at) if at > now => Err(Error::Throttled { retry_after: at - now }),
            Some(_) if times.is_looked_at => Err(Error::Throttled { retry_after: NEXT_LOOK }),
            Some(_) => {
                times.is_looked_at = true;
                Ok(Some(Look(Arc::clone(bucket))))
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
    fn who_was_right_and_then_guesses_is_slowed_too_and_right_ones_are_never_counted() {
        let throttle = throttle();
        for _ in 0..1_000 {
            throttle.attempt(client("acme.app"), address("10.0.0.1")).expect("may").succeeded();
        }
        assert!((0..20).any(|_| fails(&throttle, "acme.app", "10.0.0.1")));
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
        for i in 0..3 * PLACES {
            let [a, b] = u16::try_from(i).expect("small").to_be_bytes();
            let _ = fails(&throttle, &format!("c{i}"), &format!("10.7.{a}.{b}"));
        }
        assert!(throttle.clients.own().len() <= PLACES && throttle.addresses.own().len() <= PLACES);
        assert!(throttle.attempt(client("brand-new"), address("10.8.0.1")).is_err(), "shared with the flood");
        for i in 0..PLACES + 10 {
            let id = client(&format!("r{i}"));
            let (client, address) = (id, address("10.0.0.1"));
            Attempt { throttle: &throttle, client, address, is_known: false, _looks: [None, None] }.succeeded();
        }
        assert!(throttle.right().len() <= PLACES);
    }
}
