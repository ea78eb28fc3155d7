//! Read-only access to the objects in one tenant's vhost. The [`TenantScope`] of each call determines the vhost.
//! Depths, consumers and rates are from the broker's statistics, up to 5 s old. For a queue without statistics the
//! depths are read from the queue, and consumers and rates are 0.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::{
    Error,
    client::{Client, Page},
    rows::{BindingInfo, ExchangeInfo, QueueInfo, is_hidden},
};
use crate::{
    config::ManagementConfig,
    memory::MemoryBudget,
    names::{ExchangeName, QueueName},
    tenant::TenantScope,
};

/// Reads the objects in tenants' vhosts.
#[derive(Debug)]
pub struct Inspector {
    client: Client,
}

impl Inspector {
    /// # Errors
    /// As [`super::Provisioner::new`]. Responses are charged to a quarter of `gateway` while they are read.
    pub fn new(config: &ManagementConfig, broker_ca: &Path, gateway: &MemoryBudget) -> Result<Self, Error> {
        Ok(Self { client: Client::new(config, broker_ca, gateway.child(gateway.limit() / 4))? })
    }

    /// As [`super::Provisioner::watch_files`].
    pub async fn watch_files(&self, stop: CancellationToken) {
        self.client.watch_files(stop).await;
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the broker starts a queue's worker for dead letters only after the declaration. Assumed when the
    /// version is unknown.
    pub async fn starts_workers_late(&self) -> bool {
        self.client.starts_workers_late().await
    }

    /// One queue, or `None`.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn queue(&self, scope: &TenantScope, name: &QueueName) -> Result<Option<QueueInfo>, Error> {
        self.client.queue(scope.vhost(), name.as_str()).await
    }

    /// At most `limit` queues after the name `after`, sorted by name, without the gateway's and the broker's own.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn queues(
        &self,
        scope: &TenantScope,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<QueueInfo>, Error> {
        let page = |number| self.client.queues(scope.vhost(), number);
        collect(after, limit, page, |queue| &queue.name).await
    }

    /// One exchange, or `None`.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn exchange(&self, scope: &TenantScope, name: &ExchangeName) -> Result<Option<ExchangeInfo>, Error> {
        if name.is_default() {
            return Ok(None);
        }
        self.client.exchange(scope.vhost(), name.as_str()).await
    }

    /// As [`Self::queues`], for exchanges.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn exchanges(
        &self,
        scope: &TenantScope,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ExchangeInfo>, Error> {
        let page = |number| self.client.exchanges(scope.vhost(), number);
        collect(after, limit, page, |exchange| &exchange.name).await
    }

    /// Bindings sorted by source, destination and routing key: all, or those from one exchange, or to one queue or
    /// exchange, or both. The gateway's own and those of the default exchange are omitted; those from and to the
    /// broker's built-in exchanges such as `amq.topic` belong to the tenant.
    ///
    /// # Errors
    /// When the request fails, and [`Error::TooLarge`] beyond 32 MiB of them.
    pub async fn bindings(
        &self,
        scope: &TenantScope,
        source: Option<&ExchangeName>,
        destination: Option<&str>,
    ) -> Result<Vec<BindingInfo>, Error> {
        if source.is_some_and(ExchangeName::is_default) {
            return Ok(Vec::new());
        }
        let mut bindings = self.client.bindings(scope.vhost(), source.map(ExchangeName::as_str)).await?;
        let is_ours = |name: &str| is_hidden(name) && ExchangeName::parse(name).map_or(true, |e| e.is_default());
        bindings.retain(|binding| {
            !is_ours(&binding.source)
                && !is_ours(&binding.destination)
                && destination.is_none_or(|wanted| wanted == binding.destination)
        });
        bindings.sort_by(|a, b| a.order().cmp(&b.order()));
        Ok(bindings)
    }
}

/// The broker can only page by number, so the pages before `after` are read and dropped; one page and `limit` rows are
/// kept.
async fn collect<T, F>(
    after: Option<&str>,
    limit: usize,
    page: impl Fn(usize) -> F,
    name: impl Fn(&T) -> &str,
) -> Result<Vec<T>, Error>
where
    F: Future<Output = Result<Option<Page<T>>, Error>>,
{
    let mut rows = Vec::new();
    for number in 1.. {
        let Some(Page { rows: found, is_last }) = page(number).await? else { break };
        let wanted = |row: &T| !is_hidden(name(row)) && after.is_none_or(|after| name(row) > after);
        rows.extend(found.into_iter().filter(wanted));
        if is_last || rows.len() >= limit {
            break;
        }
    }
    rows.truncate(limit);
    Ok(rows)
}
