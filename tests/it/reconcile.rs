//! Reconciliation: drift at the broker is detected, reported, repaired and audited; on request, as a dry run, and
//! periodically.

use std::time::Duration;

use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use reqwest::Method;
use serde_json::json;
use warrengate::pb;

use crate::harness::{
    SharedStack, Tenant,
    broker::{self, Login, Management, certificate_of, tls},
    command,
    consumer::{RawSubscription, ids, start},
    dedicated::DedicatedStack,
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

/// The name of the exchange, the queue and the operator policy.
const DEAD_LETTERS: &str = "wg.dead-letters";

/// A connection to the tenant's vhost, past the gateway.
async fn connect(tenant: &Tenant) -> lapin::Connection {
    let certificate = certificate_of(&tenant.id);
    broker::amqp(tls(Some(&certificate)), &format!("wg.{}", tenant.id), Login::External).await.unwrap()
}

async fn delete_exchange_and_queue(channel: &lapin::Channel) {
    channel.exchange_delete(DEAD_LETTERS.into(), ExchangeDeleteOptions::default()).await.unwrap();
    channel.queue_delete(DEAD_LETTERS.into(), QueueDeleteOptions::default()).await.unwrap();
}

/// What `doctor` says about the tenants, with the settings of this gateway.
async fn doctors_finding(dedicated: &DedicatedStack) -> (bool, String) {
    let mut doctor = command::warrengate("nobody", &"unused".into());
    doctor.envs(dedicated.stack.settings().iter().cloned());
    let output = command::run(doctor, &["doctor", "--json"]).await;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let finding = checks.iter().find(|check| check["check"] == "tenants at the broker").expect("the check");
    assert_eq!(output.status.success(), report["ok"] == true, "{report}");
    (finding["ok"] == true, finding["seen"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn doctor_names_the_tenants_whose_objects_are_missing_at_the_broker() {
    let dedicated = DedicatedStack::start("doctor", &[]).await;
    let (damaged, _intact) = (dedicated.tenant().await, dedicated.tenant().await);
    let (is_fine, seen) = doctors_finding(&dedicated).await;
    assert!(is_fine && seen.ends_with("tenants compared, without differences"), "{seen}");
    let vhost = format!("wg.{}", damaged.id);
    dedicated.stack.node().control(&["delete_queue", DEAD_LETTERS, "--vhost", &vhost]).await.unwrap();
    let (is_fine, seen) = doctors_finding(&dedicated).await;
    assert!(!is_fine && seen.starts_with("1 of "), "{seen}");
    let named = |object: &str| format!("reconciling would have created {object} {DEAD_LETTERS} in {vhost}");
    let of_tenant = format!("{}: {}, {}", damaged.id, named("queue"), named("binding"));
    assert!(seen.ends_with(&of_tenant), "{seen}");
    dedicated.admin().await.admin().reconcile_tenant(reconcile(&damaged.id, false)).await.unwrap();
    assert!(doctors_finding(&dedicated).await.0);
    dedicated.stack.stop().await.unwrap();
}

/// The gateways of other tests may repair an object at any time, so each is removed until it is named.
#[tokio::test]
async fn missing_dead_letter_objects_are_named_and_created_again() {
    let admin = SharedStack::get().admin().await;
    let tenant = limited(pb::Plan { max_stored_messages: 100, ..pb::Plan::default() }).await;
    let (broker, connection) = (Management::new(), connect(&tenant).await);
    let channel = connection.create_channel().await.unwrap();
    let changes = async |dry_run| {
        let report = admin.admin().reconcile_tenant(reconcile(&tenant.id, dry_run)).await.unwrap().into_inner();
        report.reconciliations.into_iter().flat_map(|of| of.changes).collect::<Vec<_>>().join("\n")
    };
    for object in ["binding", "queue", "exchange", "operator policy"] {
        let remove = async || match object {
            "binding" => {
                let (name, nothing) = (DEAD_LETTERS.into(), FieldTable::default());
                channel.queue_unbind(DEAD_LETTERS.into(), name, "".into(), nothing).await.unwrap();
            }
            "queue" => drop(channel.queue_delete(DEAD_LETTERS.into(), QueueDeleteOptions::default()).await.unwrap()),
            "exchange" => channel.exchange_delete(DEAD_LETTERS.into(), ExchangeDeleteOptions::default()).await.unwrap(),
            _ => {
                let path = format!("operator-policies/wg.{}/{DEAD_LETTERS}", tenant.id);
                broker.ask(Method::DELETE, &path, None).await.unwrap();
            }
        };
        let expected = format!("{object} {DEAD_LETTERS}");
        until(&format!("{object} is named"), async || {
            remove().await;
            changes(true).await.contains(&expected).then_some(())
        })
        .await;
        until(&format!("{object} is created"), async || {
            remove().await;
            changes(false).await.contains(&expected).then_some(())
        })
        .await;
        assert_eq!(changes(true).await, "", "{object}");
    }
    // Dead letters are stored again.
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "stored").await;
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    let taken = ids(&consumer.take(1).await);
    consumer.nack(&taken, pb::NackAction::DeadLetter).await;
    assert_eq!(tenant.dead_letter().await.queue, "jobs");
    connection.close(200, "done".into()).await.unwrap();
}

#[tokio::test]
async fn changed_dead_letter_objects_are_named_and_replaced_only_after_their_deletion() {
    let admin = SharedStack::get().admin().await;
    let (tenant, expected) =
        (Tenant::fresh().await, ["exchange", "queue"].map(|what| format!("{what} {DEAD_LETTERS}")));
    let connection = connect(&tenant).await;
    let is_named = |seen: &String| expected.iter().all(|expected| seen.contains(expected));
    let failure = async |dry_run| {
        let report = admin.admin().reconcile_tenant(reconcile(&tenant.id, dry_run)).await.unwrap().into_inner();
        report.reconciliations.into_iter().next().map(|of| of.failure).unwrap_or_default()
    };
    until("both are changed before they are created again", async || {
        // The broker closes the channel if another gateway was faster.
        let channel = connection.create_channel().await.unwrap();
        delete_exchange_and_queue(&channel).await;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let (name, nothing) = (DEAD_LETTERS.into(), FieldTable::default());
        channel.exchange_declare(name, ExchangeKind::Direct, durable, nothing.clone()).await.ok()?;
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(DEAD_LETTERS.into(), durable, nothing).await.ok()?;
        Some(failure(true).await).filter(is_named)
    })
    .await;
    let failed = failure(false).await;
    assert!(is_named(&failed) && failed.contains("direct") && failed.contains("x-queue-type"), "{failed}");
    assert_eq!(failure(false).await, failed, "they are kept");

    delete_exchange_and_queue(&connection.create_channel().await.unwrap()).await;
    assert_eq!(failure(false).await, "");
    let again = admin.admin().reconcile_tenant(reconcile(&tenant.id, true)).await.unwrap().into_inner();
    assert_eq!(again.reconciliations, vec![]);
    connection.close(200, "done".into()).await.unwrap();
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
