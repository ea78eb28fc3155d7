//! How much a tenant has at the broker. A vhost enters; numbers leave. Queues, exchanges and bindings are counted as they are now,
//! the gateway's and the broker's own left out; connections and what is stored are what the broker's statistics last
//! said, up to 5 s old.

use serde_json::Value;

use super::{Error, Provisioner, api::Api, rows::is_hidden};
use crate::names::TenantId;

/// What a tenant has at the broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BrokerUsage {
    /// Connections, all gateways together.
    pub connections: u64,
    /// Queues.
    pub queues: u64,
    /// Exchanges.
    pub exchanges: u64,
    /// Bindings.
    pub bindings: u64,
    /// Messages in all queues, the gateway's own included.
    pub stored_messages: u64,
    /// Their body bytes.
    pub stored_bytes: u64,
}

/// Something of which a plan limits the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Thing {
    Queues,
    Exchanges,
    Bindings,
}

impl Thing {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Queues => "queues",
            Self::Exchanges => "exchanges",
            Self::Bindings => "bindings",
        }
    }

    fn columns(self) -> &'static str {
        match self {
            Self::Bindings => "source,destination",
            Self::Queues | Self::Exchanges => "name",
        }
    }

    /// Whether a row is the tenant's. A binding from or to something of the gateway's own is not.
    fn is_tenants(self, row: &Value) -> bool {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        match self {
            Self::Queues => !is_gateways(text("name")),
            Self::Exchanges => !is_hidden(text("name")),
            Self::Bindings => {
                !text("source").is_empty() && !is_gateways(text("source")) && !is_gateways(text("destination"))
            }
        }
    }
}

/// A queue may be the broker's by name (`amq.gen-…`) and the tenant's in truth.
fn is_gateways(name: &str) -> bool {
    name.get(..3).is_some_and(|head| head.eq_ignore_ascii_case("wg."))
}

/// How many of something a vhost has now; more than can be read is as many as there can be.
pub(super) async fn count(api: &Api, vhost: &str, thing: Thing) -> Result<u64, Error> {
    let Some(rows) = rows(api, &[thing.name(), vhost], thing.columns()).await? else { return Ok(u64::MAX) };
    Ok(rows.iter().filter(|row| thing.is_tenants(row)).count() as u64)
}

/// None when there is more than can be read.
async fn rows(api: &Api, path: &[&str], columns: &str) -> Result<Option<Vec<Value>>, Error> {
    // The statistics would only cost time, and a broker that does not know the parameter ignores it.
    let query = &[("columns", columns), ("disable_stats", "true"), ("enable_queue_totals", "true")];
    let query = if columns.contains("message_bytes") { &query[..1] } else { &query[..] };
    match api.call(|link| async move { link.get(path, query).await }).await {
        Ok(found) => Ok(found.map(|found| found.as_array().cloned().unwrap_or_default())),
        // The vhost is going.
        Err(Error::NotFound) => Ok(Some(Vec::new())),
        Err(other) => Err(other),
    }
}

impl Provisioner {
    /// What a tenant has at the broker.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    pub async fn usage(&self, tenant: &TenantId) -> Result<BrokerUsage, Error> {
        let (api, vhost) = (self.api(), tenant.vhost());
        let connections = rows(api, &["vhosts", &vhost, "connections"], "name").await?;
        let (stored_messages, stored_bytes) = self.stored(tenant).await?;
        Ok(BrokerUsage {
            connections: connections.map_or(u64::MAX, |rows| rows.len() as u64),
            queues: count(api, &vhost, Thing::Queues).await?,
            exchanges: count(api, &vhost, Thing::Exchanges).await?,
            bindings: count(api, &vhost, Thing::Bindings).await?,
            stored_messages,
            stored_bytes,
        })
    }

    /// Messages in all queues of a tenant, and their body bytes.
    ///
    /// # Errors
    /// When the broker cannot be asked, and [`Error::TooLarge`] beyond some hundred thousand queues.
    pub async fn stored(&self, tenant: &TenantId) -> Result<(u64, u64), Error> {
        let vhost = tenant.vhost();
        let rows = rows(self.api(), &["queues", &vhost], "messages,message_bytes").await?.ok_or(Error::TooLarge)?;
        let sum = |key: &str| rows.iter().map(|row| row[key].as_u64().unwrap_or(0)).sum();
        Ok((sum("messages"), sum("message_bytes")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_the_gateways_or_the_brokers_is_not_counted() {
        for (thing, row, counts) in [
            (Thing::Queues, json!({"name": "jobs"}), true),
            (Thing::Queues, json!({"name": "amq.gen-x"}), true),
            (Thing::Queues, json!({"name": "wg.dead-letters"}), false),
            (Thing::Exchanges, json!({"name": "amq.topic"}), false),
            (Thing::Exchanges, json!({"name": ""}), false),
            (Thing::Exchanges, json!({"name": "orders"}), true),
            (Thing::Bindings, json!({"source": "", "destination": "jobs"}), false),
            (Thing::Bindings, json!({"source": "amq.topic", "destination": "jobs"}), true),
            (Thing::Bindings, json!({"source": "wg.dead-letters", "destination": "wg.dead-letters"}), false),
        ] {
            assert_eq!(thing.is_tenants(&row), counts, "{row}");
        }
    }
}
