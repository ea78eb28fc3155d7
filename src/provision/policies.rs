//! The limits of a plan that the broker enforces itself, as policies in the tenant's vhost. They apply to every client
//! of the vhost, with or without the gateway. The arguments of a queue cannot exceed the limits of an operator policy,
//! and only the administrator can change it.
//!
//! A policy's length limit silently drops the oldest messages of a queue that was declared without `x-overflow`. The
//! gateway declares its queues with `reject-publish`; for all others an ordinary policy sets it, because RabbitMQ
//! supports `overflow` in operator policies only since 3.13.

use serde_json::{Map, Value, json};

use super::{
    Error,
    client::{Client, Policy, PolicyKind},
};
use crate::tenant::Plan;

/// The tenant's queues: all except the gateway's own.
const TENANTS: &str = r"^(?!wg\.)";
const DEAD_LETTERS: &str = r"^wg\.dead-letters$";
/// Below the priority of ordinary policies that an operator sets.
const LOWEST_PRIORITY: i64 = -100;

/// A required policy; with an empty definition, the policy must not exist.
struct Wanted {
    kind: PolicyKind,
    policy: Policy,
}

fn wanted(plan: &Plan) -> [Wanted; 3] {
    let limits = |pairs: &[(&str, u64)]| -> Map<String, Value> {
        pairs.iter().filter(|(_, limit)| *limit > 0).map(|(key, limit)| ((*key).to_owned(), json!(limit))).collect()
    };
    let length = [("max-length", plan.max_stored_messages), ("max-length-bytes", plan.max_stored_bytes)];
    let ttl = [("message-ttl", plan.max_message_ttl), ("expires", plan.queue_expires)];
    let overflow = [("overflow".to_owned(), json!("reject-publish"))].into_iter().collect();
    [
        Wanted::new(PolicyKind::Ordinary, "wg.overflow", TENANTS, LOWEST_PRIORITY, overflow),
        Wanted::new(PolicyKind::Operator, "wg.limits", TENANTS, 0, limits(&[length, ttl].concat())),
        // Dead letters are kept until they are processed, so they have no time to live, but their number is limited.
        Wanted::new(PolicyKind::Operator, "wg.dead-letters", DEAD_LETTERS, 0, limits(&length)),
    ]
}

impl Wanted {
    fn new(kind: PolicyKind, name: &str, pattern: &str, priority: i64, definition: Map<String, Value>) -> Self {
        let (name, pattern, apply_to) = (name.to_owned(), pattern.to_owned(), "queues".to_owned());
        Self { kind, policy: Policy { name, pattern, apply_to, priority, definition } }
    }

    fn is_none(&self) -> bool {
        self.policy.definition.is_empty()
    }

    fn matches(&self, existing: Option<&Policy>) -> bool {
        match existing {
            Some(existing) => !self.is_none() && *existing == self.policy,
            None => self.is_none(),
        }
    }

    fn change(&self, vhost: &str) -> String {
        let name = &self.policy.name;
        let kind = match self.kind {
            PolicyKind::Ordinary => "policy",
            PolicyKind::Operator => "operator policy",
        };
        if self.is_none() {
            return format!("removed {kind} {name} of {vhost}");
        }
        let limits: Vec<_> = self.policy.definition.iter().map(|(key, limit)| format!("{key} {limit}")).collect();
        format!("set {kind} {name} of {vhost}: {}", limits.join(", ")).replace('"', "")
    }
}

/// Changes a vhost's policies according to a plan, except in a dry run; returns the changes made or needed, one per
/// line.
pub(super) async fn ensure(client: &Client, vhost: &str, plan: &Plan, dry_run: bool) -> Result<Vec<String>, Error> {
    let mut changes = Vec::new();
    let operator = client.policies(PolicyKind::Operator, vhost).await?;
    let ordinary = client.policies(PolicyKind::Ordinary, vhost).await?;
    for wanted in wanted(plan) {
        let existing = match wanted.kind {
            PolicyKind::Ordinary => &ordinary,
            PolicyKind::Operator => &operator,
        };
        if wanted.matches(existing.iter().find(|policy| policy.name == wanted.policy.name)) {
            continue;
        }
        match (dry_run, wanted.is_none()) {
            (true, _) => {}
            (false, true) => client.delete_policy(wanted.kind, vhost, &wanted.policy.name).await?,
            (false, false) => client.put_policy(wanted.kind, vhost, &wanted.policy).await?,
        }
        changes.push(wanted.change(vhost));
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize as _;

    use super::*;
    use crate::pb;

    #[test]
    fn a_plan_without_limits_has_no_operator_policies_and_always_rejects_rather_than_drops() {
        let plan = Plan::parse(&pb::Plan { name: "none".into(), ..Default::default() }).expect("a plan");
        let names: Vec<_> = wanted(&plan).into_iter().filter(|w| !w.is_none()).map(|w| w.policy.name).collect();
        assert_eq!(names, ["wg.overflow"]);
        let [_, limits, _] = wanted(&plan);
        assert!(limits.matches(None));
        assert!(!limits.matches(Some(&limits.policy)), "a policy without definition is removed");
    }

    #[test]
    fn drift_in_any_part_of_a_policy_is_detected() {
        let plan = pb::Plan { name: "gold".into(), max_stored_messages: 5, ..Default::default() };
        let plan = Plan::parse(&plan).expect("a plan");
        let [_, limits, _] = wanted(&plan);
        let existing = json!({
            "vhost": "wg.acme", "name": "wg.limits", "pattern": TENANTS, "apply-to": "queues", "priority": 0,
            "definition": {"max-length": 5},
        });
        assert!(limits.matches(Policy::deserialize(&existing).ok().as_ref()));
        for (key, other) in [
            ("pattern", json!(".*")),
            ("apply-to", json!("all")),
            ("priority", json!(1)),
            ("definition", json!({"max-length": 6})),
            ("definition", json!({"max-length": 5, "expires": 1})),
        ] {
            let mut drifted = existing.clone();
            drifted[key] = other;
            assert!(!limits.matches(Policy::deserialize(&drifted).ok().as_ref()), "{drifted}");
        }
        assert_eq!(limits.change("wg.acme"), "set operator policy wg.limits of wg.acme: max-length 5");
    }
}
