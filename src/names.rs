//! Names, parsed once. Text from outside enters; what leaves is a type that cannot hold a bad name, so that no room below
//! checks again: a tenant id is safe in a vhost, a certificate subject and a URL; a queue's name cannot reach the
//! gateway's own (`wg.`) or the broker's (`amq.`).

mod broker;
mod identity;
mod pattern;

pub use broker::{DEFAULT_EXCHANGE, ExchangeName, QueueName, RoutingKey};
pub use identity::{ClientId, ClientName, PlanName, TenantId};
pub use pattern::Pattern;

use std::borrow::Cow;

use crate::error::{Classify, Kind};

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// More bytes than allowed.
    #[error("has {len} bytes; at most {max} are allowed")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A character or a form that is not allowed.
    #[error("{0}")]
    Form(&'static str),
    /// A name of the gateway's or the broker's own.
    #[error("names beginning with \"wg.\" or \"amq.\" belong to the gateway and the broker; choose another")]
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

/// Private text with the accessors that every name has.
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

/// How much property tests try: 20,000 cases, or as many as PROPTEST_CASES says.
#[cfg(test)]
pub(crate) fn cases() -> proptest::test_runner::Config {
    let config = proptest::test_runner::Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { 20_000 };
    proptest::test_runner::Config { cases, ..config }
}
