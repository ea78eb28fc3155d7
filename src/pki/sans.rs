//! The subject alternative names of the servers' certificates, which always include this machine.

use super::Item;

/// The subject alternative names of the server certificates: DNS names and IP addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sans {
    /// The broker's.
    pub broker: Vec<String>,
    /// The gateway's.
    pub gateway: Vec<String>,
}

impl Default for Sans {
    /// The names of this machine.
    fn default() -> Self {
        let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        Self { broker: local.clone(), gateway: local }
    }
}

impl Sans {
    /// The names of this machine and these, for the broker and the gateway.
    pub fn with(names: &[String]) -> Self {
        let mut sans = Self::default();
        for list in [&mut sans.broker, &mut sans.gateway] {
            union(list, names);
        }
        sans
    }

    /// The names of one certificate.
    pub(super) fn of(&self, item: Item) -> &[String] {
        match item {
            Item::Broker => &self.broker,
            Item::Gateway => &self.gateway,
            Item::BrokerCa | Item::Provisioner | Item::GatewayCa => &[],
        }
    }
}

pub(super) fn union(names: &mut Vec<String>, more: &[String]) {
    for name in more {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
}
