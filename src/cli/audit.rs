//! `warrengate audit`: the audit trail, for platform administrators.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use super::{
    Error, Output,
    connection::{ADMINISTRATION, ConnectionArgs},
    json,
    output::table,
    signals::Signals,
    values,
};
use crate::pb::{self, admin_client::AdminClient};

type Admin = AdminClient<crate::client::Authenticated>;

const EXAMPLES: &str = "\
Examples:
  warrengate audit                                     the last 50 events
  warrengate audit --follow                            then new ones as they are recorded
  warrengate audit --outcome refused --tenant acme     refused calls of acme
  warrengate audit --client acme.app --since 1h --json
  warrengate audit --method CreateTenant --count 5";

/// The interval at which the gateway is polled for new events.
const POLL: Duration = Duration::from_secs(1);
/// Events of several gateways can arrive slightly out of order; new ones are searched for this far back.
const OVERLAP: Duration = Duration::from_secs(60);

/// The flags of `audit`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Only events of this tenant
    #[arg(long, value_name = "TENANT", help_heading = None)]
    tenant: Option<String>,
    /// Only events of this client
    #[arg(long, value_name = "ID", help_heading = None)]
    client: Option<String>,
    /// Only events of this method, like CreateTenant or warrengate.v1.Messaging/Publish
    #[arg(long, value_name = "METHOD", help_heading = None)]
    method: Option<String>,
    /// Only events with this outcome: done, refused, failed or unfinished
    #[arg(long, value_name = "OUTCOME", help_heading = None)]
    outcome: Option<String>,
    /// Only events at this time or later, like 1h (ago) or 2026-11-21T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = values::past, help_heading = None)]
    since: Option<SystemTime>,
    /// Only events before this time
    #[arg(long, value_name = "TIME", value_parser = values::past, help_heading = None)]
    until: Option<SystemTime>,
    /// How many of the newest events to show
    #[arg(long, value_name = "NUMBER", default_value_t = 50, help_heading = None)]
    count: u32,
    /// Keep running, and print new events as they are recorded
    #[arg(long, conflicts_with = "until", help_heading = None)]
    follow: bool,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let mut admin = args.connection.connect(ADMINISTRATION).await?.admin();
    let mut events = newest(&mut admin, &args, args.since, args.count).await?;
    events.reverse();
    if !args.follow {
        return output.result(
            || events.iter().map(json::audit).collect(),
            || {
                let header = ["time", "client", "from", "method", "tenant", "object", "rule", "outcome"];
                table(header, events.iter().map(columns))
            },
        );
    }
    // Events older than the first one shown are not printed.
    let first = events.first().and_then(|event| SystemTime::try_from(event.time?).ok()).max(args.since);
    let mut seen = HashSet::new();
    let mut signals = Signals::listen()?;
    loop {
        for event in events.into_iter().filter(|event| seen.insert(event.id.clone())) {
            line(&event, output)?;
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = signals.next() => return Ok(()),
        }
        let from = SystemTime::now().checked_sub(OVERLAP).max(first);
        events = newest(&mut admin, &args, from, u32::MAX).await?;
        events.reverse();
        // Events before the overlap are not returned again.
        let current: HashSet<_> = events.iter().map(|event| event.id.clone()).collect();
        seen.retain(|id| current.contains(id));
    }
}

/// The newest events, newest first.
async fn newest(
    admin: &mut Admin,
    args: &Args,
    from: Option<SystemTime>,
    count: u32,
) -> Result<Vec<pb::AuditEvent>, Error> {
    let given = |text: &Option<String>| text.clone().unwrap_or_default();
    let mut events = Vec::new();
    let mut page_token = String::new();
    loop {
        let left = count.saturating_sub(u32::try_from(events.len()).unwrap_or(u32::MAX));
        let request = pb::ListAuditEventsRequest {
            tenant: given(&args.tenant),
            client_id: given(&args.client),
            method: given(&args.method),
            outcome: given(&args.outcome),
            from: from.map(Into::into),
            until: args.until.map(Into::into),
            page_size: i32::try_from(left.clamp(1, 1_000)).unwrap_or_default(),
            page_token,
        };
        let page = admin.list_audit_events(request).await?.into_inner();
        events.extend(page.events);
        page_token = page.next_page_token;
        if page_token.is_empty() || events.len() >= count as usize {
            events.truncate(count as usize);
            return Ok(events);
        }
    }
}

fn columns(event: &pb::AuditEvent) -> [String; 8] {
    let outcome = match event.times {
        0 | 1 => event.outcome.clone(),
        times => format!("{} ({times} times)", event.outcome),
    };
    [
        json::time(event.time).unwrap_or_default(),
        event.client_id.clone(),
        event.peer_address.clone(),
        event.method.strip_prefix("warrengate.v1.").unwrap_or(&event.method).to_owned(),
        event.tenant.clone(),
        event.object.clone(),
        event.rule.clone(),
        outcome,
    ]
}

fn line(event: &pb::AuditEvent, output: &Output) -> Result<(), Error> {
    if output.is_json() {
        return output.line(&json::audit(event).to_string());
    }
    let columns = columns(event).map(|column| if column.is_empty() { "-".to_owned() } else { column });
    output.line(&output.safe(&columns.join("  ")))
}
