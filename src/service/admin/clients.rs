//! Administration of clients. A client id contains its tenant, and an administrator of another tenant is refused
//! whether the client exists or not. A secret is shown once, in the response; only its hash is stored.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use secrecy::ExposeSecret as _;

use super::{
    context::AdminContext,
    error::{Error, invalid, named},
    fields::{self, timestamp},
    grants,
};
use crate::{
    auth::{Grants, Secret},
    names::{ClientId, TenantId},
    pb,
    service::page::Page,
    store::{self, ClientChanges, ClientRow, ExternalIdentity, NewClient},
    tenant::Administrator,
};

/// The maximum length of an external id in bytes.
const MAX_EXTERNAL_ID: usize = 500;
/// The maximum time for which two secrets of a client are valid.
const MAX_OVERLAP: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) async fn create(
    context: Arc<AdminContext>,
    who: Administrator,
    request: pb::CreateClientRequest,
) -> Result<pb::CreateClientResponse, Error> {
    let wanted = Wanted::parse(request.client.as_ref())?;
    wanted.may_be_managed_by(&who)?;
    fields::request_id(&request.request_id)?;
    wanted.check_grants(&who)?;
    wanted.check_issuer(&context)?;
    let max = match wanted.id.tenant() {
        Some(tenant) => {
            let row = context.store.tenant(tenant).await?.ok_or(Error::NotFound("tenant"))?;
            context.store.plan(&row.plan).await?.ok_or(store::Error::UnknownPlan)?.max_clients
        }
        None => 0,
    };
    // Checked before a secret is hashed, which takes about 30 ms, so that refused requests are cheap. The store checks
    // again.
    if context.store.client(&wanted.id).await?.is_some() {
        return Err(Error::ClientExists);
    }
    if let Some(tenant) = wanted.id.tenant().filter(|_| max > 0)
        && context.store.client_count(tenant).await? >= max
    {
        return Err(store::Error::TooManyClients { max }.into());
    }
    if request.validate_only {
        return Ok(pb::CreateClientResponse { client: Some(wanted.preview()), client_secret: String::new() });
    }

    // A client of an external issuer gets a random secret that is not returned.
    let secret = Secret::generate();
    let secret_hash = context.issuer.hash(wanted.id.tenant(), &secret).await?;
    let client_secret = if wanted.external.is_some() { String::new() } else { revealed(&secret) };
    let Wanted { id, display_name, grants, external } = wanted;
    let new = NewClient { id, display_name, secret_hash, grants: grants.to_json(), external };
    let row = context.store.create_client_within(&new, max).await?.ok_or(Error::ClientExists)?;
    context.refresh_identities(new.external.is_some()).await;
    Ok(pb::CreateClientResponse { client: Some(shown(&row)?), client_secret })
}

pub(super) async fn list(
    context: Arc<AdminContext>,
    who: Administrator,
    request: pb::ListClientsRequest,
) -> Result<pb::ListClientsResponse, Error> {
    let tenant = match request.tenant.as_str() {
        "" => None,
        id => Some(named("tenant", TenantId::parse(id))?),
    };
    may_manage(&who, tenant.as_ref())?;
    let page = Page::parse(request.page_size, &request.page_token, ClientId::parse).map_err(Error::Field)?;
    if let Some(tenant) = &tenant
        && context.store.tenant(tenant).await?.is_none()
    {
        return Err(Error::NotFound("tenant"));
    }
    let mut rows = context.store.clients(tenant.as_ref(), page.after.as_ref(), page.limit()).await?;
    let next_page_token = page.cut(&mut rows, |row| row.id.to_string());
    Ok(pb::ListClientsResponse { clients: rows.iter().map(shown).collect::<Result<_, _>>()?, next_page_token })
}

