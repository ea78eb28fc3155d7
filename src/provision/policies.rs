//! What the broker itself holds of a plan in a tenant's vhost. A plan enters; what leaves is how its policies differ from those
//! that stand, and then policies that do not. They hold against whoever is inside the vhost, gateway or not: operator
//! policies cannot be widened by a queue's arguments, and only the administrator can change them.
//!
//! A policy's length would drop the oldest messages of a queue that was declared without `x-overflow`, silently. The gateway's
//! own declarations say `reject-publish`; for all others an ordinary policy does, which RabbitMQ 3.10 knows too (an
//! operator's `overflow` came with 3.13).

use rabbitmq_http_client::{commons::PolicyTarget, requests::PolicyParams};
use serde_json::{Map, Value, json};

use super::{Error, api::Api};
use crate::tenant::Plan;

/// Queues of the tenant's: all whose name is not the gateway's own.
const TENANTS: &str = r"^(?!wg\.)";
const DEAD_LETTERS: &str = r"^wg\.dead-letters$";
/// An operator's own policies come before ours.
const LAST: i32 = -100;

/// A policy as it should be; an empty definition is none.
struct Wanted {
    name: &'static str,
    is_operators: bool,
    pattern: &'static str,
    priority: i32,
    definition: Map<String, Value>,
}

fn wanted(plan: &Plan) -> [Wanted; 3] {
    let definition = |pairs: &[(&str, u64)]| {
        pairs.iter().filter(|(_, limit)| *limit > 0).map(|(key, limit)| ((*key).to_owned(), json!(limit))).collect()
    };
    let length = [("max-length", plan.max_stored_messages), ("max-length-bytes", plan.max_stored_bytes)];
    let life = [("message-ttl", plan.max_message_ttl), ("expires", plan.queue_expires)];
    let overflow = [("overflow".to_owned(), json!("reject-publish"))].into_iter().collect();
    [
        Wanted { name: "wg.overflow", is_operators: false, pattern: TENANTS, priority: LAST, definition: overflow },
        Wanted {
            name: "wg.limits",
            is_operators: true,
            pattern: TENANTS,
            priority: 0,
            definition: definition(&[length, life].concat()),
        },
        // What is there stays until somebody looks at it, but not without end.
        Wanted {
            name: "wg.dead-letters",
            is_operators: true,
            pattern: DEAD_LETTERS,
            priority: 0,
            definition: definition(&length),
        },
    ]
}

impl Wanted {
    fn kind(&self) -> &'static str {
        if self.is_operators { "operator policy" } else { "policy" }
    }

    /// Whether a policy that stands is this one.
    fn is(&self, there: Option<&Value>) -> bool {
        let Some(there) = there else { return self.definition.is_empty() };
        !self.definition.is_empty()
            && there["pattern"] == self.pattern
            && there["apply-to"] == "queues"
            && there["priority"] == self.priority
            && there["definition"].as_object() == Some(&self.definition)
    }

    fn change(&self, vhost: &str) -> String {
        let (kind, name) = (self.kind(), self.name);
        if self.definition.is_empty() {
            return format!("removed {kind} {name} of {vhost}");
        }
        let limits: Vec<_> = self.definition.iter().map(|(key, limit)| format!("{key} {limit}")).collect();
        format!("set {kind} {name} of {vhost}: {}", limits.join(", ")).replace('"', "")
    }
}

/// Brings a vhost's policies in line with a plan, unless it is only to look; what was or would be changed, a line each.
pub(super) async fn ensure(api: &Api, vhost: &str, plan: &Plan, dry_run: bool) -> Result<Vec<String>, Error> {
    let mut changes = Vec::new();
    let operators = all(api, "operator-policies", vhost).await?;
    let ordinary = all(api, "policies", vhost).await?;
    for wanted in wanted(plan) {
        let there = if wanted.is_operators { &operators } else { &ordinary };
        let there = there.iter().find(|policy| policy["name"] == wanted.name);
        if wanted.is(there) {
            continue;
        }
        if !dry_run {
            apply(api, vhost, &wanted).await?;
        }
        changes.push(wanted.change(vhost));
    }
    Ok(changes)
}

async fn all(api: &Api, kind: &str, vhost: &str) -> Result<Vec<Value>, Error> {
    let path = &[kind, vhost];
    let found = api.call(|link| async move { link.get(path, &[]).await }).await?.ok_or(Error::TooLarge)?;
    Ok(found.as_array().cloned().unwrap_or_default())
}

async fn apply(api: &Api, vhost: &str, wanted: &Wanted) -> Result<(), Error> {
    let params = &PolicyParams {
        vhost,
        name: wanted.name,
        pattern: wanted.pattern,
        apply_to: PolicyTarget::Queues,
        priority: wanted.priority,
        definition: wanted.definition.clone(),
    };
    let (is_none, is_operators) = (wanted.definition.is_empty(), wanted.is_operators);
    api.call(|link| async move {
        match (is_operators, is_none) {
            (true, false) => link.client.declare_operator_policy(params).await,
            (true, true) => link.client.delete_operator_policy(vhost, params.name, true).await,
            (false, false) => link.client.declare_policy(params).await,
            (false, true) => link.client.delete_policy(vhost, params.name, true).await,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    #[test]
    fn a_plan_without_limits_has_no_operator_policies_and_always_rejects_rather_than_drops() {
        let plan = Plan::parse(&pb::Plan { name: "none".into(), ..Default::default() }).expect("a plan");
        let names: Vec<_> = wanted(&plan).into_iter().filter(|w| !w.definition.is_empty()).map(|w| w.name).collect();
        assert_eq!(names, ["wg.overflow"]);
        assert!(wanted(&plan)[1].is(None));
        assert!(!wanted(&plan)[1].is(Some(&json!({"definition": {"expires": 1}}))));
    }

    #[test]
    fn drift_in_any_part_of_a_policy_is_seen() {
        let plan = pb::Plan { name: "gold".into(), max_stored_messages: 5, ..Default::default() };
        let plan = Plan::parse(&plan).expect("a plan");
        let [_, limits, _] = wanted(&plan);
        let there = json!({
            "pattern": TENANTS, "apply-to": "queues", "priority": 0, "definition": {"max-length": 5},
        });
        assert!(limits.is(Some(&there)));
        for (key, other) in [
            ("pattern", json!(".*")),
            ("apply-to", json!("all")),
            ("priority", json!(1)),
            ("definition", json!({"max-length": 6})),
            ("definition", json!({"max-length": 5, "expires": 1})),
        ] {
            let mut drifted = there.clone();
            drifted[key] = other;
            assert!(!limits.is(Some(&drifted)), "{drifted}");
        }
        assert_eq!(limits.change("wg.acme"), "set operator policy wg.limits of wg.acme: max-length 5");
    }
}
