//! A certificate authority. No certificate that it signs is valid for longer than its own.

use std::{
    fmt,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use rand::Rng as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{
    Error, file,
    inspect::{Inspection, inspect},
    leaf::{Leaf, certificates},
};

/// How long before its signing a certificate becomes valid, because clocks differ; at most a twentieth of its lifetime.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// A certificate authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    /// Its own certificate, and those after it in its file.
    trusted: Vec<CertificateDer<'static>>,
    seen: Inspection,
}

impl Authority {
    /// A new, self-signed authority that signs leaves only.
    ///
    /// # Errors
    /// When the name is not allowed in a certificate.
    pub fn generate(common_name: &str, days: u32) -> Result<Self, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Signing)?;
        let mut params = parameters(common_name, Duration::from_secs(u64::from(days) * 86_400), None)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = false;
        let pem = params.self_signed(&key).map_err(Error::Signing)?.pem();
        Self::new(pem, key, common_name)
    }

    /// Reads an authority. Its certificate is the first in the file, followed by its chain and, during a rotation, by
    /// other authorities that are trusted as well.
    ///
    /// # Errors
    /// When a file cannot be read, the two do not belong together, or the certificate is not a CA's.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let key_pem = Zeroizing::new(file::read(key)?);
        let pair = KeyPair::from_pem(&key_pem)
            .map_err(|_| Error::Malformed { what: key.display().to_string(), expected: "private key" })?;
        let public = pair.subject_public_key_info();
        let authority = Self::new(file::read(certificate)?, pair, &certificate.display().to_string())?;
        if authority.seen.public_key() != public {
            return Err(Error::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() });
        }
        Ok(authority)
    }

    fn new(certificate_pem: String, key: KeyPair, what: &str) -> Result<Self, Error> {
        let seen = inspect(&certificate_pem)
            .map_err(|_| Error::Malformed { what: what.to_owned(), expected: "certificate" })?;
        if !seen.is_authority() {
            return Err(Error::NotAnAuthority(what.to_owned()));
        }
        let trusted = certificates(&certificate_pem, what)?;
        let issuer = Issuer::from_ca_cert_der(&trusted[0], key).map_err(Error::Signing)?;
        Ok(Self { issuer, certificate_pem, trusted, seen })
    }

    /// Writes both files: the key with mode 0600, each in one step.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, certificate: &Path, key: &Path) -> Result<(), Error> {
        file::write_secret(key, &Zeroizing::new(self.issuer.key().serialize_pem()))?;
        file::write_public(certificate, &self.certificate_pem)
    }

    /// A server's certificate. `sans` are DNS names and IP addresses.
    ///
    /// # Errors
    /// When a name is not allowed in a certificate, or the authority has expired.
    pub fn server(&self, common_name: &str, sans: &[String], lifetime: Duration) -> Result<Leaf, Error> {
        self.leaf(common_name, sans, lifetime, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's certificate; the broker uses the common name as the user name.
    ///
    /// # Errors
    /// When the name is not allowed in a certificate, or the authority has expired.
    pub fn client(&self, common_name: &str, lifetime: Duration) -> Result<Leaf, Error> {
        self.leaf(common_name, &[], lifetime, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// The authority's certificate, and those after it in its file, as PEM, for peers that trust it.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's certificate as DER.
    pub fn certificate_der(&self) -> CertificateDer<'static> {
        self.trusted[0].clone()
    }

    /// The certificates of all trusted authorities as DER, its own first.
    pub fn trusted_der(&self) -> &[CertificateDer<'static>] {
        &self.trusted
    }

    /// Its own certificate alone, as PEM.
    pub(super) fn first_pem(&self) -> String {
        self.seen.pem()
    }

    /// The contents of its certificate.
    pub fn inspection(&self) -> &Inspection {
        &self.seen
    }

    fn leaf(
        &self,
        common_name: &str,
        sans: &[String],
        lifetime: Duration,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Leaf, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Signing)?;
        let mut params = parameters(common_name, lifetime, Some(&self.seen))?;
        params.subject_alt_names = sans.iter().map(|san| alternative(san)).collect::<Result<_, _>>()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let mut pem = params.signed_by(&key, &self.issuer).map_err(Error::Signing)?.pem();
        if self.seen.subject() != self.seen.issuer() {
            // An intermediate authority: a peer that trusts only the root needs its certificate.
            pem.push_str(&self.certificate_pem);
        }
        Leaf::new(pem, Zeroizing::new(key.serialize_pem()), common_name)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("subject", &self.seen.subject())
            .field("not_after", &self.seen.not_after())
            .field("key", &"<redacted>")
            .finish()
    }
}

fn parameters(common_name: &str, lifetime: Duration, within: Option<&Inspection>) -> Result<CertificateParams, Error> {
    // RFC 5280 §A.1: ub-common-name.
    if common_name.is_empty() || common_name.len() > 64 || common_name.chars().any(char::is_control) {
        return Err(Error::Name(common_name.to_owned()));
    }
    let now = SystemTime::now();
    let mut end = now + lifetime;
    if let Some(authority) = within {
        if authority.not_after() <= now {
            return Err(Error::AuthorityExpired(authority.subject().to_owned()));
        }
        end = end.min(authority.not_after());
    }
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(now - BACKDATE.min(lifetime / 20));
    params.not_after = OffsetDateTime::from(end);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    // 20 octets at most, positive, from a cryptographic source (RFC 5280 §4.1.2.2).
    let mut serial: [u8; 16] = rand::rng().random();
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn alternative(name: &str) -> Result<SanType, Error> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let host = name.strip_prefix("*.").unwrap_or(name);
    if name.len() > 253 || !host.split('.').all(label) {
        return Err(Error::Name(name.to_owned()));
    }
    name.to_owned().try_into().map(SanType::DnsName).map_err(|_| Error::Name(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn authority() -> Authority {
        Authority::generate("Test CA", 30).expect("created")
    }

    #[test]
    fn a_server_certificate_names_its_hosts_and_its_authority() {
        let authority = authority();
        let sans = ["localhost", "*.example.test", "127.0.0.1", "::1"].map(str::to_owned);
        let leaf = authority.server("broker", &sans, DAY).expect("signed");
        let seen = inspect(leaf.certificate_pem()).expect("read");
        assert_eq!(seen.common_name(), Some("broker"));
        assert_eq!(seen.sans(), sans);
        assert!(seen.signed_by(authority.inspection()) && !seen.is_authority());
        assert!(!seen.signed_by(self::authority().inspection()), "another authority of the same name");
        assert!(seen.not_before() < SystemTime::now() && leaf.remaining() > DAY - Duration::from_secs(60));
        assert!(leaf.renew_after() > SystemTime::now() + DAY / 2 && leaf.renew_after() < leaf.not_after());
    }

    #[test]
    fn an_authority_can_be_loaded_from_its_files_and_signs_as_before() {
        let folder = tempfile::tempdir().expect("folder");
        let (certificate, key) = (folder.path().join("ca.pem"), folder.path().join("ca.key"));
        let first = authority();
        first.save(&certificate, &key).expect("saved");
        let second = Authority::load(&certificate, &key).expect("loaded");
        let leaf = second.client("wg.acme", DAY).expect("signed");
        assert!(inspect(leaf.certificate_pem()).expect("read").signed_by(first.inspection()));
        assert_eq!(first.certificate_der(), second.certificate_der());

        authority().save(&folder.path().join("other.pem"), &key).expect("saved");
        assert!(matches!(Authority::load(&certificate, &key), Err(Error::Mismatch { .. })));
    }

    #[test]
    fn a_leaf_is_not_an_authority_and_does_not_outlive_its_authority() {
        let folder = tempfile::tempdir().expect("folder");
        let (certificate, key) = (folder.path().join("leaf.pem"), folder.path().join("leaf.key"));
        let authority = authority();
        let leaf = authority.client("wg.acme", DAY * 365).expect("signed");
        assert_eq!(leaf.not_after(), authority.inspection().not_after());
        leaf.save(&certificate, &key).expect("saved");
        assert!(matches!(Authority::load(&certificate, &key), Err(Error::NotAnAuthority(_))));
        assert_eq!(Leaf::load(&certificate, &key).expect("loaded").chain_der(), leaf.chain_der());
    }

    #[test]
    fn invalid_names_are_refused() {
        let authority = authority();
        for bad in ["", "a b", "-a", "a..b", "ü", "https://x", &"a".repeat(64)] {
            assert!(matches!(authority.server("x", &[bad.to_owned()], DAY), Err(Error::Name(_))), "{bad:?}");
        }
        assert!(authority.client(&"a".repeat(65), DAY).is_err());
    }

    #[test]
    fn no_debug_output_shows_a_key() {
        let leaf = authority().client("wg.acme", DAY).expect("signed");
        let key = leaf.key_pem().lines().nth(1).expect("a line").to_owned();
        assert!(!format!("{leaf:?}").contains(&key) && format!("{leaf:?}").contains("redacted"));
    }
}
