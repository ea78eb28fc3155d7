//! The open streams of a tenant on this gateway: listing and closing.

use std::sync::Arc;

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
    stream::open_streams::StreamState,
    telemetry::StreamKind,
    tenant::{Administrator, Observer},
};

pub(super) async fn list(
    context: Arc<AdminContext>,
    who: Observer,
    request: pb::ListStreamsRequest,
) -> Result<pb::ListStreamsResponse, Error> {
    let page = Page::parse(request.page_size, &request.page_token, Uuid::parse_str).map_err(Error::Field)?;
    let client = match request.client_id.as_str() {
        "" => None,
        id => Some(named("client_id", ClientId::parse(id))?),
    };
    let kind = match pb::StreamKind::try_from(request.kind) {
        Ok(pb::StreamKind::Unspecified) => None,
        Ok(kind) => Some(kind),
        Err(_) => return Err(invalid("kind", "must be publish, subscribe or redrive")),
    };
    let wanted = |its_client: &ClientId, its_kind: StreamKind| {
        client.as_ref().is_none_or(|client| client == its_client)
            && kind.is_none_or(|kind| kind == shown_kind(its_kind))
    };
    let mut streams = context.gateway.open_streams.list(who.tenant(), page.after, page.limit() as usize, wanted);
    let next_page_token = page.cut(&mut streams, |stream| stream.id.simple().to_string());
    Ok(pb::ListStreamsResponse {
        streams: streams.into_iter().map(to_proto).collect(),
        next_page_token,
        gateway: context.gateway.id.simple().to_string(),
    })
}

pub(super) async fn close(
    context: Arc<AdminContext>,
    who: Administrator,
    request: pb::CloseStreamRequest,
) -> Result<pb::CloseStreamResponse, Error> {
    let tenant = match (request.tenant.as_str(), who.caller().tenant()) {
        ("", Some(own)) => own.clone(),
        ("", None) => return Err(invalid("tenant", "is required")),
        (id, own) => {
            let tenant = named("tenant", TenantId::parse(id))?;
            if own.is_some_and(|own| *own != tenant) {
                return Err(Error::PlatformOnly);
            }
            tenant
        }
    };
    let id = Uuid::parse_str(&request.stream_id).map_err(|_| invalid("stream_id", "must be an id from ListStreams"))?;
    context.gateway.open_streams.close(&tenant, id).ok_or(Error::NotFound("stream"))?;
    Ok(pb::CloseStreamResponse {})
}

fn shown_kind(kind: StreamKind) -> pb::StreamKind {
    match kind {
        StreamKind::Publish => pb::StreamKind::Publish,
        StreamKind::Subscribe => pb::StreamKind::Subscribe,
        StreamKind::Redrive => pb::StreamKind::Redrive,
    }
}

fn to_proto(stream: StreamState) -> pb::OpenStream {
    pb::OpenStream {
        stream_id: stream.id.simple().to_string(),
        client_id: stream.client.to_string(),
        kind: shown_kind(stream.kind).into(),
        peer_address: stream.peer_address,
        since: timestamp(stream.since),
        queue: stream.queue,
        in_flight_messages: stream.in_flight_messages,
        in_flight_bytes: stream.in_flight_bytes,
        messages: stream.messages,
        messages_per_second: stream.messages_per_second,
    }
}
