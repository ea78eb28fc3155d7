//! Client secrets. A secret is made here, shown once, and kept as an argon2id hash only. Checking one costs 19 MiB and a
//! core for some 30 ms: checks run beside the runtime, on threads that give way to it ([`workers`]), a bounded number at once, a
//! bounded number waiting, and an unknown client costs exactly what a known one does.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher as _, PasswordVerifier as _, Version};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::{Error, workers::Workers};

/// OWASP's minimum: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// A longer text is no secret of ours, and is not worth hashing.
const MAX_LEN: usize = 128;

/// Checks that may wait, for each that may run: with 16 the last one waits for half a second.
const WAITING_PER_CHECK: usize = 16;
const RETRY_AFTER: Duration = Duration::from_secs(1);

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

/// What tells two secrets of one client apart before either is hashed: 32 of a secret's 256 bits' worth, so that one hash is
/// looked at and not two. Whoever has it has gained nothing.
pub(super) fn tag(secret: &SecretString) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.expose_secret().as_bytes());
    URL_SAFE_NO_PAD.encode(&digest.as_ref()[..4])
}

fn argon2() -> Result<Argon2<'static>, Error> {
    let params =
        Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| Error::Internal("argon2 parameters are refused"))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// The bounded place where secrets are checked.
#[derive(Debug)]
pub(super) struct Checks {
    at_once: usize,
    running: Arc<Semaphore>,
    places: Arc<Semaphore>,
    workers: Workers,
}

impl Checks {
    /// So many at once; 0 is half of the machine's cores, so that the other half stays with those who are in already.
    pub(super) fn new(at_once: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let at_once = if at_once == 0 { (cores / 2).max(1) } else { at_once };
        Self {
            workers: Workers::start(at_once),
            at_once,
            running: Arc::new(Semaphore::new(at_once)),
            places: Arc::new(Semaphore::new(at_once * (WAITING_PER_CHECK + 1))),
        }
    }

    /// How many run, and how many wait.
    pub(super) fn load(&self) -> (usize, usize) {
        let running = self.at_once - self.running.available_permits();
        let taken = self.at_once * (WAITING_PER_CHECK + 1) - self.places.available_permits();
        (running, taken.saturating_sub(running))
    }

    /// Takes a place in the queue, for one [`Place::check`].
    pub(super) fn place(&self) -> Result<Place, Error> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| Error::Busy { retry_after: RETRY_AFTER })?;
        Ok(Place { place, running: self.running.clone(), workers: self.workers.clone() })
    }

    /// A new secret's hash, made where secrets are checked: as many at once, and giving way like them.
    pub(super) async fn hash(&self, secret: &Secret) -> Result<String, Error> {
        let secret = secret.clone();
        let work = move || secret.hash_blocking();
        self.workers.run(work).await.ok_or(Error::Internal("a secret's hashing was cut short"))?
    }
}

/// A place in the queue of checks.
pub(super) struct Place {
    place: tokio::sync::OwnedSemaphorePermit,
    running: Arc<Semaphore>,
    workers: Workers,
}

impl Place {
    /// Whether the secret has this hash; no hash takes as long as a wrong one.
    pub(super) async fn check(self, secret: &SecretString, hash: Option<String>) -> Result<bool, Error> {
        let running = self.running.acquire_owned().await.map_err(|_| Error::Internal("secret checks are closed"))?;
        let secret = secret.clone();
        let place = self.place;
        let work = move || {
            // Held by the work, not by the caller: a caller that goes away does not make room for more than may run.
            let _permits = (running, place);
            let known = hash.is_some() && secret.expose_secret().len() <= MAX_LEN;
            let text = if known { secret.expose_secret() } else { "wgs_" };
            let hash = match hash {
                Some(hash) if known => hash,
                _ => dummy_hash()?.to_owned(),
            };
            let hash =
                PasswordHash::new(&hash).map_err(|_| Error::Internal("the store holds an invalid secret hash"))?;
            Ok(argon2()?.verify_password(text.as_bytes(), &hash).is_ok() && known)
        };
        self.workers.run(work).await.ok_or(Error::Internal("a secret check was cut short"))?
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
            checks.place().expect("a place").check(secret, hash).await.expect("checked")
        };
        assert!(check(secret.reveal(), Some(hash.clone())).await);
        assert!(!check(Secret::generate().reveal(), Some(hash.clone())).await);
        assert!(!check(secret.reveal(), None).await);
        assert!(!check(&"".into(), Some(hash.clone())).await);
        assert!(!check(&"x".repeat(1 << 20).into(), Some(hash)).await);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn a_full_queue_is_shed_at_once() {
        let checks = Checks::new(1);
        let places: Vec<_> = (0..=WAITING_PER_CHECK).map(|_| checks.place().expect("a place")).collect();
        assert!(matches!(checks.place(), Err(Error::Busy { .. })));
        drop(places);
        assert!(checks.place().is_ok());
    }
}
