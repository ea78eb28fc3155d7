//! Validated names.
//!
//! Invariant: a value of these types is valid, so no other module validates it again. A tenant id is safe in a vhost's
//! name, a certificate's subject and a URL, and the name of a queue belongs neither to the gateway (`wg.`) nor to the
//! broker (`amq.`).

mod broker;
mod identity;
mod pattern;

pub use broker::{DEFAULT_EXCHANGE, ExchangeName, QueueName, RoutingKey};
pub use identity::{ClientId, ClientName, PlanName, TenantId};
pub use pattern::Pattern;

use std::borrow::Cow;

use crate::error::{Classify, Kind};

/// Why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is empty.
    #[error("must not be empty")]
    Empty,
    /// More bytes than allowed.
    #[error("has {len} bytes; at most {max} are allowed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The allowed length in bytes.
        max: usize,
    },
    /// A character or a form that is not allowed.
    #[error("{0}")]
    Form(&'static str),
    /// A name that is reserved for the gateway or the broker.
    #[error("names beginning with \"wg.\" or \"amq.\" are reserved; choose another")]
    Reserved,
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Reserved => "RESERVED_NAME",
            _ => "INVALID_NAME",
        }
    }

    fn message(&self) -> Cow<'static, str> {
        self.to_string().into()
    }
}

/// The accessors that every name has.
macro_rules! text_accessors {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::str::FromStr for $name {
            type Err = $crate::names::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }
    };
}
use text_accessors;

fn length(text: &str, max: usize) -> Result<(), Error> {
    match text.len() {
        0 => Err(Error::Empty),
        len if len > max => Err(Error::TooLong { len, max }),
        _ => Ok(()),
    }
}

/// The number of cases of a property test: 20,000, or PROPTEST_CASES.
#[cfg(test)]
pub(crate) fn cases() -> proptest::test_runner::Config {
    let config = proptest::test_runner::Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { 20_000 };
    proptest::test_runner::Config { cases, ..config }
}
