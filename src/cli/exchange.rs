//! `warrengate exchange`: the exchanges of a tenant.

use serde_json::json;

use super::{
    Error, Output,
    connection::{ConnectionArgs, DATA},
    json,
    output::{properties, table},
};
use crate::pb::{self, topology_client::TopologyClient};

const EXAMPLES: &str = "\
Examples:
  warrengate exchange declare orders --type topic
  warrengate exchange declare audit --type fanout --internal
  warrengate exchange declare orders2 --type direct --alternate-exchange unrouted
  warrengate exchange list
  warrengate exchange delete orders --if-unused";

/// The flags of `exchange`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create an exchange; declaring it again with the same flags has no effect
    Declare {
        /// 1 to 200 letters, digits, "-", "_", "." and ":"
        name: String,
        /// How it routes
        #[arg(long = "type", value_name = "TYPE", value_enum)]
        kind: Kind,
        /// Delete it when its last binding is removed
        #[arg(long)]
        auto_delete: bool,
        /// Accept messages only from other exchanges
        #[arg(long)]
        internal: bool,
        /// The exchange that receives messages which this one cannot route
        #[arg(long, value_name = "EXCHANGE", default_value = "", hide_default_value = true)]
        alternate_exchange: String,
        /// Only validate the request
        #[arg(long)]
        validate_only: bool,
    },
    /// Delete an exchange
    Delete {
        /// The exchange
        name: String,
        /// Only if nothing is bound to it
        #[arg(long)]
        if_unused: bool,
    },
    /// Show an exchange
    Get {
        /// The exchange
        name: String,
    },
    /// Show all exchanges
    List,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// By equality of the routing key
    Direct,
    /// By words of the routing key
    Topic,
    /// To everything bound to it
    Fanout,
    /// By header values
    Headers,
}

impl From<Kind> for pb::ExchangeType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Direct => Self::Direct,
            Kind::Topic => Self::Topic,
            Kind::Fanout => Self::Fanout,
            Kind::Headers => Self::Headers,
        }
    }
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let mut topology = args.connection.connect(DATA).await?.topology();
    match args.action {
        Action::Declare { name, kind, auto_delete, internal, alternate_exchange, validate_only } => {
            let kind = pb::ExchangeType::from(kind).into();
            let exchange = Some(pb::Exchange { name, r#type: kind, auto_delete, internal, alternate_exchange });
            let request = pb::DeclareExchangeRequest { exchange, validate_only };
            show(output, topology.declare_exchange(request).await?.into_inner().exchange)
        }
        Action::Delete { name, if_unused } => {
            topology.delete_exchange(pb::DeleteExchangeRequest { name: name.clone(), if_unused }).await?;
            output.result(|| json!({"deleted": name}), || format!("deleted {name}"))
        }
        Action::Get { name } => {
            show(output, topology.get_exchange(pb::GetExchangeRequest { name }).await?.into_inner().exchange)
        }
        Action::List => list(&mut topology, output).await,
    }
}

async fn list(topology: &mut TopologyClient<crate::client::Authenticated>, output: &Output) -> Result<(), Error> {
    let mut exchanges = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListExchangesRequest { page_size: 1_000, page_token };
        let page = topology.list_exchanges(request).await?.into_inner();
        exchanges.extend(page.exchanges);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output.result(
        || exchanges.iter().map(json::exchange).collect(),
        || {
            let row = |e: &pb::Exchange| [e.name.clone(), kind(e), flags(e), e.alternate_exchange.clone()];
            table(["exchange", "type", "flags", "alternate"], exchanges.iter().map(row))
        },
    )
}

fn show(output: &Output, exchange: Option<pb::Exchange>) -> Result<(), Error> {
    let exchange = exchange.unwrap_or_default();
    output.result(
        || json::exchange(&exchange),
        || {
            properties([
                ("exchange", exchange.name.clone()),
                ("type", kind(&exchange)),
                ("flags", flags(&exchange)),
                ("alternate", exchange.alternate_exchange.clone()),
            ])
        },
    )
}

fn kind(exchange: &pb::Exchange) -> String {
    json::short(exchange.r#type().as_str_name(), "EXCHANGE_TYPE")
}

fn flags(exchange: &pb::Exchange) -> String {
    let flags = [("auto-delete", exchange.auto_delete), ("internal", exchange.internal)];
    let set: Vec<&str> = flags.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    set.join(" ")
}
