//! One operation on a channel of its own. A refusal by the broker closes the channel and so affects no stream.

use std::time::Duration;

use lapin::Channel;

use super::{live::CloseOnDrop, tenant_connections::TenantConnections};
use crate::broker::error::Error;

const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs an operation on a new channel of the tenant's consuming connection: a broker under alarm blocks the publishing
/// one.
///
/// # Errors
/// When the operation fails or takes longer than 10 s.
pub(in crate::broker) async fn on_channel<T>(
    connections: &TenantConnections,
    operation: impl AsyncFnOnce(Channel) -> Result<T, Error>,
) -> Result<T, Error> {
    let (channel, guard) = connections.consume.channel().await?;
    let close_on_drop = CloseOnDrop::new(&channel);
    let result = tokio::time::timeout(OPERATION_TIMEOUT, operation(channel)).await.map_err(|_| Error::Timeout)?;
    // Dropping lapin's handles closes the channel; waiting for the broker's answer would only cost a round trip.
    close_on_drop.disarm();
    result.map_err(|error| guard.explain(error))
}
