//! The life of a stream. Frames and a [`crate::tenant::TenantScope`] enter, frames leave, and between them stand the two
//! machines: [`publish`] keeps the window and gives every message one outcome, [`subscribe`] keeps the leases and settles; [`receive`]
//! feeds it for those who cannot stream upwards.
//! Both end when the token, the client, the tenant or the gateway does ([`session`]). No tonic and no lapin here, so that
//! the bookkeeping can be tested without either.

pub mod drain;
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
