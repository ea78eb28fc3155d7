//! Certificate authorities and the certificates that they sign: server certificates for the broker and the gateway,
//! client certificates for the provisioner and each tenant.
//!
//! Every key is ECDSA P-256 and generated here. A private key is written only to the certificate folder and only with
//! mode 0600, and no `Debug` output contains one.

mod account;
mod authority;
mod file;
mod folder;
mod inspect;
mod leaf;
mod rotation;
mod sans;
mod tenants;
mod watched;

use std::{borrow::Cow, path::PathBuf};

pub use account::{Account, DEFINITIONS_FILE, PASSWORD_FILE};
pub use authority::Authority;
pub use file::write_secret;
pub use folder::{CertsDir, Change, ChangeKind, Entry, Item, Report};
pub use inspect::{Inspection, inspect, inspect_all, inspect_der};
pub use leaf::Leaf;
pub use rotation::Step;
pub use sans::Sans;
pub use tenants::TenantCertificates;
pub use watched::Watched;

use crate::error::{Classify, Kind};

/// Common name of the provisioner's client certificate, and its user name at the broker.
pub const PROVISIONER: &str = "wg-provisioner";

/// An error with certificates or their files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("cannot {act} {}", path.display())]
    File {
        /// The operation, such as "read" or "write".
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A text without a usable certificate or key.
    #[error("{what} cannot be read as a PEM {expected}")]
    Malformed {
        /// Which file or text.
        what: String,
        /// "certificate" or "private key".
        expected: &'static str,
    },
    /// A certificate and a key that do not belong together.
    #[error("the private key {} does not belong to the certificate {}", key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A certificate that may not sign others.
    #[error("{0} is not a CA certificate (CA:TRUE is missing)")]
    NotAnAuthority(String),
    /// An expired authority.
    #[error("the authority \"{0}\" has expired; create a new certificate folder")]
    AuthorityExpired(String),
    /// An authority without its certificate or its key.
    #[error("{} exists, but {} is missing; restore it, or delete the certificate folder to start again", present.display(), missing.display())]
    Incomplete {
        /// The file that exists.
        present: PathBuf,
        /// The file that is missing.
        missing: PathBuf,
    },
    /// A step of a rotation that is not possible in the current state.
    #[error("{0}")]
    Rotation(&'static str),
    /// A subject or alternative name that is not allowed in a certificate.
    #[error("\"{0}\" is neither a DNS name nor an IP address")]
    Name(String),
    /// Signing failed.
    #[error("cannot sign a certificate")]
    Signing(#[source] rcgen::Error),
}

impl Error {
    pub(crate) fn file(act: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { act, path: path.to_owned(), source }
    }
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Name(_) => Kind::Invalid,
            Self::Malformed { .. } | Self::Mismatch { .. } | Self::NotAnAuthority(_) | Self::Incomplete { .. } => {
                Kind::Precondition
            }
            Self::AuthorityExpired(_) | Self::Rotation(_) => Kind::Precondition,
            Self::File { .. } | Self::Signing(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::File { .. } => "CERTIFICATE_FILE",
            Self::Malformed { .. } => "CERTIFICATE_MALFORMED",
            Self::Mismatch { .. } => "CERTIFICATE_KEY_MISMATCH",
            Self::NotAnAuthority(_) => "NOT_AN_AUTHORITY",
            Self::AuthorityExpired(_) => "AUTHORITY_EXPIRED",
            Self::Incomplete { .. } => "AUTHORITY_INCOMPLETE",
            Self::Rotation(_) => "AUTHORITY_ROTATION",
            Self::Name(_) => "CERTIFICATE_NAME",
            Self::Signing(_) => "CERTIFICATE_SIGNING",
        }
    }

    fn message(&self) -> Cow<'static, str> {
        match self {
            // Paths are logged, but not shown to callers.
            Self::Name(_) => self.to_string().into(),
            _ => "there is a problem with the gateway's certificates; see its log".into(),
        }
    }
}
