//! Reconciliation: drift at the broker is detected, reported, repaired and audited; on request, as a dry run, and
//! periodically.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use warrengate::pb;

use crate::harness::{
    SharedStack, Tenant,
    broker::Management,
    command,
    plans::limited,
    raw::reason,
    wait::{until, within},
    web,
};

/// Causes every kind of drift that an administrator of the broker can.
async fn drift(tenant: &Tenant, broker: &Management) {
    let name = format!("wg.{}", tenant.id);
    let narrow = json!({"configure": "", "write": ".*", "read": ".*"});
    broker.change(Method::PUT, &format!("permissions/{name}/{name}"), Some(narrow)).await;
    let tagged = json!({"password": "a password", "tags": "administrator"});
    broker.change(Method::PUT, &format!("users/{name}"), Some(tagged)).await;
    broker.change(Method::DELETE, &format!("vhost-limits/{name}/max-connections"), None).await;
}

fn reconcile(tenant: &str, dry_run: bool) -> pb::ReconcileTenantRequest {
    pb::ReconcileTenantRequest { tenant: tenant.into(), dry_run }
}

#[tokio::test]
async fn drift_is_reported_by_a_dry_run_repaired_on_request_and_audited() {
    let admin = SharedStack::get().admin().await;
    let mut admin = admin.admin();
    let (tenant, broker) = (Tenant::fresh().await, Management::new());
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "stays").await;
    let unchanged = admin.reconcile_tenant(reconcile(&tenant.id, false)).await.unwrap().into_inner();
    assert_eq!((unchanged.reconciliations, unchanged.looked_at), (vec![], 1));

    drift(&tenant, &broker).await;
    let report = admin.reconcile_tenant(reconcile(&tenant.id, true)).await.unwrap().into_inner().reconciliations;
    let lines = report[0].changes.clone();
    for what in ["tags and password", "its vhost", "max-connections"] {
        assert!(lines.iter().any(|line| line.contains(what)), "{what}: {lines:?}");
    }
    let user = broker.get(&format!("users/wg.{}", tenant.id)).await.unwrap();
    assert!(user["tags"].to_string().contains("administrator"), "a dry run changes nothing: {user}");

    let done = admin.reconcile_tenant(reconcile(&tenant.id, false)).await.unwrap().into_inner().reconciliations;
    assert_eq!(done[0].changes, lines, "as the dry run reported");
    let user = broker.get(&format!("users/wg.{}", tenant.id)).await.unwrap();
    assert!(!user["tags"].to_string().contains("administrator"), "{user}");
    let again = admin.reconcile_tenant(reconcile(&tenant.id, true)).await.unwrap().into_inner();
    assert_eq!(again.reconciliations, vec![]);
    assert_eq!(tenant.take("jobs", 1).await, ["stays"]);

    let filter = pb::ListAuditEventsRequest {
        tenant: tenant.id.clone(),
        method: "ReconcileTenant".into(),
        ..Default::default()
    };
    let events = admin.list_audit_events(filter).await.unwrap().into_inner().events;
    let repairs: Vec<_> = events.iter().filter(|event| event.rule == "reconciliation").collect();
    assert_eq!(repairs.len(), lines.len(), "{events:?}");
    assert!(repairs.iter().all(|event| lines.contains(&event.object) && event.client_id == "admin"), "{events:?}");
    assert!(repairs.iter().all(|event| event.trace_id.len() == 32 && !event.peer_address.is_empty()), "{events:?}");

    let status = admin.reconcile_tenant(reconcile("no-such", false)).await.expect_err("no tenant");
    assert_eq!(reason(&status), "TENANT_NOT_FOUND");
}

#[tokio::test]
async fn a_missing_user_and_vhost_are_created_again() {
    let admin = SharedStack::get().admin().await;
    let (tenant, broker) = (Tenant::fresh().await, Management::new());
    let name = format!("wg.{}", tenant.id);
    for path in [format!("users/{name}"), format!("vhosts/{name}")] {
        broker.change(Method::DELETE, &path, None).await;
    }
    let report = admin.admin().reconcile_tenant(reconcile(&tenant.id, true)).await.unwrap().into_inner();
    assert_eq!(report.reconciliations[0].changes.len(), 2, "{report:?}");
    admin.admin().reconcile_tenant(reconcile(&tenant.id, false)).await.unwrap();
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "kept").await;
}

#[tokio::test]
async fn objects_of_no_tenant_are_reported_and_not_changed() {
    let broker = Management::new();
    let name = format!("wg.x{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    broker.change(Method::PUT, &format!("vhosts/{name}"), Some(json!({}))).await;
    let admin = || command::warrengate("admin", SharedStack::get().admin_secret());
    let found = command::json(admin(), &["tenant", "reconcile", "--all", "--dry-run"]).await;
    let unknown = found["unknown"].as_array().unwrap();
    assert!(unknown.contains(&json!(format!("vhost {name}"))), "{found}");
    assert!(broker.get(&format!("vhosts/{name}")).await.is_some());
    broker.change(Method::DELETE, &format!("vhosts/{name}"), None).await;
}

/// The gateway's own queues are added to the plan's limit, and a later version may have more of them.
#[tokio::test]
async fn an_upgraded_gateway_raises_the_limit_of_queues_of_existing_tenants() {
    let tenant = limited(pb::Plan { max_queues: 3, ..pb::Plan::default() }).await;
    let (broker, name) = (Management::new(), format!("wg.{}", tenant.id));
    // An earlier version had fewer queues for retries.
    let path = format!("vhost-limits/{name}/max-queues");
    broker.change(Method::PUT, &path, Some(json!({"value": 3 + 64}))).await;
    let limit = async || {
        let limits = broker.get(&format!("vhost-limits/{name}")).await.unwrap();
        limits[0]["value"]["max-queues"].as_u64()
    };
    assert_eq!(limit().await, Some(67));
    let gateway = web::gateway(|config| config.broker.reconcile_interval = Duration::from_secs(1)).await;
    until("the new limit", async || (limit().await? == 3 + 256).then_some(())).await;
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn the_gateway_repairs_drift_periodically_and_audits_it() {
    let (tenant, broker) = (Tenant::fresh().await, Management::new());
    let gateway = web::gateway(|config| config.broker.reconcile_interval = Duration::from_secs(1)).await;
    drift(&tenant, &broker).await;
    let name = format!("wg.{}", tenant.id);
    until("the repair", async || {
        let user = broker.get(&format!("users/{name}")).await.unwrap();
        (!user["tags"].to_string().contains("administrator")).then_some(())
    })
    .await;
    let admin = SharedStack::get().admin().await;
    let request = pb::ListAuditEventsRequest {
        tenant: tenant.id.clone(),
        method: "gateway".into(),
        ..pb::ListAuditEventsRequest::default()
    };
    let events = until("the audit event", async || {
        let answer = within("the audit trail", admin.admin().list_audit_events(request.clone())).await.unwrap();
        Some(answer.into_inner().events).filter(|events| events.len() >= 3)
    })
    .await;
    assert!(events.iter().all(|event| event.client_id.is_empty() && event.outcome == "done"), "{events:?}");
    gateway.running.shutdown().await;
}
