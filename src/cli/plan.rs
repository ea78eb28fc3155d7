//! `warrengate plan`: the limits of tenants.

pub(super) mod limits;

use self::limits::{Limits, number, size};
use super::{
    Error, Output,
    connection::{ADMINISTRATION, ConnectionArgs},
    json,
    output::{properties, table},
};
use crate::pb::{self, admin_client::AdminClient};

const EXAMPLES: &str = "\
Examples:
  warrengate plan list
  warrengate plan get standard --json
  warrengate plan create trial --streams 5 --messages-per-second 50 --stored-bytes 64MiB --message-ttl 1day
  warrengate plan create large --like standard --streams 500
  warrengate plan update trial --messages-per-second 100    applies to open streams within a second
  warrengate tenant update acme --plan trial
  warrengate tenant usage acme                              the limits and their use
  warrengate plan delete trial";

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
    /// Create a plan; limits that are not given are unlimited, or those of --like
    Create {
        /// Copy the limits of this plan first
        #[arg(long, value_name = "PLAN", help_heading = None)]
        like: Option<String>,
        #[command(flatten)]
        given: Box<PlanFlags>,
    },
    /// Change limits of a plan; the others remain unchanged
    #[command(arg_required_else_help = true)]
    Update(Box<PlanFlags>),
    /// Delete a plan that no tenant uses
    Delete {
        /// The plan
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct PlanFlags {
    /// 1 to 40 characters of a-z, 0-9 and "-", starting with a letter
    name: String,
    #[command(flatten)]
    limits: Limits,
    /// Only validate the request
    #[arg(long)]
    validate_only: bool,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let mut admin = args.connection.connect(ADMINISTRATION).await?.admin();
    match args.action {
        Action::List => list(&mut admin, output).await,
        Action::Get { name } => show(output, admin.get_plan(pb::GetPlanRequest { name }).await?.into_inner().plan),
        Action::Create { like, given } => {
            let like = match like {
                Some(name) => admin.get_plan(pb::GetPlanRequest { name }).await?.into_inner().plan.unwrap_or_default(),
                None => pb::Plan::default(),
            };
            let (plan, _) = given.limits.plan(given.name, like);
            let validate_only = given.validate_only;
            let request = pb::CreatePlanRequest { plan: Some(plan), validate_only, ..Default::default() };
            show(output, admin.create_plan(request).await?.into_inner().plan)
        }
        Action::Update(given) => {
            let (plan, paths) = given.limits.plan(given.name, pb::Plan::default());
            let request = pb::UpdatePlanRequest {
                plan: Some(plan),
                update_mask: Some(prost_types::FieldMask { paths }),
                validate_only: given.validate_only,
            };
            let done = admin.update_plan(request).await?.into_inner();
            show(output, done.plan)?;
            output.note(&format!("{} tenants use this plan", done.tenants));
            Ok(())
        }
        Action::Delete { name } => {
            admin.delete_plan(pb::DeletePlanRequest { name: name.clone() }).await?;
            output.result(|| serde_json::json!({"deleted": name}), || format!("deleted {name}"))
        }
    }
}

async fn list(admin: &mut AdminClient<crate::client::Authenticated>, output: &Output) -> Result<(), Error> {
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
            let header = ["plan", "streams", "messages/s", "bytes/s", "message", "in flight", "stored", "queues"];
            let row = |p: &pb::Plan| {
                [
                    p.name.clone(),
                    number(p.max_streams.into()),
                    number(p.max_publish_messages_per_second.into()),
                    size(p.max_publish_bytes_per_second),
                    size(p.max_message_bytes),
                    format!("{}, {}", number(p.max_in_flight_messages.into()), size(p.max_in_flight_bytes)),
                    format!("{}, {}", number(p.max_stored_messages), size(p.max_stored_bytes)),
                    number(p.max_queues.into()),
                ]
            };
            table(header, plans.iter().map(row))
        },
    )
}

fn show(output: &Output, plan: Option<pb::Plan>) -> Result<(), Error> {
    let plan = plan.unwrap_or_default();
    output.result(|| json::plan(&plan), || properties(limits::lines(&plan)))
}
