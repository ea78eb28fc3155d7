//! Client secrets: generated here, shown once, and stored as an argon2id hash only. Checking one takes 19 MiB and a core for some
//! 30 ms, so checks and hashes run on low-priority threads ([`super::workers`]) behind a bounded, fair queue
//! ([`super::fair`]); an unknown client costs exactly what a known one does.

use std::{net::IpAddr, sync::OnceLock, time::Duration};

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher as _, PasswordVerifier as _, Version};
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use moka::sync::Cache;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::{
    Error,
    fair::{self, FairQueue, Limits},
    workers::Workers,
};
use crate::names::TenantId;

/// OWASP's minimum: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// A longer text is no secret of ours, and is not worth hashing.
const MAX_LEN: usize = 128;

/// Checks of one lane that may wait, for each that may run: the last one waits for half a second when it is alone.
const WAITING_EACH: usize = 16;
/// Checks that may wait in all, for each that may run: two seconds' work.
const WAITING: usize = 64;
const BUSY: Error = Error::Busy { retry_after: Duration::from_secs(1) };
/// How long a secret that was right is recognised without hashing it, and how many are.
const REMEMBERED: Duration = Duration::from_secs(300);
const MAX_REMEMBERED: u64 = 10_000;

/// A client's secret.
#[derive(Clone)]
pub struct Secret(SecretString);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// A new one: `wgs_` and 32 random bytes in base64url.
    pub fn generate() -> Self {
        let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
        Self(format!("wgs_{}", URL_SAFE_NO_PAD.encode(bytes.as_slice())).into())
    }

    /// The secret itself, to be shown once.
    pub fn reveal(&self) -> &SecretString {
        &self.0
    }

    /// What the store keeps beside its hash, to tell it apart from the one before.
    pub fn tag(&self) -> String {
        tag(&self.0)
    }

    /// Its argon2id hash, in PHC form; takes a core for some 30 ms.
    ///
    /// # Errors
    /// When there is no randomness or memory left.
    pub fn hash_blocking(&self) -> Result<String, Error> {
        argon2()?
            .hash_password(self.0.expose_secret().as_bytes())
            .map(|hash| hash.to_string())
            .map_err(|_| Error::Internal("a secret cannot be hashed"))
    }

    /// As [`Self::hash_blocking`], beside the runtime.
    ///
    /// # Errors
    /// As [`Self::hash_blocking`].
    pub async fn hash(&self) -> Result<String, Error> {
        let secret = self.clone();
        tokio::task::spawn_blocking(move || secret.hash_blocking())
            .await
            .map_err(|_| Error::Internal("a secret's hashing was cut short"))?
    }
}

/// Distinguishes two secrets of one client before either is hashed, so that only one hash has to be checked. It reveals 32 of a
/// secret's 256 bits, which helps nobody to guess it.
pub(super) fn tag(secret: &SecretString) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.expose_secret().as_bytes());
    URL_SAFE_NO_PAD.encode(&digest.as_ref()[..4])
}

fn argon2() -> Result<Argon2<'static>, Error> {
    let params =
        Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| Error::Internal("argon2 parameters are refused"))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// Whose turn it is among those that wait for a check or a hash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    /// Clients of this tenant; none: platform administrators.
    Tenant(Option<TenantId>),
    /// Clients that have not authenticated from this address before.
    Address(Option<IpAddr>),
}

/// A bounded, fair queue in which secrets are checked and hashed.
#[derive(Debug)]
pub(super) struct Checks {
    queue: FairQueue<Lane>,
    workers: Workers,
}

impl Checks {
    /// This many at once; 0 is half of the machine's cores, so that the other half is left for open streams.
    pub(super) fn new(at_once: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let running = if at_once == 0 { (cores / 2).max(1) } else { at_once };
        let limits = Limits { running, waiting_each: running * WAITING_EACH, waiting: running * WAITING };
        Self { workers: Workers::start(running), queue: FairQueue::new(limits) }
    }

    /// How many run, and how many wait.
    pub(super) fn load(&self) -> (usize, usize) {
        self.queue.load()
    }

    /// Takes a place in the queue, for one [`Place::check`].
    pub(super) fn place(&self, lane: &Lane) -> Result<Place, Error> {
        let place = self.queue.enter(lane).map_err(|_| BUSY)?;
        Ok(Place { place, workers: self.workers.clone() })
    }

    /// A new secret's hash, made in the same queue in which secrets are checked.
    pub(super) async fn hash(&self, lane: &Lane, secret: &Secret) -> Result<String, Error> {
        let secret = secret.clone();
        self.place(lane)?.run(move || secret.hash_blocking()).await
    }
}

/// A place in the queue of checks.
pub(super) struct Place {
    place: fair::Place<Lane>,
    workers: Workers,
}

