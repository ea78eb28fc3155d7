//! Usage of a tenant at the broker. The numbers of queues, exchanges and bindings are current and do not include the
//! gateway's and the broker's own; stored messages are from the broker's statistics, up to 5 s old.

use serde_json::Value;

use super::{
    Error, Provisioner,
    client::{Client, Names},
    rows::is_hidden,
};
use crate::names::TenantId;

/// The usage of a tenant at the broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BrokerUsage {
    /// Connections of all gateways together.
    pub connections: u64,
    /// Queues.
    pub queues: u64,
    /// Exchanges.
    pub exchanges: u64,
    /// Bindings.
    pub bindings: u64,
    /// Messages in all queues, including the gateway's own.
    pub stored_messages: u64,
    /// Their body bytes.
    pub stored_bytes: u64,
}

/// Whether a row of a list is the tenant's. A binding from or to an object of the gateway's own is not.
fn is_tenants(names: Names, row: &Value) -> bool {
    let text = |key: &str| row[key].as_str().unwrap_or_default();
    match names {
        Names::Queues => !is_gateways(text("name")),
        Names::Exchanges => !is_hidden(text("name")),
        Names::Bindings => {
            !text("source").is_empty() && !is_gateways(text("source")) && !is_gateways(text("destination"))
        }
    }
}

/// Whether a name belongs to the gateway. Queues that the broker named (`amq.gen-…`) belong to the tenant.
fn is_gateways(name: &str) -> bool {
    name.get(..3).is_some_and(|head| head.eq_ignore_ascii_case("wg."))
}

/// The current number of these objects in a vhost; `u64::MAX` if there are too many to be read.
pub(super) async fn count(client: &Client, vhost: &str, names: Names) -> Result<u64, Error> {
    let rows = client.current(vhost, names, |row| is_tenants(names, row).then_some(())).await;
    unbounded(rows.map(|rows| rows.len() as u64))
}

/// The current names of these objects in a vhost; `None` if there are too many to be read. Bindings have no names.
pub(super) async fn names(client: &Client, vhost: &str, names: Names) -> Result<Option<Vec<String>>, Error> {
    let name = |row: &Value| is_tenants(names, row).then(|| row["name"].as_str().unwrap_or_default().to_owned());
    match client.current(vhost, names, name).await {
        Err(Error::TooLarge) => Ok(None),
        other => other.map(Some),
    }
}

fn unbounded(counted: Result<u64, Error>) -> Result<u64, Error> {
    match counted {
        Err(Error::TooLarge) => Ok(u64::MAX),
        other => other,
    }
}

impl Provisioner {
    /// The usage of a tenant at the broker.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn usage(&self, tenant: &TenantId) -> Result<BrokerUsage, Error> {
        let (client, vhost) = (self.client(), tenant.vhost());
        let (stored_messages, stored_bytes) = self.stored(tenant).await?;
        Ok(BrokerUsage {
            connections: unbounded(client.connections_of(&vhost).await)?,
            queues: count(client, &vhost, Names::Queues).await?,
            exchanges: count(client, &vhost, Names::Exchanges).await?,
            bindings: count(client, &vhost, Names::Bindings).await?,
            stored_messages,
            stored_bytes,
        })
    }

    /// Messages in all queues of a tenant, and their body bytes.
    ///
    /// # Errors
    /// When the request fails, and [`Error::TooLarge`] beyond some hundred thousand queues.
    pub async fn stored(&self, tenant: &TenantId) -> Result<(u64, u64), Error> {
        self.client().stored(&tenant.vhost()).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_of_the_gateway_and_the_broker_are_not_counted() {
        for (names, row, counts) in [
            (Names::Queues, json!({"name": "jobs"}), true),
            (Names::Queues, json!({"name": "amq.gen-x"}), true),
            (Names::Queues, json!({"name": "wg.dead-letters"}), false),
            (Names::Exchanges, json!({"name": "amq.topic"}), false),
            (Names::Exchanges, json!({"name": ""}), false),
            (Names::Exchanges, json!({"name": "orders"}), true),
            (Names::Bindings, json!({"source": "", "destination": "jobs"}), false),
            (Names::Bindings, json!({"source": "amq.topic", "destination": "jobs"}), true),
            (Names::Bindings, json!({"source": "wg.dead-letters", "destination": "wg.dead-letters"}), false),
        ] {
            assert_eq!(is_tenants(names, &row), counts, "{row}");
        }
    }
}
