//! The web console over HTTP, as a browser without scripts uses it.

mod administrator;
mod issuer;
mod security;
mod tenant;
