//! Looking into one tenant's vhost, read only. A [`TenantScope`] enters with every call and decides the vhost; plain values
//! leave. Depths, consumers and rates are what the broker's statistics last said: up to 5 s old, and 0 for a queue that
//! was made a moment ago.

use std::path::Path;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    api::Api,
    rows::{BindingInfo, ExchangeInfo, QueueInfo, is_hidden},
};
use crate::{
    config::ManagementConfig,
    names::{ExchangeName, QueueName},
    tenant::TenantScope,
};

/// The broker's largest page.
const PAGE: usize = 500;

/// Looks into vhosts.
#[derive(Debug)]
pub struct Inspector {
    api: Api,
}

impl Inspector {
    /// # Errors
    /// As [`super::Provisioner::new`].
    pub fn new(config: &ManagementConfig, broker_ca: &Path) -> Result<Self, Error> {
        Ok(Self { api: Api::new(config, broker_ca)? })
    }

    /// As [`super::Provisioner::follow_files`].
    pub async fn follow_files(&self, stop: CancellationToken) {
        self.api.follow_files(stop).await;
    }

    pub(super) fn api(&self) -> &Api {
        &self.api
    }

    /// One queue, or none.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    pub async fn queue(&self, scope: &TenantScope, name: &QueueName) -> Result<Option<QueueInfo>, Error> {
        let found = self.one(&["queues", scope.vhost(), name.as_str()], QueueInfo::COLUMNS).await?;
        Ok(found.as_ref().and_then(QueueInfo::read))
    }

    /// Queues by name, from the first one after `after`, at most `limit`. The gateway's and the broker's own are left out.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    pub async fn queues(
        &self,
        scope: &TenantScope,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<QueueInfo>, Error> {
        self.page(&["queues", scope.vhost()], QueueInfo::COLUMNS, after, limit, QueueInfo::read, |q| &q.name).await
    }

    /// One exchange, or none.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    pub async fn exchange(&self, scope: &TenantScope, name: &ExchangeName) -> Result<Option<ExchangeInfo>, Error> {
        if name.is_default() {
            return Ok(None);
        }
        let found = self.one(&["exchanges", scope.vhost(), name.as_str()], ExchangeInfo::COLUMNS).await?;
        Ok(found.as_ref().and_then(ExchangeInfo::read))
    }

    /// Exchanges by name, from the first one after `after`, at most `limit`. The gateway's and the broker's own are left out.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    pub async fn exchanges(
        &self,
        scope: &TenantScope,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ExchangeInfo>, Error> {
        self.page(&["exchanges", scope.vhost()], ExchangeInfo::COLUMNS, after, limit, ExchangeInfo::read, |e| &e.name)
            .await
    }

    /// Bindings by source, destination and routing key: all, or those from one exchange, to one queue or exchange, or
    /// both. The gateway's own are left out, and the default exchange's; those from and to the broker's `amq.topic` and its
    /// like are the tenant's.
    ///
    /// # Errors
    /// When the broker cannot be asked, and [`Error::TooLarge`] beyond 32 MiB of them.
    pub async fn bindings(
        &self,
        scope: &TenantScope,
        source: Option<&ExchangeName>,
        destination: Option<&str>,
    ) -> Result<Vec<BindingInfo>, Error> {
        let vhost = scope.vhost();
        let from_source;
        let path: &[&str] = match source {
            Some(source) if source.is_default() => return Ok(Vec::new()),
            Some(source) => {
                from_source = ["exchanges", vhost, source.as_str(), "bindings", "source"];
                &from_source
            }
            None => &["bindings", vhost],
        };
        let rows = match self.api.call(|link| async move { link.get(path, &[]).await }).await {
            Ok(rows) => rows.ok_or(Error::TooLarge)?,
            // The exchange is not there, so nothing is bound to it.
            Err(Error::NotFound) => return Ok(Vec::new()),
            Err(other) => return Err(other),
        };
        let is_ours = |name: &str| is_hidden(name) && ExchangeName::parse(name).map_or(true, |e| e.is_default());
        let mut bindings: Vec<_> = rows
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(BindingInfo::read)
            .filter(|b| !is_ours(&b.source) && !is_ours(&b.destination))
            .filter(|b| destination.is_none_or(|wanted| wanted == b.destination))
            .collect();
        bindings.sort_by(|a, b| a.order().cmp(&b.order()));
        Ok(bindings)
    }

    async fn one(&self, path: &[&str], columns: &str) -> Result<Option<Value>, Error> {
        let query = &[("columns", columns)];
        match self.api.call(|link| async move { link.get(path, query).await }).await {
            Err(Error::NotFound) => Ok(None),
            other => other,
        }
    }

    /// The broker pages by number only, so pages before `after` are read and dropped; what is kept is one page of it and
    /// `limit` rows.
    async fn page<T>(
        &self,
        path: &[&str],
        columns: &str,
        after: Option<&str>,
        limit: usize,
        read: impl Fn(&Value) -> Option<T>,
        name: impl Fn(&T) -> &str,
    ) -> Result<Vec<T>, Error> {
        let mut rows = Vec::new();
        for number in 1_usize.. {
            let rows_before = number > 1;
            let (number, size) = (number.to_string(), PAGE.to_string());
            let query: &[(&str, &str)] =
                &[("page", &number), ("page_size", &size), ("sort", "name"), ("columns", columns)];
            let answer = match self.api.call(|link| async move { link.get(path, query).await }).await {
                Ok(answer) => answer.ok_or(Error::TooLarge)?,
                Err(Error::NotFound) => break,
                // Some went while we read, and this page with them.
                Err(Error::Answer(_)) if rows_before => break,
                Err(other) => return Err(other),
            };
            let items = answer.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            rows.extend(
                items
                    .iter()
                    .filter_map(&read)
                    .filter(|row| !is_hidden(name(row)) && after.is_none_or(|after| name(row) > after)),
            );
            let last = answer.get("page_count").and_then(Value::as_u64).unwrap_or(0);
            if items.is_empty() || rows.len() >= limit || number.parse::<u64>().is_ok_and(|number| number >= last) {
                break;
            }
        }
        rows.truncate(limit);
        Ok(rows)
    }
}