impl Place {
    /// Whether the secret has this hash; no hash takes as long as a wrong one.
    pub(super) async fn check(self, secret: &SecretString, hash: Option<String>) -> Result<bool, Error> {
        let secret = secret.clone();
        self.run(move || {
            let known = hash.is_some() && secret.expose_secret().len() <= MAX_LEN;
            let text = if known { secret.expose_secret() } else { "wgs_" };
            let hash = match hash {
                Some(hash) if known => hash,
                _ => dummy_hash()?.to_owned(),
            };
            let hash =
                PasswordHash::new(&hash).map_err(|_| Error::Internal("the store holds an invalid secret hash"))?;
            Ok(argon2()?.verify_password(text.as_bytes(), &hash).is_ok() && known)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let slot = self.place.slot().await.map_err(|_| BUSY)?;
        let work = move || {
            // Owned by the work, not by the caller: a caller that goes away does not free a slot that is in use.
            let _slot = slot;
            work()
        };
        self.workers.run(work).await.ok_or(Error::Internal("the work on a secret was cut short"))?
    }
}

/// Secrets that were right a short while ago, as digests with a key of this process: a client that fetches tokens over and over
/// costs a digest, not a hash. The stored hash is part of the digest, so that a secret that was replaced is not found.
pub(super) struct RecentlyRight {
    key: hmac::Key,
    digests: Cache<[u8; 32], ()>,
}

impl RecentlyRight {
    pub(super) fn new() -> Self {
        let key: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
        let digests = Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(REMEMBERED).build();
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()), digests }
    }

    pub(super) fn has(&self, secret: &SecretString, hash: &str) -> bool {
        secret.expose_secret().len() <= MAX_LEN && self.digests.contains_key(&self.digest(secret, hash))
    }

    pub(super) fn remember(&self, secret: &SecretString, hash: &str) {
        self.digests.insert(self.digest(secret, hash), ());
    }

    fn digest(&self, secret: &SecretString, hash: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        // A PHC string holds no zero byte, so that no two pairs look alike. Its salt makes it one client's alone.
        context.update(hash.as_bytes());
        context.update(&[0]);
        context.update(secret.expose_secret().as_bytes());
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }
}

/// The hash of a secret that nobody knows.
fn dummy_hash() -> Result<&'static str, Error> {
    static HASH: OnceLock<String> = OnceLock::new();
    if let Some(hash) = HASH.get() {
        return Ok(hash);
    }
    let hash = Secret::generate().hash_blocking()?;
    Ok(HASH.get_or_init(|| hash))
}

/// Makes the dummy hash now, so that the first unknown client does not take twice as long as the others.
pub(super) async fn prepare() -> Result<(), Error> {
    tokio::task::spawn_blocking(|| dummy_hash().map(|_| ()))
        .await
        .map_err(|_| Error::Internal("a secret's hashing was cut short"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_is_known_by_its_hash_only() {
        let secret = Secret::generate();
        let hash = secret.hash().await.expect("hashed");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(secret.reveal().expose_secret().starts_with("wgs_") && secret.reveal().expose_secret().len() == 47);
        let checks = Checks::new(2);
        let check = async |secret: &SecretString, hash| {
            checks.place(&STRANGER).expect("a place").check(secret, hash).await.expect("checked")
        };
        assert!(check(secret.reveal(), Some(hash.clone())).await);
        assert!(!check(Secret::generate().reveal(), Some(hash.clone())).await);
        assert!(!check(secret.reveal(), None).await);
        assert!(!check(&"".into(), Some(hash.clone())).await);
        assert!(!check(&"x".repeat(1 << 20).into(), Some(hash)).await);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[tokio::test]
    async fn checks_and_hashes_of_one_lane_are_shed_together_and_leave_the_others_alone() {
        let checks = Checks::new(1);
        let acme = Lane::Tenant(TenantId::parse("acme").ok());
        let places: Vec<_> = (0..=WAITING_EACH).map(|_| checks.place(&acme).expect("a place")).collect();
        assert!(matches!(checks.place(&acme), Err(Error::Busy { .. })));
        let hashed = checks.hash(&acme, &Secret::generate()).await;
        assert!(matches!(hashed, Err(Error::Busy { .. })), "{hashed:?}");
        assert!(checks.place(&STRANGER).is_ok());
        drop(places);
        assert!(checks.hash(&acme, &Secret::generate()).await.is_ok());
    }

    #[test]
    fn a_secret_that_was_right_is_recognised_with_its_hash_only() {
        let (recent, secret, other) = (RecentlyRight::new(), Secret::generate(), Secret::generate());
        assert!(!recent.has(secret.reveal(), "hash"));
        recent.remember(secret.reveal(), "hash");
        assert!(recent.has(secret.reveal(), "hash"));
        assert!(!recent.has(secret.reveal(), "another hash") && !recent.has(other.reveal(), "hash"));
    }

    const STRANGER: Lane = Lane::Address(None);
}
