//! The limits of a tenant's administrator. It may manage every client of its tenant, but neither grant nor take over
//! permissions that it does not have itself. Otherwise "administer" alone would include everything, by creating a
//! client or rotating another client's secret.

use super::Error;
use crate::{auth::Grants, tenant::Administrator};

/// Whether this administrator may grant or take over these grants.
pub(super) fn check(who: &Administrator, grants: &Grants) -> Result<(), Error> {
    if who.is_platform() || who.grants().covers(grants) { Ok(()) } else { Err(Error::GrantsExceedOwn) }
}
