//! `warrengate binding`: the bindings of a tenant's exchanges.

use serde_json::json;

use super::{
    Error, Output,
    connection::{ConnectionArgs, DATA},
    json,
    output::table,
    values,
};
use crate::pb::{self, topology_client::TopologyClient};

const EXAMPLES: &str = "\
Examples:
  warrengate binding create orders invoices --routing-key *.paid
  warrengate binding create all orders --to exchange --routing-key #
  warrengate binding create reports pdf --header format=pdf --header pages:int=2 --match all
  warrengate binding list --source orders
  warrengate binding delete orders invoices --routing-key *.paid";

/// The flags of `binding`.
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
    /// Bind a queue or an exchange to an exchange; binding again has no effect
    Create(Binding),
    /// Remove a binding, given exactly as it was created
    Delete(Binding),
    /// Show bindings
    List {
        /// Only those from this exchange
        #[arg(long, value_name = "EXCHANGE", default_value = "", hide_default_value = true)]
        source: String,
        /// Only those to this queue or exchange
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        destination: String,
    },
}

#[derive(Debug, clap::Args)]
struct Binding {
    /// The source exchange
    source: String,
    /// The destination queue or exchange
    destination: String,
    /// The type of the destination
    #[arg(long, value_name = "KIND", value_enum, default_value = "queue")]
    to: Destination,
    /// The key of a direct exchange, the pattern of a topic exchange
    #[arg(long, short = 'k', value_name = "KEY", default_value = "", hide_default_value = true)]
    routing_key: String,
    /// For a headers exchange: a value to match, NAME=TEXT or NAME:TYPE=VALUE. Repeatable
    #[arg(long, value_name = "NAME[:TYPE]=VALUE", value_parser = values::header)]
    header: Vec<(String, pb::Value)>,
    /// For a headers exchange: how many of the values must match
    #[arg(long = "match", value_name = "HOW", value_enum, default_value = "all")]
    headers_match: Match,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Destination {
    /// A queue
    Queue,
    /// Another exchange
    Exchange,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Match {
    /// All
    All,
    /// At least one
    Any,
}

impl From<Binding> for pb::Binding {
    fn from(binding: Binding) -> Self {
        let to = match binding.to {
            Destination::Queue => pb::DestinationType::Queue,
            Destination::Exchange => pb::DestinationType::Exchange,
        };
        let how = match binding.headers_match {
            Match::All => pb::HeadersMatch::All,
            Match::Any => pb::HeadersMatch::Any,
        };
        Self {
            source: binding.source,
            destination: binding.destination,
            destination_type: to.into(),
            routing_key: binding.routing_key,
            headers: binding.header.into_iter().collect(),
            headers_match: how.into(),
        }
    }
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let mut topology = args.connection.connect(DATA).await?.topology();
    match args.action {
        Action::Create(binding) => {
            let binding = pb::Binding::from(binding);
            topology.bind(pb::BindRequest { binding: Some(binding.clone()) }).await?;
            output.result(|| json!({"bound": json::binding(&binding)}), || format!("bound {}", text(&binding)))
        }
        Action::Delete(binding) => {
            let binding = pb::Binding::from(binding);
            topology.unbind(pb::UnbindRequest { binding: Some(binding.clone()) }).await?;
            output.result(|| json!({"unbound": json::binding(&binding)}), || format!("unbound {}", text(&binding)))
        }
        Action::List { source, destination } => list(&mut topology, source, destination, output).await,
    }
}

async fn list(
    topology: &mut TopologyClient<crate::client::Authenticated>,
    source: String,
    destination: String,
    output: &Output,
) -> Result<(), Error> {
    let mut bindings = Vec::new();
    let mut page_token = String::new();
    loop {
        let (source, destination) = (source.clone(), destination.clone());
        let request = pb::ListBindingsRequest { source, destination, page_size: 1_000, page_token };
        let page = topology.list_bindings(request).await?.into_inner();
        bindings.extend(page.bindings);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output.result(
        || bindings.iter().map(json::binding).collect(),
        || {
            let row =
                |b: &pb::Binding| [b.source.clone(), b.destination.clone(), kind(b), b.routing_key.clone(), headers(b)];
            table(["exchange", "destination", "kind", "routing key", "headers"], bindings.iter().map(row))
        },
    )
}

fn text(binding: &pb::Binding) -> String {
    format!("{} {} to exchange {}", kind(binding), binding.destination, binding.source)
}

fn kind(binding: &pb::Binding) -> String {
    json::short(binding.destination_type().as_str_name(), "DESTINATION_TYPE")
}

fn headers(binding: &pb::Binding) -> String {
    if binding.headers.is_empty() {
        return String::new();
    }
    let mut pairs: Vec<String> = binding.headers.iter().map(|(name, v)| format!("{name}={}", json::value(v))).collect();
    pairs.sort();
    format!("{} of {}", json::short(binding.headers_match().as_str_name(), "HEADERS_MATCH"), pairs.join(" "))
}
