//! Client secrets: generated here, shown once, and stored as an argon2id hash only. Checking a secret takes 19 MiB and
//! about 30 ms of CPU time, so checks and hashes run on low-priority threads ([`super::workers`]) behind a bounded,
//! fair queue ([`crate::fair`]). A check for an unknown client takes as long as one for a known client.

use std::{net::IpAddr, sync::OnceLock, time::Duration};

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher as _, PasswordVerifier as _, Version};
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use moka::sync::Cache;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::{Error, workers::Workers};
use crate::{
    fair::{self, FairQueue, Limits},
    names::TenantId,
};

/// OWASP's minimum parameters: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// The maximum length of a secret. Longer input is refused without hashing it.
const MAX_LEN: usize = 128;

/// Waiting checks per lane and running check; alone in the queue, the last one waits for half a second.
const WAITING_EACH: usize = 16;
/// Waiting checks in total per running check: two seconds of work.
const WAITING: usize = 64;
const BUSY: Error = Error::Busy { retry_after: Duration::from_secs(1) };
/// How long a correct secret is recognised without hashing it again, and how many are remembered.
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
    /// Generates a secret: `wgs_` and 32 random bytes in base64url.
    pub fn generate() -> Self {
        let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
        Self(format!("wgs_{}", URL_SAFE_NO_PAD.encode(bytes.as_slice())).into())
    }

    /// The secret in clear text, to be shown once.
    pub fn reveal(&self) -> &SecretString {
        &self.0
    }

    /// The tag that the store keeps with the hash, to distinguish the secret from the previous one.
    pub fn tag(&self) -> String {
        tag(&self.0)
    }

    /// The argon2id hash in PHC form. Takes about 30 ms of CPU time.
    ///
    /// # Errors
    /// When the system has no randomness or memory left.
    pub fn hash_blocking(&self) -> Result<String, Error> {
        argon2()?
            .hash_password(self.0.expose_secret().as_bytes())
            .map(|hash| hash.to_string())
            .map_err(|_| Error::Internal("a secret cannot be hashed"))
    }

    /// [`Self::hash_blocking`] on another thread.
    ///
    /// # Errors
    /// As [`Self::hash_blocking`].
    pub async fn hash(&self) -> Result<String, Error> {
        let secret = self.clone();
        tokio::task::spawn_blocking(move || secret.hash_blocking())
            .await
            .map_err(|_| Error::Internal("hashing a secret was interrupted"))?
    }
}

/// Distinguishes two secrets of one client before either is hashed, so that only one hash has to be checked. It
/// reveals 32 of a secret's 256 bits, which does not make guessing it feasible.
pub(super) fn tag(secret: &SecretString) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.expose_secret().as_bytes());
    URL_SAFE_NO_PAD.encode(&digest.as_ref()[..4])
}

fn argon2() -> Result<Argon2<'static>, Error> {
    let params =
        Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| Error::Internal("argon2 parameters are refused"))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// The lane of a check or a hash in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    /// Clients of this tenant; `None` for platform administrators.
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
    /// Runs up to `at_once` checks concurrently; 0 means half of the CPU cores, so that the other half is left for
    /// open streams.
    pub(super) fn new(at_once: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let running = if at_once == 0 { (cores / 2).max(1) } else { at_once };
        let limits = Limits { running, waiting_each: running * WAITING_EACH, waiting: running * WAITING };
        Self { workers: Workers::start(running), queue: FairQueue::new(limits) }
    }

    /// The numbers of running and of waiting checks.
    pub(super) fn load(&self) -> (usize, usize) {
        self.queue.load()
    }

    /// Enqueues a check, to be run by [`QueuedCheck::verify`].
    pub(super) fn enqueue(&self, lane: &Lane) -> Result<QueuedCheck, Error> {
        let admission = self.queue.enter(lane).map_err(|_| BUSY)?;
        Ok(QueuedCheck { admission, workers: self.workers.clone() })
    }

    /// Hashes a new secret, in the same queue in which secrets are checked.
    pub(super) async fn hash(&self, lane: &Lane, secret: &Secret) -> Result<String, Error> {
        let secret = secret.clone();
        self.enqueue(lane)?.run(move || secret.hash_blocking()).await
    }
}

/// A position in the queue of checks.
pub(super) struct QueuedCheck {
    admission: fair::Admission<Lane>,
    workers: Workers,
}

