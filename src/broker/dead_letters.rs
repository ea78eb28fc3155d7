//! A tenant's dead letters: listing them, redriving them to their queues, deleting them.

pub(super) mod edit;
mod exclusive_session;
pub(super) mod handle;
pub(super) mod letter;
pub(super) mod redrive;
