//! Publishing with confirms: one publisher for each stream, on a channel of its own.

mod channel;
pub(super) mod confirms;
mod outcome;
mod pending;
mod publisher;

pub use self::{
    outcome::{Settled, Verdict},
    pending::Outgoing,
    publisher::Publisher,
};
