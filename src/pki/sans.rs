//! What the servers' certificates stand for. Names enter, from whoever makes a folder; a list for each server leaves, which always
//! holds this machine.

use super::Item;

/// What the server certificates stand for: DNS names and IP addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sans {
    /// The broker's.
    pub broker: Vec<String>,
    /// The gateway's.
    pub gateway: Vec<String>,
}

impl Default for Sans {
    /// This machine, by the names it knows itself.
    fn default() -> Self {
        let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        Self { broker: local.clone(), gateway: local }
    }
}

impl Sans {
    /// This machine and these names, for the broker and the gateway alike.
    pub fn with(names: &[String]) -> Self {
        let mut sans = Self::default();
        for list in [&mut sans.broker, &mut sans.gateway] {
            union(list, names);
        }
        sans
    }

    /// Those of one certificate.
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