pub(super) async fn update(
    context: Arc<AdminContext>,
    who: Administrator,
    request: pb::UpdateClientRequest,
) -> Result<pb::UpdateClientResponse, Error> {
    let paths = fields::mask(request.update_mask.as_ref(), &["display_name", "grants", "issuer"])?;
    let wanted = Wanted::parse(request.client.as_ref())?;
    wanted.may_be_managed_by(&who)?;
    let display_name = paths.contains(&"display_name").then_some(wanted.display_name.as_str());
    let new_grants = paths.contains(&"grants").then_some(&wanted.grants);
    let mut row = in_use(context.store.client(&wanted.id).await?)?;
    if let Some(new) = new_grants {
        wanted.check_grants(&who)?;
        grants::check(&who, &Grants::from_json(&row.grants)?)?;
        if wanted.id == *who.caller().client() && !new.administers() {
            return Err(Error::RemovesOwnAccess);
        }
    }
    let external = paths.contains(&"issuer").then_some(wanted.external.as_ref());
    if external.is_some() {
        wanted.check_issuer(&context)?;
        // An administrator who decides which tokens a client accepts can act as that client.
        grants::check(&who, &Grants::from_json(&row.grants)?)?;
        if wanted.id == *who.caller().client() {
            return Err(Error::RemovesOwnAccess);
        }
    }
    let new_grants = new_grants.map(Grants::to_json);
    if request.validate_only {
        row.external = external.map_or(row.external, Option::<&_>::cloned);
        row.display_name = display_name.map_or(row.display_name, str::to_owned);
        row.grants = new_grants.unwrap_or(row.grants);
        return Ok(pb::UpdateClientResponse { client: Some(shown(&row)?) });
    }
    let changes = ClientChanges { display_name, grants: new_grants.as_deref(), external };
    let row = context.store.update_client(&wanted.id, &changes).await?;
    let row = row.ok_or(Error::NotFound("client"))?;
    context.refresh_identities(external.is_some()).await;
    Ok(pb::UpdateClientResponse { client: Some(shown(&row)?) })
}

pub(super) async fn revoke(
    context: Arc<AdminContext>,
    who: Administrator,
    request: pb::RevokeClientRequest,
) -> Result<pb::RevokeClientResponse, Error> {
    let id = named("client_id", ClientId::parse(&request.client_id))?;
    may_manage(&who, id.tenant())?;
    if id == *who.caller().client() {
        return Err(Error::RemovesOwnAccess);
    }
    let row = context.store.revoke_client(&id).await?.ok_or(Error::NotFound("client"))?;
    context.refresh_registry().await;
    Ok(pb::RevokeClientResponse { client: Some(shown(&row)?) })
}

pub(super) async fn delete(
    context: Arc<AdminContext>,
    who: Administrator,
    request: pb::DeleteClientRequest,
) -> Result<pb::DeleteClientResponse, Error> {
    let id = named("client_id", ClientId::parse(&request.client_id))?;
    may_manage(&who, id.tenant())?;
    if id == *who.caller().client() {
        return Err(Error::RemovesOwnAccess);
    }
    if !context.store.delete_client(&id).await? {
        return Err(Error::NotFound("client"));
    }
    context.refresh_identities(true).await;
    Ok(pb::DeleteClientResponse {})
}

pub(super) async fn rotate_secret(
    context: Arc<AdminContext>,
    who: Administrator,
    request: pb::RotateClientSecretRequest,
) -> Result<pb::RotateClientSecretResponse, Error> {
    let id = named("client_id", ClientId::parse(&request.client_id))?;
    may_manage(&who, id.tenant())?;
    let row = in_use(context.store.client(&id).await?)?;
    if row.external.is_some() {
        return Err(Error::ExternalClient);
    }
    grants::check(&who, &Grants::from_json(&row.grants)?)?;
    let overlap = overlap(request.overlap)?;
    let (secret, previous_until) = (Secret::generate(), SystemTime::now() + overlap);
    let hash = context.issuer.hash(id.tenant(), &secret).await?;
    let row = match overlap.is_zero() {
        true => context.store.set_client_secret(&id, &hash).await?,
        false => context.store.add_client_secret(&id, &hash, &secret.tag(), previous_until).await?,
    };
    context.refresh_registry().await;
    let row = in_use(row)?;
    // The client may have been granted more in the meantime; then the secret is not returned.
    grants::check(&who, &Grants::from_json(&row.grants)?)?;
    let previous_expires = if overlap.is_zero() { None } else { timestamp(previous_until) };
    Ok(pb::RotateClientSecretResponse { client_secret: revealed(&secret), previous_expires })
}

