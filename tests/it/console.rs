//! The web console over HTTP, as a browser without scripts uses it.

mod administrator;
mod security;
mod tenant;
