//! Publishing with confirms: the publishers of a tenant share lanes (docs/adr/0017).

mod channel;
pub(super) mod confirms;
pub(super) mod lane;
pub(super) mod lanes;
mod lookups;
mod mailbox;
mod members;
pub(super) mod outcome;
pub(super) mod pending;
pub(super) mod publisher;
