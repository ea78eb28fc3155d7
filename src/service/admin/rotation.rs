//! New credentials in place of old ones, without an interruption: the key that signs tokens, and a tenant's certificate at the
//! broker.

use std::sync::Arc;

use super::{
    act::Desk,
    error::{Error, named},
    fields::timestamp,
};
use crate::{names::TenantId, pb, tenant::Administrator};

pub(super) async fn signing_key(
    desk: Arc<Desk>,
    _who: Administrator,
    _request: pb::RotateSigningKeyRequest,
) -> Result<pb::RotateSigningKeyResponse, Error> {
    let rotated = desk.issuer.rotate_key().await?;
    // Others read their keys when the store's revision moves; so does this one, again.
    desk.spread().await;
    Ok(pb::RotateSigningKeyResponse { key_id: rotated.kid, previous_expires: timestamp(rotated.previous_until) })
}

pub(super) async fn broker_credentials(
    desk: Arc<Desk>,
    _who: Administrator,
    request: pb::RotateBrokerCredentialsRequest,
) -> Result<pb::RotateBrokerCredentialsResponse, Error> {
    let id = named("tenant", TenantId::parse(&request.tenant))?;
    let asked = desk.store.rotate_tenant_credentials(&id).await?.ok_or(Error::NotFound("tenant"))?;
    let expires = desk.broker.renew_credentials(&id, asked).await?;
    // The others hear of it by the store, and do the same.
    desk.spread().await;
    Ok(pb::RotateBrokerCredentialsResponse { expires: timestamp(expires) })
}
