//! Queues that are deleted while the broker still declares them. RabbitMQ may then stop moving dead letters and declaring
//! quorum queues, for all tenants of the node.

use std::time::Duration;

use futures_util::future::join_all;
use tonic::Code;
use warrengate::pb;

use crate::harness::{Tenant, dedicated::DedicatedStack, tenant::known, wait::within};

/// Queues that are declared at the same time.
const QUEUES: usize = 24;
/// The gateway waits 1 s for a new queue, and busy brokers answer late.
const PROMPT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn deleting_queues_during_their_declaration_affects_no_other_tenant() {
    let stack = DedicatedStack::start("early-queues", &[]).await;
    let other = stack.tenant().await;
    for _ in 0..rounds() {
        // Of its own, because each refusal uses up a channel number of the tenant's connection.
        let tenant = stack.tenant().await;
        join_all((0..QUEUES).map(|number| declare_and_delete(&tenant, format!("jobs-{number}")))).await;
    }
    has_working_dead_letters(&other).await;
    stack.stack.stop().await.unwrap();
}

#[tokio::test]
async fn deleting_tenants_that_declare_queues_affects_no_other_tenant() {
    let stack = DedicatedStack::start("early-tenants", &[]).await;
    let other = stack.tenant().await;
    // The gateway that deletes a tenant closes its own connections first.
    let declaring = stack.stack.another_gateway().await.unwrap();
    let endpoint = format!("https://{}", declaring.grpc_address());
    let admin = stack.admin().await;
    for _ in 0..rounds() {
        let tenants = join_all((0..QUEUES / 4).map(|_| stack.tenant())).await;
        join_all(tenants.iter().map(async |tenant| {
            let client = stack.client_at(&endpoint, &tenant.client_id, &tenant.secret).await;
            known(&client).await;
            let declare = async |lane: usize| {
                for number in 0.. {
                    let request = declaration(&format!("jobs-{lane}-{number}"));
                    if client.topology().declare_queue(request).await.is_err() {
                        return;
                    }
                }
            };
            let declarations = join_all((0..4).map(declare));
            let deletion = async {
                client.topology().declare_queue(declaration("first")).await.expect("declared");
                admin.admin().delete_tenant(pb::DeleteTenantRequest { tenant: tenant.id.clone() }).await.unwrap();
            };
            within("the declarations and the deletion", async { tokio::join!(declarations, deletion) }).await;
        }))
        .await;
    }
    has_working_dead_letters(&other).await;
    declaring.shutdown().await;
    stack.stack.stop().await.unwrap();
}

/// Deletes a queue as soon as the broker knows it.
async fn declare_and_delete(tenant: &Tenant, name: String) {
    let declared = async {
        tenant.client.topology().declare_queue(declaration(&name)).await.expect("declared");
    };
    let deleted = async {
        let request = pb::DeleteQueueRequest { name: name.clone(), ..pb::DeleteQueueRequest::default() };
        while let Err(status) = tenant.client.topology().delete_queue(request.clone()).await {
            assert_eq!(status.code(), Code::NotFound, "{status:?}");
        }
    };
    within("the declaration and the deletion", async { tokio::join!(declared, deleted) }).await;
}

/// A quorum queue can be declared, and its expired message becomes a dead letter.
async fn has_working_dead_letters(tenant: &Tenant) {
    let ttl = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
    let queue = pb::Queue { message_ttl: ttl, ..declaration("expiring").queue.unwrap_or_default() };
    let check = async {
        tenant.queue_of(queue).await;
        tenant.publish_to("expiring", "late").await;
        tenant.dead_letter().await;
    };
    tokio::time::timeout(PROMPT, check).await.expect("the broker's dead-lettering works");
}

fn declaration(name: &str) -> pb::DeclareQueueRequest {
    let queue = pb::Queue { name: name.into(), ..pb::Queue::default() };
    pb::DeclareQueueRequest { queue: Some(queue), validate_only: false }
}

/// The number of rounds; more for a proof by hand.
fn rounds() -> usize {
    std::env::var("WARRENGATE_TEST_ROUNDS").map_or(2, |rounds| rounds.parse().expect("a number"))
}
