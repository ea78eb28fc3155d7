//! Publishing with confirms: one publisher for each stream, on a channel of its own.

mod channel;
pub(super) mod confirms;
pub(super) mod outcome;
pub(super) mod pending;
pub(super) mod publisher;
