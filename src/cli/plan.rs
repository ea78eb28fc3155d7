//! `warrengate plan`: what tenants may use.

use super::{
    Error, Output,
    connection::{ADMINISTRATION, ConnectionArgs},
    json,
    output::{properties, table},
};
use crate::pb;

const EXAMPLES: &str = "\
Examples:
  warrengate plan list
  warrengate plan get standard --json";

/// The flags of `plan`.
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
    /// Show all plans
    List,
    /// Show a plan
    Get {
        /// The plan
        name: String,
    },
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let mut admin = args.connection.connect(ADMINISTRATION).await?.admin();
    match args.action {
        Action::List => {
            let mut plans = Vec::new();
            let mut page_token = String::new();
            loop {
                let request = pb::ListPlansRequest { page_size: 1_000, page_token };
                let page = admin.list_plans(request).await?.into_inner();
                plans.extend(page.plans);
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            output.result(
                || plans.iter().map(json::plan).collect(),
                || {
                    let header = ["plan", "connections", "queues", "streams", "message", "in flight"];
                    let row = |p: &pb::Plan| {
                        let in_flight = format!("{}, {}", limit(p.max_in_flight_messages), size(p.max_in_flight_bytes));
                        let (connections, queues) = (limit(p.max_connections), limit(p.max_queues));
                        [
                            p.name.clone(),
                            connections,
                            queues,
                            limit(p.max_streams),
                            size(p.max_message_bytes),
                            in_flight,
                        ]
                    };
                    table(header, plans.iter().map(row))
                },
            )
        }
        Action::Get { name } => {
            let plan = admin.get_plan(pb::GetPlanRequest { name }).await?.into_inner().plan.unwrap_or_default();
            output.result(
                || json::plan(&plan),
                || {
                    properties([
                        ("plan", plan.name.clone()),
                        ("connections", limit(plan.max_connections)),
                        ("queues", limit(plan.max_queues)),
                        ("streams", limit(plan.max_streams)),
                        ("message size", size(plan.max_message_bytes)),
                        ("messages in flight", limit(plan.max_in_flight_messages)),
                        ("bytes in flight", size(plan.max_in_flight_bytes)),
                    ])
                },
            )
        }
    }
}

fn limit(number: u32) -> String {
    if number == 0 { "unlimited".to_owned() } else { number.to_string() }
}

fn size(bytes: u64) -> String {
    match bytes {
        0 => "unlimited".to_owned(),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}
