//! Rotation and revocation of credentials: the keys that sign tokens, and a tenant's certificate at the broker.

use std::sync::Arc;

use super::{
    context::AdminContext,
    error::{Error, invalid, named},
    fields::timestamp,
};
use crate::{names::TenantId, pb, tenant::Administrator};

pub(super) async fn signing_key(
    context: Arc<AdminContext>,
    _who: Administrator,
    _request: pb::RotateSigningKeyRequest,
) -> Result<pb::RotateSigningKeyResponse, Error> {
    let rotated = context.issuer.rotate_key(&context.store).await?;
    context.refresh_registry().await;
    Ok(pb::RotateSigningKeyResponse { key_id: rotated.kid, previous_expires: timestamp(rotated.previous_until) })
}

pub(super) async fn revoke_signing_key(
    context: Arc<AdminContext>,
    _who: Administrator,
    request: pb::RevokeSigningKeyRequest,
) -> Result<pb::RevokeSigningKeyResponse, Error> {
    let kid = match (request.key_id.as_str(), request.all) {
        ("", true) => None,
        ("", false) => return Err(invalid("key_id", "is required unless \"all\" is set")),
        (_, true) => return Err(invalid("all", "and key_id are mutually exclusive")),
        (kid, false) => Some(kid),
    };
    let key_ids = context.issuer.revoke_keys(&context.store, kid).await?;
    if key_ids.is_empty() {
        return Err(Error::NotFound("signing key"));
    }
    context.refresh_registry().await;
    Ok(pb::RevokeSigningKeyResponse { key_ids })
}

pub(super) async fn broker_credentials(
    context: Arc<AdminContext>,
    _who: Administrator,
    request: pb::RotateBrokerCredentialsRequest,
) -> Result<pb::RotateBrokerCredentialsResponse, Error> {
    let id = named("tenant", TenantId::parse(&request.tenant))?;
    let requested = context.store.rotate_tenant_credentials(&id).await?.ok_or(Error::NotFound("tenant"))?;
    let expires = context.broker.renew_credentials(&id, requested).await?;
    // Other gateways read it from the store and do the same.
    context.refresh_registry().await;
    Ok(pb::RotateBrokerCredentialsResponse { expires: timestamp(expires) })
}
