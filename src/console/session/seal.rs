//! Encryption of cookies: AES-256-GCM with the purpose of the cookie as associated data, so that one kind of cookie is
//! not accepted as another.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

/// The key of sessions is invalid.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("console.session_key must be 32 bytes in base64; `openssl rand -base64 32` creates one")]
pub struct Error;

pub(super) struct Sealer(RandomizedNonceKey);

impl Sealer {
    /// With the key from the configuration, or a random one.
    pub(super) fn new(key: Option<&SecretString>) -> Result<Self, Error> {
        let bytes = Zeroizing::new(match key {
            Some(key) => STANDARD.decode(key.expose_secret().trim()).map_err(|_| Error)?,
            None => rand::random::<[u8; 32]>().to_vec(),
        });
        RandomizedNonceKey::new(&AES_256_GCM, &bytes).map(Self).map_err(|_| Error)
    }

    /// Nonce, ciphertext and tag in base64.
    pub(super) fn seal(&self, purpose: &str, plain: &[u8]) -> Option<String> {
        let mut buffer = plain.to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(purpose), &mut buffer).ok()?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.append(&mut buffer);
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// What [`Self::seal`] made for the same purpose.
    pub(super) fn open(&self, purpose: &str, sealed: &str) -> Option<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(sealed).ok()?);
        let (nonce, cipher) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = self.0.open_in_place(nonce, Aad::from(purpose), cipher).ok()?;
        Some(Zeroizing::new(plain.to_vec()))
    }
}
