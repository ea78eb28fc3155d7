//! Rotation and revocation of credentials: the keys that sign tokens, and a tenant's certificate at the broker.

use std::sync::Arc;

use super::{
    act::AdminContext,
    error::{Error, invalid, named},
    fields::timestamp,
};
use crate::{names::TenantId, pb, tenant::Administrator};

pub(super) async fn signing_key(
    desk: Arc<AdminContext>,
    _who: Administrator,
    _request: pb::RotateSigningKeyRequest,
) -> Result<pb::RotateSigningKeyResponse, Error> {
    let rotated = desk.issuer.rotate_key(&desk.store).await?;
    desk.refresh_registry().await;
    Ok(pb::RotateSigningKeyResponse { key_id: rotated.kid, previous_expires: timestamp(rotated.previous_until) })
}

pub(super) async fn revoke_signing_key(
    desk: Arc<AdminContext>,
    _who: Administrator,
    request: pb::RevokeSigningKeyRequest,
) -> Result<pb::RevokeSigningKeyResponse, Error> {
    let kid = match (request.key_id.as_str(), request.all) {
        ("", true) => None,
        ("", false) => return Err(invalid("key_id", "is required, unless all keys are meant")),
        (_, true) => return Err(invalid("all", "and key_id exclude each other")),
        (kid, false) => Some(kid),
    };
    let key_ids = desk.issuer.revoke_keys(&desk.store, kid).await?;
    if key_ids.is_empty() {
        return Err(Error::NotFound("signing key"));
    }
    desk.refresh_registry().await;
    Ok(pb::RevokeSigningKeyResponse { key_ids })
}

pub(super) async fn broker_credentials(
    desk: Arc<AdminContext>,
    _who: Administrator,
    request: pb::RotateBrokerCredentialsRequest,
) -> Result<pb::RotateBrokerCredentialsResponse, Error> {
    let id = named("tenant", TenantId::parse(&request.tenant))?;
    let asked = desk.store.rotate_tenant_credentials(&id).await?.ok_or(Error::NotFound("tenant"))?;
    let expires = desk.broker.renew_credentials(&id, asked).await?;
    // Other gateways learn of it from the store, and do the same.
    desk.refresh_registry().await;
    Ok(pb::RotateBrokerCredentialsResponse { expires: timestamp(expires) })
}
