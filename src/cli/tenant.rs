//! `warrengate tenant`: tenants, as a platform administrator.

mod usage;

use std::io::{BufRead as _, IsTerminal as _};

use serde_json::json;

use super::{
    Error, Output,
    connection::{ADMINISTRATION, ConnectionArgs},
    json,
    output::{properties, table},
};
use crate::pb::{self, admin_client::AdminClient};

type Admin = AdminClient<crate::client::Authenticated>;

const EXAMPLES: &str = "\
Examples:
  warrengate tenant create initech --display-name Initech
  warrengate tenant list --json
  warrengate tenant usage initech           its plan's limits beside their use
  warrengate tenant suspend initech
  warrengate tenant verify acme --against globex    try to cross the wall with acme's own credentials
  warrengate tenant rotate-credentials acme         another certificate at the broker
  warrengate tenant reconcile --all --dry-run       what drifted at the broker
  warrengate tenant delete initech --yes";

/// The flags of `tenant`.
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
    /// Make a tenant: its vhost, its broker user and its limits; repairs one that stands already
    Create {
        /// 2 to 40 of a-z, 0-9 and "-", beginning with a letter
        id: String,
        /// A name for people
        #[arg(long, value_name = "TEXT")]
        display_name: Option<String>,
        /// What it may use; see `warrengate plan list` [default: standard]
        #[arg(long, value_name = "NAME")]
        plan: Option<String>,
        /// Check only, change nothing
        #[arg(long)]
        validate_only: bool,
    },
    /// Show a tenant
    Get {
        /// The tenant
        id: String,
    },
    /// Show all tenants
    List,
    /// Change a tenant's name for people or its plan
    #[command(arg_required_else_help = true)]
    Update {
        /// The tenant
        id: String,
        /// A name for people
        #[arg(long, value_name = "TEXT", required_unless_present = "plan")]
        display_name: Option<String>,
        /// What it may use
        #[arg(long, value_name = "NAME")]
        plan: Option<String>,
    },
    /// Show what a tenant uses of its plan
    Usage {
        /// The tenant
        id: String,
    },
    /// Shut a tenant out; its messages stay
    Suspend {
        /// The tenant
        id: String,
    },
    /// Let a suspended tenant in again
    Resume {
        /// The tenant
        id: String,
    },
    /// Delete a tenant with all its queues, messages and clients
    Delete {
        /// The tenant
        id: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Compare tenants with what they have at the broker, and repair what drifted; messages are never touched
    #[command(arg_required_else_help = true)]
    Reconcile {
        /// The tenant
        #[arg(required_unless_present = "all")]
        id: Option<String>,
        /// All tenants, and a look for what belongs to none
        #[arg(long, conflicts_with = "id")]
        all: bool,
        /// Only say what would be changed
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a tenant's certificate at the broker anew, on every gateway; its streams stay
    RotateCredentials {
        /// The tenant
        id: String,
    },
    /// Prove the wall: try to reach another tenant with this one's real credentials
    Verify {
        /// The tenant whose credentials are used
        id: String,
        /// The tenant on the other side
        #[arg(long, value_name = "TENANT")]
        against: String,
    },
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    if let Action::Delete { id, yes: false } = &args.action {
        confirm(id, output)?;
    }
    let mut admin = args.connection.connect(ADMINISTRATION).await?.admin();
    match args.action {
        Action::Create { id, display_name, plan, validate_only } => {
            let (display_name, plan) = (display_name.unwrap_or_default(), plan.unwrap_or_default());
            let tenant = Some(pb::Tenant { id, display_name, plan, ..Default::default() });
            let request = pb::CreateTenantRequest { tenant, validate_only, ..Default::default() };
            let made = admin.create_tenant(request).await?.into_inner();
            let tenant = made.tenant.unwrap_or_default();
            output.result(
                || json!({"tenant": json::tenant(&tenant), "changes": made.changes}),
                || {
                    let changes = made.changes.iter().map(|change| format!("\n  {change}")).collect::<String>();
                    let changes = if changes.is_empty() { "\nnothing had to be changed".to_owned() } else { changes };
                    format!("{}{changes}", text(&tenant))
                },
            )
        }
        Action::Get { id } => {
            show(output, admin.get_tenant(pb::GetTenantRequest { tenant: id }).await?.into_inner().tenant)
        }
        Action::List => list(&mut admin, output).await,
        Action::Update { id, display_name, plan } => {
            let named = [("display_name", display_name.is_some()), ("plan", plan.is_some())];
            let paths = named.iter().filter(|(_, given)| *given).map(|(name, _)| (*name).to_owned()).collect();
            let (display_name, plan) = (display_name.unwrap_or_default(), plan.unwrap_or_default());
            let request = pb::UpdateTenantRequest {
                tenant: Some(pb::Tenant { id, display_name, plan, ..Default::default() }),
                update_mask: Some(prost_types::FieldMask { paths }),
                validate_only: false,
            };
            show(output, admin.update_tenant(request).await?.into_inner().tenant)
        }
        Action::Usage { id } => {
            let request = pb::GetTenantUsageRequest { tenant: id.clone() };
            usage::show(output, &id, &admin.get_tenant_usage(request).await?.into_inner())
        }
        Action::Suspend { id } => {
            show(output, admin.suspend_tenant(pb::SuspendTenantRequest { tenant: id }).await?.into_inner().tenant)
        }
        Action::Resume { id } => {
            show(output, admin.resume_tenant(pb::ResumeTenantRequest { tenant: id }).await?.into_inner().tenant)
        }
        Action::Delete { id, .. } => {
            admin.delete_tenant(pb::DeleteTenantRequest { tenant: id.clone() }).await?;
            output.result(|| json!({"deleted": id}), || format!("deleted {id}"))
        }
        Action::Reconcile { id, dry_run, .. } => reconcile(&mut admin, id.unwrap_or_default(), dry_run, output).await,
        Action::RotateCredentials { id } => {
            let request = pb::RotateBrokerCredentialsRequest { tenant: id.clone() };
            let expires = json::time(admin.rotate_broker_credentials(request).await?.into_inner().expires);
            output.result(
                || json!({"tenant": id, "expires": expires}),
                || format!("{id} has a new certificate until {}", expires.clone().unwrap_or_default()),
            )
        }
        Action::Verify { id, against } => verify(&mut admin, id, against, output).await,
    }
}

async fn list(admin: &mut Admin, output: &Output) -> Result<(), Error> {
    let mut tenants = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListTenantsRequest { page_size: 1_000, page_token };
        let page = admin.list_tenants(request).await?.into_inner();
        tenants.extend(page.tenants);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output.result(
        || tenants.iter().map(json::tenant).collect(),
        || {
            let row = |t: &pb::Tenant| {
                let created = json::time(t.created).unwrap_or_default();
                [t.id.clone(), state(t), t.plan.clone(), t.display_name.clone(), created]
            };
            table(["tenant", "state", "plan", "name", "created"], tenants.iter().map(row))
        },
    )
}

async fn reconcile(admin: &mut Admin, tenant: String, dry_run: bool, output: &Output) -> Result<(), Error> {
    let found = admin.reconcile_tenant(pb::ReconcileTenantRequest { tenant, dry_run }).await?.into_inner();
    let one = |r: &pb::Reconciliation| json!({"tenant": r.tenant, "changes": r.changes, "failure": r.failure});
    output.result(
        || {
            json!({
                "dry_run": dry_run,
                "looked_at": found.looked_at,
                "reconciliations": found.reconciliations.iter().map(one).collect::<Vec<_>>(),
                "unknown": found.unknown,
            })
        },
        || {
            let would = if dry_run { "would have " } else { "" };
            let mut lines = Vec::new();
            for of in &found.reconciliations {
                lines.extend(of.changes.iter().map(|change| format!("{}: {would}{change}", of.tenant)));
                lines.extend((!of.failure.is_empty()).then(|| format!("{}: failed: {}", of.tenant, of.failure)));
            }
            lines.extend(found.unknown.iter().map(|what| format!("belongs to no tenant: {what}")));
            lines.push(format!("{} tenants looked at, {} drifted", found.looked_at, found.reconciliations.len()));
            lines.join("\n")
        },
    )?;
    match found.reconciliations.iter().filter(|of| !of.failure.is_empty()).count() {
        0 => Ok(()),
        failed => Err(Error::Failed(format!("{failed} tenants could not be reconciled"))),
    }
}

async fn verify(admin: &mut Admin, tenant: String, other_tenant: String, output: &Output) -> Result<(), Error> {
    let request = pb::VerifyIsolationRequest { tenant, other_tenant };
    let found = admin.verify_isolation(request).await?.into_inner();
    let probe = |p: &pb::IsolationProbe| json!({"attempt": p.attempt, "refused": p.refused, "answer": p.answer, "is_control": p.is_control});
    output.result(
        || json!({"isolated": found.isolated, "probes": found.probes.iter().map(probe).collect::<Vec<_>>()}),
        || {
            let row = |p: &pb::IsolationProbe| {
                let seen = match (p.is_control, p.refused) {
                    (true, false) => "let in, as it should be",
                    (true, true) => "REFUSED, and should be let in",
                    (false, true) => "refused",
                    (false, false) => "LET IN, and should be refused",
                };
                [p.attempt.clone(), seen.to_owned(), p.answer.clone()]
            };
            table(["attempt", "", "the broker's answer"], found.probes.iter().map(row))
        },
    )?;
    if found.isolated {
        return Ok(());
    }
    Err(Error::Failed("the wall does not hold: suspend the tenant, and see the gateway's log".to_owned()))
}

/// Asks twice, since nothing brings it back.
fn confirm(id: &str, output: &Output) -> Result<(), Error> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::Usage(format!("deleting {id} wants to be asked: give --yes where nobody can answer")));
    }
    let ask = |question: String, expected: &str| {
        output.note(&question);
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).map_err(Error::io("cannot read the answer"))?;
        if answer.trim() == expected { Ok(()) } else { Err(Error::Failed(format!("{id} was not deleted"))) }
    };
    ask(format!("This deletes {id} with all its queues, messages and clients, for ever. Type its name to go on:"), id)?;
    ask(format!("Really delete {id}? Type yes:"), "yes")
}

fn show(output: &Output, tenant: Option<pb::Tenant>) -> Result<(), Error> {
    let tenant = tenant.unwrap_or_default();
    output.result(|| json::tenant(&tenant), || text(&tenant))
}

fn text(tenant: &pb::Tenant) -> String {
    properties([
        ("tenant", tenant.id.clone()),
        ("name", tenant.display_name.clone()),
        ("plan", tenant.plan.clone()),
        ("state", state(tenant)),
        ("created", json::time(tenant.created).unwrap_or_default()),
    ])
}

fn state(tenant: &pb::Tenant) -> String {
    json::short(tenant.state().as_str_name(), "TENANT_STATE")
}
