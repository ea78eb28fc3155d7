//! Encryption of private keys at rest: AES-256-GCM with the key id as associated data, so that encrypted keys cannot
//! be exchanged between rows.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::Error;

/// The key that encrypts private signing keys in the database.
pub struct EncryptionKey(RandomizedNonceKey);

impl std::fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EncryptionKey(..)")
    }
}

impl EncryptionKey {
    /// Parses 32 bytes in base64.
    ///
    /// # Errors
    /// [`Error::EncryptionKey`] if the text is anything else.
    pub fn parse(text: &SecretString) -> Result<Self, Error> {
        let bytes = Zeroizing::new(STANDARD.decode(text.expose_secret().trim()).map_err(|_| Error::EncryptionKey)?);
        RandomizedNonceKey::new(&AES_256_GCM, &bytes).map(Self).map_err(|_| Error::EncryptionKey)
    }

    /// Generates a random key, in base64, for a configuration that has none.
    pub fn generate() -> SecretString {
        let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
        STANDARD.encode(bytes.as_slice()).into()
    }

    /// Encrypts; the result is nonce, ciphertext and tag in base64.
    pub(super) fn seal(&self, kid: &str, plain: &[u8]) -> Result<String, Error> {
        let mut buffer = plain.to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(kid), &mut buffer).map_err(|_| Error::EncryptionKey)?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.append(&mut buffer);
        Ok(STANDARD.encode(sealed))
    }

    /// Decrypts the result of [`Self::seal`].
    pub(super) fn open(&self, kid: &str, sealed: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
        let refused = || Error::Sealed { kid: kid.to_owned() };
        let mut bytes = STANDARD.decode(sealed).map_err(|_| refused())?;
        let (nonce, cipher) = bytes.split_at_mut_checked(NONCE_LEN).ok_or_else(refused)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| refused())?;
        let plain = self.0.open_in_place(nonce, Aad::from(kid), cipher).map_err(|_| refused())?;
        let opened = Zeroizing::new(plain.to_vec());
        zeroize::Zeroize::zeroize(&mut bytes);
        Ok(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encrypted_key_can_only_be_decrypted_with_the_same_key_and_id() {
        let key = EncryptionKey::parse(&EncryptionKey::generate()).expect("a key");
        let sealed = key.seal("k1", b"private").expect("sealed");
        assert!(!sealed.contains("private"));
        assert_eq!(key.open("k1", &sealed).expect("opened").as_slice(), b"private");
        assert!(key.open("k2", &sealed).is_err());
        let other = EncryptionKey::parse(&EncryptionKey::generate()).expect("a key");
        assert!(other.open("k1", &sealed).is_err());
        for bad in ["", "!!", "AAAA"] {
            assert!(key.open("k1", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_encryption_key_of_a_wrong_size_is_refused() {
        for bad in ["", "short", "AAAA", "AAAAAAAAAAAAAAAAAAAAAA=="] {
            assert!(EncryptionKey::parse(&bad.into()).is_err(), "{bad:?}");
        }
    }
}
