//! The web console over HTTP, as a browser without scripts uses it.

mod administrator;
mod attacks;
mod broker_away;
mod broker_names;
mod gateways;
mod issuer;
mod security;
mod tenant;
