//! Streams: the state machines behind publish and subscribe calls.
//!
//! [`publish`] keeps a window and gives every message exactly one outcome. [`subscribe`] keeps windows and leases and
//! settles deliveries; [`receive`] feeds it for clients that cannot stream requests. All of them end with the token,
//! the client, the tenant or the gateway ([`session`]). Neither tonic nor lapin is used here, so that the bookkeeping
//! is tested without them.

pub mod connection_end;
pub mod drain;
pub mod open_streams;
mod outstanding;
pub mod publish;
pub mod receive;
pub mod session;
pub mod subscribe;

use futures_util::Stream;

use crate::error::Failure;

/// Frames from a peer; an error is one that cannot be decoded, or a connection that broke.
pub trait Incoming<T>: Stream<Item = Result<T, Failure>> + Send + Unpin + 'static {}

impl<T, S: Stream<Item = Result<T, Failure>> + Send + Unpin + 'static> Incoming<T> for S {}

/// How many frames may wait for a peer that reads slowly.
const FRAMES_AHEAD: usize = 4;
