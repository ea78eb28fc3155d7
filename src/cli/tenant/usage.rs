//! `warrengate tenant usage`: a tenant's limits and usage, as bars or JSON.

use serde_json::{Value, json};

use crate::{
    cli::{Error, Output, output::table, plan::limits::amount},
    pb,
};

const BAR: usize = 20;

pub(super) fn show(output: &Output, tenant: &str, usage: &pb::GetTenantUsageResponse) -> Result<(), Error> {
    let meter = |meter: &pb::UsageMeter| -> Value {
        json!({
            "limit": meter.limit,
            "allowed": meter.allowed,
            "used": meter.used,
            "of_this_gateway": meter.of_this_gateway,
        })
    };
    output.result(
        || json!({"tenant": tenant, "plan": usage.plan, "meters": usage.meters.iter().map(meter).collect::<Vec<_>>()}),
        || {
            let row = |meter: &pb::UsageMeter| {
                let place = if meter.of_this_gateway { "this gateway" } else { "" };
                let (used, allowed) = (number(meter, meter.used), number(meter, meter.allowed));
                let allowed = if meter.allowed == 0 { "unlimited".to_owned() } else { allowed };
                [name(&meter.limit), bar(meter.used, meter.allowed), used, allowed, place.to_owned()]
            };
            let meters = table(["limit", "", "used", "allowed", "of"], usage.meters.iter().map(row));
            format!("{tenant}, plan {}\n\n{meters}", usage.plan)
        },
    )
}

/// `max_publish_bytes_per_second` is `publish bytes per second`.
fn name(limit: &str) -> String {
    limit.strip_prefix("max_").unwrap_or(limit).replace('_', " ")
}

fn number(meter: &pb::UsageMeter, number: u64) -> String {
    if meter.limit.contains("bytes") { amount(number) } else { number.to_string() }
}

/// A bar for the used share; any usage shows at least one mark.
fn bar(used: u64, allowed: u64) -> String {
    if allowed == 0 {
        return String::new();
    }
    let share = used as f64 / allowed as f64;
    let full = ((share * BAR as f64).ceil() as usize).min(BAR);
    let over = if share > 1.0 { "!" } else { "" };
    format!("[{}{}] {:.0}%{over}", "#".repeat(full), "-".repeat(BAR - full), share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_proportional_to_the_usage() {
        assert_eq!(bar(0, 10), "[--------------------] 0%");
        assert_eq!(bar(1, 1000), "[#-------------------] 0%");
        assert_eq!(bar(5, 10), "[##########----------] 50%");
        assert_eq!(bar(20, 10), "[####################] 200%!");
        assert_eq!(bar(20, 0), "");
        assert_eq!(name("max_stored_bytes"), "stored bytes");
    }
}
