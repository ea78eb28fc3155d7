//! What a tenant's administrator may give. It may manage every client of its tenant, but neither give nor take over more than
//! it has itself; otherwise "administer" alone would be everything, by way of a client that it creates for itself or whose
//! secret it rotates.

use super::Error;
use crate::{auth::Grants, tenant::Administrator};

/// Whether this administrator may hand out, or take over, these grants.
pub(super) fn check(who: &Administrator, grants: &Grants) -> Result<(), Error> {
    if who.is_platform() || who.grants().covers(grants) { Ok(()) } else { Err(Error::GrantsExceedOwn) }
}
