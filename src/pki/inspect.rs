//! The contents of certificates as plain values. Nothing is verified, except by [`Inspection::signed_by`].

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    pem::{Pem, parse_x509_pem},
    prelude::FromDer as _,
    time::ASN1Time,
};

use super::Error;

/// A certificate's readable contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    subject: String,
    common_name: Option<String>,
    issuer: String,
    sans: Vec<String>,
    not_before: SystemTime,
    not_after: SystemTime,
    serial: String,
    authority: bool,
    der: Vec<u8>,
    public_key: Vec<u8>,
}

/// Reads the first certificate of a PEM text.
///
/// # Errors
/// When the text contains no certificate.
pub fn inspect(pem: &str) -> Result<Inspection, Error> {
    let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|_| malformed())?;
    inspect_der(&block.contents)
}

/// Reads all certificates of a PEM text, at least one, in order.
///
/// # Errors
/// When the text contains no certificate, or one that cannot be read.
pub fn inspect_all(pem: &str) -> Result<Vec<Inspection>, Error> {
    let all: Vec<_> = Pem::iter_from_buffer(pem.as_bytes())
        .map(|block| block.map_err(|_| malformed()).and_then(|block| inspect_der(&block.contents)))
        .collect::<Result<_, _>>()?;
    if all.is_empty() { Err(malformed()) } else { Ok(all) }
}

fn malformed() -> Error {
    Error::Malformed { what: "the text given".to_owned(), expected: "certificate" }
}

/// Reads one certificate in DER, as a TLS handshake presents it.
///
/// # Errors
/// When it is not a certificate.
pub fn inspect_der(der: &[u8]) -> Result<Inspection, Error> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| malformed())?;
    let sans = match certificate.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.iter().filter_map(san).collect(),
        _ => Vec::new(),
    };
    Ok(Inspection {
        subject: certificate.subject().to_string(),
        common_name: certificate.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok()).map(str::to_owned),
        issuer: certificate.issuer().to_string(),
        sans,
        not_before: moment(certificate.validity().not_before),
        not_after: moment(certificate.validity().not_after),
        serial: certificate.raw_serial_as_string(),
        authority: certificate.is_ca(),
        public_key: certificate.public_key().raw.to_vec(),
        der: der.to_vec(),
    })
}

impl Inspection {
    /// The subject's distinguished name.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The subject's (first) common name.
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// The issuer's distinguished name.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Its DNS names and IP addresses.
    pub fn sans(&self) -> &[String] {
        &self.sans
    }

    /// The start of its validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The end of its validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// When it should be replaced: after two thirds of its lifetime.
    pub fn renew_after(&self) -> SystemTime {
        let lifetime = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + lifetime * 2 / 3
    }

    /// The serial number in hexadecimal, bytes separated by colons.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Whether it may sign others.
    pub fn is_authority(&self) -> bool {
        self.authority
    }

    /// Whether this authority signed it, by key and by name.
    pub fn signed_by(&self, authority: &Self) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(&self.der) else { return false };
        let Ok((_, issuer)) = X509Certificate::from_der(&authority.der) else { return false };
        certificate.issuer().as_raw() == issuer.subject().as_raw()
            && certificate.verify_signature(Some(issuer.public_key())).is_ok()
    }

    /// The whole certificate (DER).
    pub(super) fn der(&self) -> &[u8] {
        &self.der
    }

    /// The whole certificate, as PEM.
    pub(super) fn pem(&self) -> String {
        let base64 = STANDARD.encode(&self.der);
        // RFC 7468: 64 characters a line.
        let lines = base64.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n");
        format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", lines.collect::<String>())
    }

    /// The public key (DER, SubjectPublicKeyInfo).
    pub(super) fn public_key(&self) -> Vec<u8> {
        self.public_key.clone()
    }
}

fn san(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| std::net::Ipv4Addr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| std::net::Ipv6Addr::from(b).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn moment(time: ASN1Time) -> SystemTime {
    // A time before 1970 counts as 1970.
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}
