//! `warrengate tenant`: tenants, for platform administrators.

mod usage;
mod watch;

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
  warrengate tenant usage initech           its plan's limits and their use
  warrengate tenant watch initech --interval 2s     the figures of its queues
  warrengate tenant watch --as acme --count 1       a tenant's client with the observe grant: its own tenant
  warrengate tenant suspend initech
  warrengate tenant verify acme --against globex    attempt cross-tenant access with acme's credentials
  warrengate tenant rotate-credentials acme         a new certificate at the broker
  warrengate tenant reconcile --all --dry-run       differences at the broker
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
    /// Create a tenant with its vhost, broker user and limits; repairs an existing one
    Create {
        /// 2 to 40 characters of a-z, 0-9 and "-", starting with a letter
        id: String,
        /// A display name
        #[arg(long, value_name = "TEXT")]
        display_name: Option<String>,
        /// Its plan; see `warrengate plan list` [default: standard]
        #[arg(long, value_name = "NAME")]
        plan: Option<String>,
        /// Only validate the request
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
    /// Change a tenant's display name or plan
    #[command(arg_required_else_help = true)]
    Update {
        /// The tenant
        id: String,
        /// A display name
        #[arg(long, value_name = "TEXT", required_unless_present = "plan")]
        display_name: Option<String>,
        /// Its plan
        #[arg(long, value_name = "NAME")]
        plan: Option<String>,
    },
    /// Show a tenant's use of its plan
    Usage {
        /// The tenant [default: the caller's own]
        id: Option<String>,
    },
    /// Show the figures of a tenant's queues at an interval: depth, consumers, rates, the age of the oldest message
    Watch(watch::Watch),
    /// Refuse a tenant's clients; its messages are kept
    Suspend {
        /// The tenant
        id: String,
    },
    /// Resume a suspended tenant
    Resume {
        /// The tenant
        id: String,
    },
    /// Delete a tenant with all its queues, messages and clients
    Delete {
        /// The tenant
        id: String,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Compare tenants with the broker and repair differences; messages are never touched
    #[command(arg_required_else_help = true)]
    Reconcile {
        /// The tenant
        #[arg(required_unless_present = "all")]
        id: Option<String>,
        /// All tenants, and search for objects that belong to none
        #[arg(long, conflicts_with = "id")]
        all: bool,
        /// Only report what would be changed
        #[arg(long)]
        dry_run: bool,
    },
    /// Replace a tenant's certificate at the broker, on every gateway; its streams stay open
    RotateCredentials {
        /// The tenant
        id: String,
    },
    /// Test isolation: attempt to access another tenant with this one's real credentials
    Verify {
        /// The tenant whose credentials are used
        id: String,
        /// The tenant whose vhost is attempted
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
            let created = admin.create_tenant(request).await?.into_inner();
            let tenant = created.tenant.unwrap_or_default();
            output.result(
                || json!({"tenant": json::tenant(&tenant), "changes": created.changes}),
                || {
                    let changes = created.changes.iter().map(|change| format!("\n  {change}")).collect::<String>();
                    let changes = if changes.is_empty() { "\nno changes at the broker".to_owned() } else { changes };
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
            let request = pb::GetTenantUsageRequest { tenant: id.clone().unwrap_or_default() };
            usage::show(
                output,
                id.as_deref().unwrap_or("this tenant"),
                &admin.get_tenant_usage(request).await?.into_inner(),
            )
        }
        Action::Watch(watch) => watch::run(admin, watch, output).await,
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
            lines.push(format!(
                "{} tenants checked, {} with differences",
                found.looked_at,
                found.reconciliations.len()
            ));
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
                    _ if is_inconclusive(p) => "INCONCLUSIVE: neither admitted nor refused",
                    (true, false) => "admitted, as expected",
                    (true, true) => "REFUSED, but should be admitted",
                    (false, true) => "refused",
                    (false, false) => "ADMITTED, but should be refused",
                };
                [p.attempt.clone(), seen.to_owned(), p.answer.clone()]
            };
            let table = table(["attempt", "", "the broker's answer"], found.probes.iter().map(row));
            format!("{table}\n\nisolated: {}", if found.isolated { "yes" } else { "NO" })
        },
    )?;
    if found.isolated {
        return Ok(());
    }
    let let_in = found.probes.iter().any(|p| !p.is_control && !p.refused && !is_inconclusive(p));
    let text = match let_in {
        true => "the tenants are not isolated: suspend the tenant, and check the gateway's log",
        false => "the check is inconclusive: run it again when every broker node answers",
    };
    Err(Error::Failed(text.to_owned()))
}

/// The broker did not answer the attempt, so it proves nothing.
fn is_inconclusive(probe: &pb::IsolationProbe) -> bool {
    probe.answer.starts_with("inconclusive")
}

/// Requires a second confirmation, because deletion cannot be undone.
fn confirm(id: &str, output: &Output) -> Result<(), Error> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::Usage(format!(
            "deleting {id} needs confirmation: use --yes when standard input is not a terminal"
        )));
    }
    let ask = |question: String, expected: &str| {
        output.note(&question);
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).map_err(Error::io("cannot read the answer"))?;
        if answer.trim() == expected { Ok(()) } else { Err(Error::Failed(format!("{id} was not deleted"))) }
    };
    ask(
        format!("This deletes {id} with all its queues, messages and clients, permanently. Type its name to continue:"),
        id,
    )?;
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