/// How long both secrets are valid; by default the old one becomes invalid at once.
fn overlap(requested: Option<prost_types::Duration>) -> Result<Duration, Error> {
    let overlap: Result<Duration, _> = requested.unwrap_or_default().try_into();
    let wrong = || invalid("overlap", "must be between 0 (the old secret becomes invalid at once) and 30 days");
    overlap.ok().filter(|overlap| *overlap <= MAX_OVERLAP).ok_or_else(wrong)
}

/// A validated client of a request, with defaults filled in.
struct Wanted {
    id: ClientId,
    display_name: String,
    grants: Grants,
    external: Option<ExternalIdentity>,
}

impl Wanted {
    fn parse(client: Option<&pb::Client>) -> Result<Self, Error> {
        let client = client.ok_or_else(|| invalid("client", "is required"))?;
        let id = named("client.client_id", ClientId::parse(&client.client_id))?;
        let (issuer, external_id) = (&client.issuer, &client.external_id);
        if external_id.len() > MAX_EXTERNAL_ID || external_id.chars().any(char::is_control) {
            return Err(invalid("client.external_id", "must be at most 500 bytes without control characters"));
        }
        if issuer.is_empty() && !external_id.is_empty() {
            return Err(invalid("client.external_id", "requires an issuer"));
        }
        let external = || ExternalIdentity { issuer: issuer.clone(), id: external_id.clone() };
        Ok(Self {
            external: (!issuer.is_empty()).then(external),
            display_name: fields::display_name("client.display_name", &client.display_name, id.as_str())?,
            grants: client.grants.as_ref().map_or_else(|| Ok(Grants::default()), Grants::parse)?,
            id,
        })
    }

    fn may_be_managed_by(&self, who: &Administrator) -> Result<(), Error> {
        may_manage(who, self.id.tenant())
    }

    fn check_grants(&self, who: &Administrator) -> Result<(), Error> {
        let only_administers = self.grants == Grants::default() || self.grants == Grants::administrator();
        if self.id.tenant().is_none() && !only_administers {
            return Err(invalid(
                "client.grants",
                "a platform administrator has no tenant, so it can only be granted \"administer\"",
            ));
        }
        grants::check(who, &self.grants)
    }

    fn check_issuer(&self, context: &AdminContext) -> Result<(), Error> {
        let Some(external) = &self.external else { return Ok(()) };
        if self.id.tenant().is_none() && !context.issuer.has_issuer_for_platform(&external.issuer) {
            let what = "is not an issuer with allow_platform_administration, which platform administrators need";
            return Err(invalid("client.issuer", what));
        }
        if !context.issuer.has_issuer(&external.issuer) {
            return Err(invalid("client.issuer", "is not an issuer of the gateway's configuration (auth.issuers)"));
        }
        Ok(())
    }

    fn preview(&self) -> pb::Client {
        pb::Client {
            client_id: self.id.to_string(),
            display_name: self.display_name.clone(),
            grants: Some(self.grants.to_pb()),
            revoked: false,
            created: None,
            issuer: self.external.as_ref().map(|external| external.issuer.clone()).unwrap_or_default(),
            external_id: self.external.as_ref().map(|external| external.id.clone()).unwrap_or_default(),
        }
    }
}

fn may_manage(who: &Administrator, tenant: Option<&TenantId>) -> Result<(), Error> {
    if who.may_manage_clients_of(tenant) { Ok(()) } else { Err(Error::OtherTenant) }
}

fn in_use(row: Option<ClientRow>) -> Result<ClientRow, Error> {
    let row = row.ok_or(Error::NotFound("client"))?;
    if row.revoked { Err(Error::ClientRevoked) } else { Ok(row) }
}

fn revealed(secret: &Secret) -> String {
    secret.reveal().expose_secret().to_owned()
}

fn shown(row: &ClientRow) -> Result<pb::Client, Error> {
    Ok(pb::Client {
        client_id: row.id.to_string(),
        display_name: row.display_name.clone(),
        grants: Some(Grants::from_json(&row.grants)?.to_pb()),
        revoked: row.revoked,
        created: timestamp(row.created),
        issuer: row.external.as_ref().map(|external| external.issuer.clone()).unwrap_or_default(),
        external_id: row.external.as_ref().map(|external| external.id.clone()).unwrap_or_default(),
    })
}
