//! Certificates. An authority's key enters, from a file or newly made; leaves come out: the broker's and the gateway's server
//! certificates, the provisioner's and each tenant's client certificate. Invariants: every key is ECDSA P-256 made here, a
//! private key reaches the disk only with mode 0600 and only in the certificate folder, and no `Debug` shows one.

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
pub use folder::{CertsDir, Change, Entry, Item, Report, What};
pub use inspect::{Inspection, inspect, inspect_all, inspect_der};
pub use leaf::Leaf;
pub use rotation::Step;
pub use sans::Sans;
pub use tenants::TenantCertificates;
pub use watched::Watched;

use crate::error::{Classify, Kind};

/// Common name of the provisioner's client certificate, and its user name at the broker.
pub const PROVISIONER: &str = "wg-provisioner";

/// What goes wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("cannot {act} {}", path.display())]
    File {
        /// "read", "write" …
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Text that holds no certificate or key that can be used.
    #[error("{what} cannot be read as a PEM {expected}")]
    Malformed {
        /// Which file or text.
        what: String,
        /// "certificate" or "private key".
        expected: &'static str,
    },
    /// A certificate and a key that are no pair.
    #[error("the private key {} does not belong to the certificate {}", key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A certificate that may not sign others.
    #[error("{0} is not an authority's certificate (CA:TRUE is missing)")]
    NotAnAuthority(String),
    /// An authority whose time is over.
    #[error("the authority \"{0}\" has expired; make a new certificate folder")]
    AuthorityExpired(String),
    /// Half an authority: nobody can tell which half is right.
    #[error("{} is there, but {} is missing; bring it back, or remove the certificate folder to start anew", present.display(), missing.display())]
    Incomplete {
        /// The half that is there.
        present: PathBuf,
        /// The half that is not.
        missing: PathBuf,
    },
    /// A step from one authority to the next that is not its turn.
    #[error("{0}")]
    Rotation(&'static str),
    /// A subject or alternative name that a certificate cannot carry.
    #[error("\"{0}\" is no DNS name and no IP address")]
    Name(String),
    /// Signing failed.
    #[error("a certificate could not be made")]
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
            // Paths of this machine are for the log, not for a peer.
            Self::Name(_) => self.to_string().into(),
            _ => "the gateway's certificates need an administrator's attention".into(),
        }
    }
}
