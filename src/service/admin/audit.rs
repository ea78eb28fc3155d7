//! Reading of the audit trail: filtered, newest first, in pages.

use std::{sync::Arc, time::SystemTime};

use prost_types::Timestamp;
use uuid::Uuid;

use super::{
    context::AdminContext,
    error::{Error, invalid, named},
    fields::timestamp,
};
use crate::{
    names::{ClientId, TenantId},
    pb,
    service::page::Page,
    store::{AuditFilter, AuditRow},
    tenant::{Administrator, Observer},
};

pub(super) async fn list(
    context: Arc<AdminContext>,
    _who: Administrator,
    request: pb::ListAuditEventsRequest,
) -> Result<pb::ListAuditEventsResponse, Error> {
    page(&context, request, false, to_proto).await
}

/// As [`list`], for an observer of its own tenant: without the events of other tenants' clients, and without the
/// addresses of platform administrators.
pub(super) async fn list_own(
    context: Arc<AdminContext>,
    who: Observer,
    request: pb::ListAuditEventsRequest,
) -> Result<pb::ListAuditEventsResponse, Error> {
    let request = pb::ListAuditEventsRequest { tenant: who.tenant().to_string(), ..request };
    let without_platform_addresses = |row: AuditRow| {
        let mut event = to_proto(row);
        if !event.client_id.is_empty() && !event.client_id.contains('.') {
            event.peer_address.clear();
        }
        event
    };
    page(&context, request, true, without_platform_addresses).await
}

async fn page(
    context: &AdminContext,
    request: pb::ListAuditEventsRequest,
    for_tenant: bool,
    convert: impl Fn(AuditRow) -> pb::AuditEvent,
) -> Result<pb::ListAuditEventsResponse, Error> {
    let page = Page::parse(request.page_size, &request.page_token, Uuid::parse_str).map_err(Error::Field)?;
    let filter = AuditFilter { for_tenant, ..filter(request)? };
    let mut rows = context.store.audit(&filter, page.after, page.limit()).await?;
    let next_page_token = page.cut(&mut rows, |row| row.id.to_string());
    Ok(pb::ListAuditEventsResponse { events: rows.into_iter().map(convert).collect(), next_page_token })
}

fn filter(request: pb::ListAuditEventsRequest) -> Result<AuditFilter, Error> {
    if !request.tenant.is_empty() {
        named("tenant", TenantId::parse(&request.tenant))?;
    }
    if !request.client_id.is_empty() {
        named("client_id", ClientId::parse(&request.client_id))?;
    }
    for (field, text) in [("method", &request.method), ("outcome", &request.outcome)] {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | ':' | ' ' | '-');
        if text.len() > 100 || !text.chars().all(is_plain) {
            return Err(invalid(field, "must have the form shown in events"));
        }
    }
    Ok(AuditFilter {
        tenant: request.tenant,
        client: request.client_id,
        method: request.method,
        outcome: request.outcome,
        from: moment("from", request.from)?,
        until: moment("until", request.until)?,
        for_tenant: false,
    })
}

fn moment(field: &'static str, time: Option<Timestamp>) -> Result<Option<SystemTime>, Error> {
    let read = |time| SystemTime::try_from(time).map_err(|_| invalid(field, "must be a valid time"));
    time.map(read).transpose()
}

fn to_proto(row: AuditRow) -> pb::AuditEvent {
    let event = row.event;
    pb::AuditEvent {
        id: row.id.to_string(),
        time: timestamp(event.time),
        client_id: event.client,
        peer_address: event.peer_address,
        method: event.method,
        tenant: event.tenant,
        object: event.object,
        rule: event.rule,
        outcome: event.outcome,
        trace_id: event.trace_id,
        times: event.times,
    }
}
