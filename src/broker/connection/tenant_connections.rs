//! A tenant's two connections.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::{context::ConnectionContext, purpose::Purpose, slot::ConnectionSlot};
use crate::{broker::error::Error, names::TenantId};

/// One slot for publishing and one for consuming; topology operations use the consuming one.
pub(in crate::broker) struct TenantConnections {
    pub(in crate::broker) tenant: TenantId,
    pub(in crate::broker) publish: ConnectionSlot,
    pub(in crate::broker) consume: ConnectionSlot,
    /// Locked by the call that reads the dead letters, because only one call can do so at a time.
    pub(in crate::broker) dead_letters: Arc<Mutex<()>>,
    /// Locked by the call that reads the first messages of a queue.
    pub(in crate::broker) peek: Mutex<()>,
}

impl TenantConnections {
    pub(in crate::broker) fn new(tenant: TenantId, context: &Arc<ConnectionContext>) -> Self {
        let slot = |purpose| ConnectionSlot::new(tenant.clone(), purpose, Arc::clone(context));
        let (publish, consume) = (slot(Purpose::Publish), slot(Purpose::Consume));
        Self { publish, consume, dead_letters: Arc::default(), peek: Mutex::default(), tenant }
    }

    /// Replaces the connections that use an earlier certificate of the tenant.
    ///
    /// # Errors
    /// When a new connection cannot be opened; the old one is kept.
    pub(in crate::broker) async fn renew_if_due(&self) -> Result<(), Error> {
        tokio::try_join!(self.publish.renew_if_due(), self.consume.renew_if_due()).map(|_| ())
    }

    /// Closes both at once.
    pub(in crate::broker) async fn close(&self) {
        tokio::join!(self.publish.close(), self.consume.close());
    }
}
