//! What `rabbitmq_http_client` calls of rbase64, by way of `base64`. The real one sets mimalloc as the allocator of every program
//! that it is in, and a program has one.

#![forbid(unsafe_code)]

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Base64 with padding (RFC 4648, section 4).
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
