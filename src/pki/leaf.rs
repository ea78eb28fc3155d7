//! A leaf: an end entity's certificate with its private key, signed by an authority or read from files. The key is not
//! shown by `Debug` and is erased from memory when the leaf is dropped.

use std::{
    fmt,
    path::Path,
    time::{Duration, SystemTime},
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use zeroize::Zeroizing;

use super::{
    Error, file,
    inspect::{Inspection, inspect},
};

/// A certificate, its chain, and its private key.
pub struct Leaf {
    certificate_pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: Zeroizing<Vec<u8>>,
    key_pem: Zeroizing<String>,
    not_after: SystemTime,
    renew_after: SystemTime,
}

impl Leaf {
    /// Creates a leaf from PEM texts; `renew_after` is after two thirds of the certificate's lifetime.
    pub(super) fn new(certificate_pem: String, key_pem: Zeroizing<String>, what: &str) -> Result<Self, Error> {
        let seen: Inspection = inspect(&certificate_pem)?;
        let chain = certificates(&certificate_pem, what)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| Error::Malformed { what: what.to_owned(), expected: "private key" })?;
        Ok(Self {
            chain,
            key: Zeroizing::new(key.secret_pkcs8_der().to_vec()),
            key_pem,
            not_after: seen.not_after(),
            renew_after: seen.renew_after(),
            certificate_pem,
        })
    }

    /// Reads a certificate, which its chain may follow in the file, and its PKCS #8 key.
    ///
    /// # Errors
    /// When a file cannot be read, or the two do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let leaf = Self::new(file::read(certificate)?, file::read(key)?.into(), &certificate.display().to_string())?;
        let pair = rcgen::KeyPair::from_pem(&leaf.key_pem)
            .map_err(|_| Error::Malformed { what: key.display().to_string(), expected: "private key" })?;
        if inspect(&leaf.certificate_pem)?.public_key() != rcgen::PublicKeyData::subject_public_key_info(&pair) {
            return Err(Error::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() });
        }
        Ok(leaf)
    }

    /// Writes both files atomically: first the key, with mode 0600, then the certificate. A reader between the two sees
    /// a mismatch and reads again.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, certificate: &Path, key: &Path) -> Result<(), Error> {
        file::write_secret(key, &self.key_pem)?;
        file::write_public(certificate, &self.certificate_pem)
    }

    /// The certificate and its chain as DER, the leaf first.
    pub fn chain_der(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    /// The private key as DER.
    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.to_vec()).into()
    }

    /// The certificate and its chain as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key as PKCS #8 PEM. A secret.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The end of its validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// When it should be replaced: after two thirds of its lifetime.
    pub fn renew_after(&self) -> SystemTime {
        self.renew_after
    }

    /// How long it is still valid; zero when it has expired.
    pub fn remaining(&self) -> Duration {
        self.not_after.duration_since(SystemTime::now()).unwrap_or_default()
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("not_after", &self.not_after).field("key", &"<redacted>").finish_non_exhaustive()
    }
}

/// Every certificate of a PEM text, at least one.
pub(super) fn certificates(pem: &str, what: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let malformed = || Error::Malformed { what: what.to_owned(), expected: "certificate" };
    let all: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|_| malformed())?;
    if all.is_empty() { Err(malformed()) } else { Ok(all) }
}
