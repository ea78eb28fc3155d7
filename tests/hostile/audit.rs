//! An unauthenticated client fills the audit trail, while the refusals of a known client must still be recorded.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use warrengate::pb;

use crate::{Scale, environment::Environment, http2::Http2, report::Report, wait::until};

const ATTACK: &str = "250 bad calls a second";
const REFUSALS: u64 = 50;
const METHOD: &str = "warrengate.v1.Topology/PurgeQueue";
const BETWEEN: Duration = Duration::from_millis(4);

pub async fn crowded(environment: &Arc<Environment>, scale: Scale, report: &mut Report) {
    let tenant = environment.tenant().await;
    tenant.queue("payroll", pb::QueueType::Quorum).await;
    let (client_id, secret) = environment.client_of(&tenant.id, "none", pb::Grants::default()).await;
    let client = environment.connect(&(client_id.clone(), secret)).await;
    let (address, ca) = (environment.target.grpc, environment.ca.clone());
    let attacker = tokio::spawn(async move {
        let mut sent = 0_u64;
        loop {
            let Some(connection) = Http2::connect(address, &ca).await else { continue };
            loop {
                // A method that no other client has called.
                let Some(call) = connection.call(&format!("warrengate.v1.M/Q{sent}"), Some("invalid")).await else {
                    break;
                };
                drop(call);
                sent += 1;
                tokio::time::sleep(BETWEEN).await;
            }
        }
    });
    let began = Instant::now();
    for number in 1..=REFUSALS {
        let request = pb::PurgeQueueRequest { name: "payroll".into() };
        client.topology().purge_queue(request).await.expect_err("not granted");
        let due = scale.flood.mul_f64(number as f64 / REFUSALS as f64);
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
    }
    attacker.abort();
    let mut recorded = 0;
    let waited = until_recorded(environment, &client_id, &mut recorded);
    let _ = tokio::time::timeout(Duration::from_secs(30), waited).await;
    let text = format!("{recorded} of {REFUSALS}");
    report.must(ATTACK, "all refusals of a client, with method, object", text, recorded == REFUSALS);
}

/// Combined refusals are written some seconds later.
async fn until_recorded(environment: &Arc<Environment>, client_id: &str, recorded: &mut u64) {
    until("the refusals of the client", async || {
        let request = pb::ListAuditEventsRequest {
            client_id: client_id.into(),
            method: METHOD.into(),
            page_size: 1_000,
            ..Default::default()
        };
        let events = environment.admin.admin().list_audit_events(request).await.ok()?.into_inner().events;
        *recorded = events.iter().filter(|event| !event.object.is_empty()).map(|event| event.times.max(1)).sum();
        (*recorded >= REFUSALS).then_some(())
    })
    .await;
}
