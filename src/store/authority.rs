//! The right of an administrator, checked in the transaction that makes a change: an administrator who was demoted or
//! revoked on another gateway can change nothing more.

use std::time::SystemTime;

use sqlx::{Any, Transaction};

use super::{Error, clients};
use crate::names::ClientId;

/// The administrator and the right with which it was admitted.
#[derive(Debug, Clone)]
pub struct Authority {
    /// The administrator.
    pub client: ClientId,
    /// When its token was issued.
    pub issued: SystemTime,
    /// The grants with which it was admitted, in the store's form.
    pub grants: String,
}

impl Authority {
    /// The grants must be unchanged: this layer cannot judge what other grants would allow.
    pub(super) async fn check(&self, tx: &mut Transaction<'static, Any>) -> Result<(), Error> {
        match clients::one(tx, &self.client).await? {
            Some(row) if !row.revoked && row.not_before <= self.issued && row.grants == self.grants => Ok(()),
            _ => Err(Error::AuthorityChanged),
        }
    }
}
