//! Grants as flags; the gateway checks the patterns.

use crate::pb::{Grants, PublishGrant};

/// The default exchange's name in grants.
const DEFAULT_EXCHANGE: &str = crate::names::DEFAULT_EXCHANGE;

/// The permissions of a client.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Grants")]
pub(super) struct GrantArgs {
    /// May publish: pattern of the exchange, a colon, pattern of the routing key. Repeatable. An empty exchange is
    /// the default one, whose routing key is the queue
    #[arg(long, value_name = "EXCHANGE:KEY", value_parser = publish)]
    publish: Vec<PublishGrant>,
    /// May consume, purge and inspect queues of this pattern. Repeatable
    #[arg(long, value_name = "PATTERN")]
    subscribe: Vec<String>,
    /// May declare, delete and bind exchanges and queues of this pattern. Repeatable
    #[arg(long, value_name = "PATTERN")]
    configure: Vec<String>,
    /// May administer: a tenant's client the clients of its tenant, a platform client everything
    #[arg(long)]
    administer: bool,
    /// May read its tenant's usage, audit events, queue figures and open streams
    #[arg(long)]
    observe: bool,
    /// May publish, subscribe, configure and observe everything in its tenant
    #[arg(long, conflicts_with_all = ["publish", "subscribe", "configure"])]
    all: bool,
}

impl GrantArgs {
    /// Whether any grant was given.
    pub(super) fn is_given(&self) -> bool {
        self.all
            || self.administer
            || self.observe
            || !(self.publish.is_empty() && self.subscribe.is_empty() && self.configure.is_empty())
    }

    pub(super) fn grants(&self) -> Grants {
        if self.all {
            let everything = || vec!["#".to_owned()];
            let publish = vec![PublishGrant { exchange: "#".to_owned(), routing_key: "#".to_owned() }];
            let administer = self.administer;
            return Grants { publish, subscribe: everything(), configure: everything(), administer, observe: true };
        }
        Grants {
            publish: self.publish.clone(),
            subscribe: self.subscribe.clone(),
            configure: self.configure.clone(),
            administer: self.administer,
            observe: self.observe,
        }
    }
}

fn publish(text: &str) -> Result<PublishGrant, String> {
    let (exchange, key) = text
        .split_once(':')
        .filter(|(_, key)| !key.is_empty())
        .ok_or("write EXCHANGE:KEY, like orders:# or amq.default:jobs")?;
    let exchange = if exchange.is_empty() { DEFAULT_EXCHANGE } else { exchange };
    Ok(PublishGrant { exchange: exchange.to_owned(), routing_key: key.to_owned() })
}

/// As text, on one line.
pub(super) fn describe(grants: Option<&Grants>) -> String {
    let Some(grants) = grants else { return "nothing".to_owned() };
    let publish: Vec<String> = grants.publish.iter().map(|g| format!("{}:{}", g.exchange, g.routing_key)).collect();
    let mut parts = Vec::new();
    for (what, patterns) in [("publish", &publish), ("subscribe", &grants.subscribe), ("configure", &grants.configure)]
    {
        if !patterns.is_empty() {
            parts.push(format!("{what} {}", patterns.join(" ")));
        }
    }
    if grants.administer {
        parts.push("administer".to_owned());
    }
    if grants.observe {
        parts.push("observe".to_owned());
    }
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        grants: GrantArgs,
    }

    fn parse(flags: &[&str]) -> Result<Grants, clap::Error> {
        let flags = std::iter::once(&"x").chain(flags);
        Flags::try_parse_from(flags).map(|flags| flags.grants.grants())
    }

    #[test]
    fn grants_are_read_from_flags() {
        let grants = parse(&["--publish", "orders:a.#", "--publish", ":jobs", "--subscribe", "q.#"]).expect("valid");
        assert_eq!(describe(Some(&grants)), "publish orders:a.# amq.default:jobs, subscribe q.#");
        assert_eq!(describe(Some(&parse(&[]).expect("valid"))), "nothing");
        let all = parse(&["--all", "--administer"]).expect("valid");
        assert_eq!(describe(Some(&all)), "publish #:#, subscribe #, configure #, administer, observe");
        assert!(parse(&["--publish", "orders"]).is_err());
        assert!(parse(&["--all", "--subscribe", "q"]).is_err());
    }
}
