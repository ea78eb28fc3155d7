//! Authentication and grants. The [`Issuer`] exchanges a client's id and secret for a signed token; the [`Verifier`]
//! turns a token of the gateway or of an external issuer into a [`Caller`]. Nothing else can create a `Caller`, and
//! every refusal of a token looks the same to the caller.

mod caller;
mod claims;
mod coverage;
mod error;
mod external;
mod grants;
mod http;
mod issuer;
mod secret;
mod throttle;
mod token_cache;
mod verifier;
mod workers;

pub use self::http::{authenticate, authenticate_parts};
pub use caller::Caller;
pub use error::Error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use external::fuzz_key_set;
pub use external::{BegunFlow, CodeFlow, PersonTokens, SignInError, check_issuer, error_code_of_issuer};
pub use grants::Grants;
pub use issuer::{IssuedToken, Issuer, RotatedKey};
pub use secret::Secret;
pub use throttle::network;
pub use verifier::Verifier;

#[cfg(test)]
mod tests;
