//! Authentication of HTTP requests. A valid token's [`Caller`] is stored in the request's extensions. A request
//! without a token is passed on without a caller, for the few calls that need none; all others use
//! [`Caller::from_request`], which refuses it.

use http::{Extensions, HeaderMap, header::AUTHORIZATION};

use super::{Caller, Error, Verifier};

/// Reads `authorization: Bearer <token>` and stores the caller in the extensions.
///
/// # Errors
/// When the header is present but is not exactly one valid token.
pub fn authenticate(verifier: &Verifier, headers: &HeaderMap, extensions: &mut Extensions) -> Result<(), Error> {
    extensions.remove::<Caller>();
    if let Some(token) = bearer(headers)? {
        extensions.insert(verifier.verify(token)?);
    }
    Ok(())
}

/// [`authenticate`] for the head of an HTTP request. It removes the header, so that the token cannot be logged later.
///
/// # Errors
/// As [`authenticate`].
pub fn authenticate_parts(verifier: &Verifier, parts: &mut http::request::Parts) -> Result<(), Error> {
    let result = authenticate(verifier, &parts.headers, &mut parts.extensions);
    parts.headers.remove(AUTHORIZATION);
    result
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::invalid("more than one authorization header"));
    }
    let value = value.to_str().map_err(|_| Error::invalid("not ASCII"))?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(Error::invalid("not a bearer token")),
    }
}
