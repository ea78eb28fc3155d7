//! Reading the first messages of a queue without consuming them.

use prost::Message as _;

use crate::{
    audit::AuditContext,
    broker::{self, Broker, Incoming, PeekSpec, StartAt},
    error::{Failure, Kind},
    memory::{MemoryBudget, MemoryPermit},
    names::QueueName,
    pb,
    provision::Inspector,
    tenant::TenantScope,
};

const DEFAULT_MESSAGES: usize = 10;
const MAX_MESSAGES: usize = 100;
/// Maximum size of all messages in a response: clients accept 4 MiB by default. A larger message is returned alone.
const MAX_BYTES: usize = 3 << 20;
/// Maximum memory of one call: a response, and one message that does not fit into it.
const MEMORY: usize = 8 << 20;

/// Returns the memory that is charged for the messages, too.
pub(super) async fn peek(
    broker: &Broker,
    inspector: &Inspector,
    memory: MemoryBudget,
    scope: &TenantScope,
    audit_context: &AuditContext,
    request: pb::PeekMessagesRequest,
) -> Result<(pb::PeekMessagesResponse, MemoryPermit), Failure> {
    let queue = QueueName::parse(&request.queue).map_err(|error| Failure::from(error).on_field("queue"))?;
    if !scope.grants().may_subscribe(&queue) {
        let text = format!("this client may not subscribe to queue {:?}", queue.as_str());
        return Err(Failure::new(Kind::Denied, "SUBSCRIBE_NOT_GRANTED", text));
    }
    let max_messages = match usize::try_from(request.max_messages) {
        Ok(0) => DEFAULT_MESSAGES,
        Ok(count) if count <= MAX_MESSAGES => count,
        _ => return Err(Failure::invalid("max_messages", "must be 1 to 100, or 0 for 10")),
    };
    let max_body_bytes = match request.max_body_bytes {
        0 => usize::MAX,
        bytes => bytes as usize,
    };
    let found = inspector.queue(scope, &queue).await?;
    let found = found.ok_or_else(|| Failure::from(broker::Error::NoQueue(queue.to_string())))?;
    let is_single = found.arguments.get("x-single-active-consumer").is_some_and(|value| *value == true);
    let stream = match found.queue_type.as_str() {
        "stream" => Some(request.stream_offset.map_or(StartAt::First, StartAt::Offset)),
        _ if request.stream_offset.is_some() => {
            return Err(Failure::invalid("stream_offset", "is for stream queues only"));
        }
        _ => None,
    };
    let mut charge = memory.try_reserve_share(MEMORY)?;
    let spec = PeekSpec { queue, max_messages, max_bytes: MAX_BYTES, max_body_bytes, stream, is_single };
    let name = spec.queue.to_string();
    let peeked = broker.peek(scope, spec).await?;
    audit_context.done(Some(&format!("{name}, {} messages", peeked.messages.len())));
    let messages = peeked.messages.into_iter().map(to_proto).collect();
    let found = pb::PeekMessagesResponse { messages, has_more: peeked.has_more };
    // A message that is larger than a page is returned alone.
    charge.try_grow(found.encoded_len().saturating_sub(charge.bytes()))?;
    Ok((found, charge))
}

fn to_proto((incoming, body_bytes): (Incoming, usize)) -> pb::PeekedMessage {
    pb::PeekedMessage {
        message: Some(incoming.message),
        exchange: incoming.exchange,
        routing_key: incoming.routing_key,
        attempt: incoming.attempt,
        redelivered: incoming.redelivered,
        stream_offset: incoming.offset,
        body_bytes: body_bytes as u64,
    }
}
