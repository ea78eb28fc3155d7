//! The right by which an administrator makes a change, checked in the transaction that makes it: an administrator who was
//! demoted or revoked on another gateway a moment ago changes nothing any more.

use std::time::SystemTime;

use sqlx::{Any, Transaction};

use super::{Error, clients};
use crate::names::ClientId;

/// What an administrator was admitted by.
#[derive(Debug, Clone)]
pub struct Authority {
    /// The administrator.
    pub client: ClientId,
    /// When its token was issued.
    pub issued: SystemTime,
    /// The grants that it was admitted with, as the store had them.
    pub grants: String,
}

impl Authority {
    /// The grants must be the same text: what other grants would allow is not this layer's to decide.
    pub(super) async fn check(&self, tx: &mut Transaction<'static, Any>) -> Result<(), Error> {
        match clients::one(tx, &self.client).await? {
            Some(row) if !row.revoked && row.not_before <= self.issued && row.grants == self.grants => Ok(()),
            _ => Err(Error::AuthorityChanged),
        }
    }
}