impl QueuedCheck {
    /// Whether the secret has this hash. Without a hash, it takes as long as for a wrong secret.
    pub(super) async fn verify(self, secret: &SecretString, hash: Option<String>) -> Result<bool, Error> {
        let secret = secret.clone();
        self.run(move || {
            let known = hash.is_some() && secret.expose_secret().len() <= MAX_LEN;
            let text = if known { secret.expose_secret() } else { "wgs_" };
            let hash = match hash {
                Some(hash) if known => hash,
                _ => dummy_hash()?.to_owned(),
            };
            let hash =
                PasswordHash::new(&hash).map_err(|_| Error::Internal("the store contains an invalid secret hash"))?;
            Ok(argon2()?.verify_password(text.as_bytes(), &hash).is_ok() && known)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let slot = self.admission.slot().await.map_err(|_| BUSY)?;
        let work = move || {
            // Owned by the work, not by the caller: cancelling the call does not release a slot that is in use.
            let _slot = slot;
            work()
        };
        self.workers.run(work).await.ok_or(Error::Internal("processing a secret was interrupted"))?
    }
}

/// Recently verified secrets, as digests keyed with a random key of this process, so that a client that often requests
/// tokens costs a digest instead of a hash. The stored hash is part of the digest, so that a replaced secret is not
/// found.
pub(super) struct RecentSecrets {
    key: hmac::Key,
    digests: Cache<[u8; 32], ()>,
}

impl RecentSecrets {
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
        // A PHC string contains no zero byte, so the concatenation is unambiguous. Its salt is unique for each client.
        context.update(hash.as_bytes());
        context.update(&[0]);
        context.update(secret.expose_secret().as_bytes());
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }
}

/// The hash of a random secret, for unknown clients.
fn dummy_hash() -> Result<&'static str, Error> {
    static HASH: OnceLock<String> = OnceLock::new();
    if let Some(hash) = HASH.get() {
        return Ok(hash);
    }
    let hash = Secret::generate().hash_blocking()?;
    Ok(HASH.get_or_init(|| hash))
}

/// Computes the dummy hash in advance, so that the first unknown client does not take twice as long.
pub(super) async fn prepare() -> Result<(), Error> {
    tokio::task::spawn_blocking(|| dummy_hash().map(|_| ()))
        .await
        .map_err(|_| Error::Internal("hashing a secret was interrupted"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_matches_only_its_own_hash() {
        let secret = Secret::generate();
        let hash = secret.hash().await.expect("hashed");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(secret.reveal().expose_secret().starts_with("wgs_") && secret.reveal().expose_secret().len() == 47);
        let checks = Checks::new(2);
        let check = async |secret: &SecretString, hash| {
            checks.enqueue(&UNAUTHENTICATED).expect("admitted").verify(secret, hash).await.expect("checked")
        };
        assert!(check(secret.reveal(), Some(hash.clone())).await);
        assert!(!check(Secret::generate().reveal(), Some(hash.clone())).await);
        assert!(!check(secret.reveal(), None).await);
        assert!(!check(&"".into(), Some(hash.clone())).await);
        assert!(!check(&"x".repeat(1 << 20).into(), Some(hash)).await);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[tokio::test]
    async fn checks_and_hashes_of_one_lane_share_its_limit_and_do_not_affect_other_lanes() {
        let checks = Checks::new(1);
        let acme = Lane::Tenant(TenantId::parse("acme").ok());
        let queued: Vec<_> = (0..=WAITING_EACH).map(|_| checks.enqueue(&acme).expect("admitted")).collect();
        assert!(matches!(checks.enqueue(&acme), Err(Error::Busy { .. })));
        let hashed = checks.hash(&acme, &Secret::generate()).await;
        assert!(matches!(hashed, Err(Error::Busy { .. })), "{hashed:?}");
        assert!(checks.enqueue(&UNAUTHENTICATED).is_ok());
        drop(queued);
        assert!(checks.hash(&acme, &Secret::generate()).await.is_ok());
    }

    #[test]
    fn a_verified_secret_is_recognised_only_together_with_its_hash() {
        let (recent, secret, other) = (RecentSecrets::new(), Secret::generate(), Secret::generate());
        assert!(!recent.has(secret.reveal(), "hash"));
        recent.remember(secret.reveal(), "hash");
        assert!(recent.has(secret.reveal(), "hash"));
        assert!(!recent.has(secret.reveal(), "another hash") && !recent.has(other.reveal(), "hash"));
    }

    const UNAUTHENTICATED: Lane = Lane::Address(None);
}
