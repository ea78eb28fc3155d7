//! Who calls, and what they may do. A client's id and secret enter, a signed token leaves ([`Issuer`]); a token enters, ours or that
//! of an issuer beside us, a [`Caller`] leaves ([`Verifier`]). Nobody else can make a `Caller`, and every refusal of a token looks the same outside.

mod caller;
mod claims;
mod coverage;
mod error;
mod fair;
mod foreign;
mod grants;
mod http;
mod issuer;
mod secret;
mod seen;
mod throttle;
mod verifier;
mod workers;

pub use self::http::{authenticate, authenticate_parts};
pub use caller::Caller;
pub use error::Error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use foreign::fuzz_key_set;
pub use foreign::look as look_at_issuer;
pub use grants::Grants;
pub use issuer::{IssuedToken, Issuer, RotatedKey};
pub use secret::Secret;
pub use throttle::network;
pub use verifier::Verifier;

#[cfg(test)]
mod tests;
