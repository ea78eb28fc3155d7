//! Tenant isolation at the gateway: a token of one tenant cannot name, see or guess anything of another.

use tonic::{Code, Status};
use warrengate::{
    client::Client,
    pb::{self, ExchangeType, Outcome, subscribe_request::Frame},
};

use crate::harness::{
    SharedStack, Tenant,
    raw::{RawSubscribe, reason, shape, start},
    to_queue,
};

/// Both names have the same length, so that only the name itself can differ in an answer.
const THEIRS: &str = "their-secrets";
const MISSING: &str = "never-existed";

/// Every call that names a queue or an exchange, each with its answer for this name.
async fn all_answers(client: &Client, name: &str) -> Vec<(&'static str, Result<String, Status>)> {
    let mut topology = client.topology();
    let name = || name.to_owned();
    let mut answers = Vec::new();
    macro_rules! ask {
        ($what:literal, $call:expr) => {
            answers.push(($what, $call.await.map(|answer| format!("{:?}", answer.into_inner()))));
        };
    }
    ask!("GetQueue", topology.get_queue(pb::GetQueueRequest { name: name() }));
    ask!("GetExchange", topology.get_exchange(pb::GetExchangeRequest { name: name() }));
    ask!("PurgeQueue", topology.purge_queue(pb::PurgeQueueRequest { name: name() }));
    for (if_unused, if_empty) in [(false, false), (true, false), (false, true)] {
        ask!("DeleteQueue", topology.delete_queue(pb::DeleteQueueRequest { name: name(), if_unused, if_empty }));
    }
    ask!("DeleteExchange", topology.delete_exchange(pb::DeleteExchangeRequest { name: name(), if_unused: true }));
    let queue_end = pb::Binding { source: "own".into(), destination: name(), ..pb::Binding::default() };
    let source_end = pb::Binding { source: name(), destination: "own".into(), ..pb::Binding::default() };
    let exchange_end = pb::Binding { destination_type: pb::DestinationType::Exchange.into(), ..queue_end.clone() };
    for binding in [queue_end, source_end, exchange_end] {
        ask!("Bind", topology.bind(pb::BindRequest { binding: Some(binding.clone()) }));
        ask!("Unbind", topology.unbind(pb::UnbindRequest { binding: Some(binding) }));
    }
    for (source, destination) in [(name(), String::new()), (String::new(), name())] {
        let request = pb::ListBindingsRequest { source, destination, ..pb::ListBindingsRequest::default() };
        ask!("ListBindings", topology.list_bindings(request));
    }
    let queue = pb::Queue { name: name(), ..pb::Queue::default() };
    let request = pb::DeclareQueueRequest { queue: Some(queue), validate_only: true };
    ask!("DeclareQueue, validate only", topology.declare_queue(request));

    let mut stream = RawSubscribe::open(client).await.unwrap();
    stream.send(Frame::Start(start(&name()))).await;
    answers.push(("Subscribe", Err(stream.end().await.0)));

    let to_exchange = pb::Publication { exchange: name(), ..to_queue("key", "guess") };
    for publication in [to_queue(&name(), "guess"), to_exchange] {
        let result = client.publish_batch(vec![publication]).await.unwrap().remove(0);
        assert_ne!(result.outcome(), Outcome::Confirmed);
        answers.push(("PublishBatch", Ok(format!("{:?} {}", result.outcome(), result.reason))));
    }
    answers
}

#[tokio::test]
async fn every_call_answers_alike_for_another_tenants_queue_and_a_missing_one() {
    let (ours, theirs) = (Tenant::fresh().await, Tenant::fresh().await);
    for tenant in [&ours, &theirs] {
        tenant.queue("own").await;
        tenant.exchange("own", ExchangeType::Fanout).await;
    }
    theirs.queue(THEIRS).await;
    theirs.exchange(THEIRS, ExchangeType::Fanout).await;
    theirs.bind(THEIRS, THEIRS, "").await;
    theirs.publish_to(THEIRS, "not yours").await;

    let of_theirs = all_answers(&ours.client, THEIRS).await;
    let of_missing = all_answers(&ours.client, MISSING).await;
    assert_eq!(of_theirs.len(), of_missing.len());
    for ((what, theirs), (_, missing)) in of_theirs.into_iter().zip(of_missing) {
        match (theirs, missing) {
            (Ok(theirs), Ok(missing)) => {
                assert_eq!(theirs.replace(THEIRS, "<name>"), missing.replace(MISSING, "<name>"), "{what}");
            }
            (Err(theirs), Err(missing)) => {
                assert_eq!(shape(&theirs, THEIRS), shape(&missing, MISSING), "{what}");
            }
            (theirs, missing) => panic!("{what}: {theirs:?} against {missing:?}"),
        }
    }
    // The other tenant is not affected.
    assert_eq!(theirs.take(THEIRS, 1).await, ["not yours"]);
}

#[tokio::test]
async fn lists_contain_only_the_tenants_own_objects() {
    let (ours, theirs) = (Tenant::fresh().await, Tenant::fresh().await);
    for (tenant, name) in [(&ours, "ours"), (&theirs, THEIRS)] {
        tenant.queue(name).await;
        tenant.exchange(name, ExchangeType::Topic).await;
        tenant.bind(name, name, "a.*").await;
    }
    let mut topology = ours.client.topology();
    let queues = topology.list_queues(pb::ListQueuesRequest::default()).await.unwrap().into_inner().queues;
    let queues: Vec<_> = queues.into_iter().map(|entry| entry.queue.unwrap().name).collect();
    assert_eq!(queues, ["ours"]);
    let exchanges = topology.list_exchanges(pb::ListExchangesRequest::default()).await.unwrap().into_inner().exchanges;
    let exchanges: Vec<_> = exchanges.into_iter().map(|exchange| exchange.name).collect();
    assert_eq!(exchanges, ["ours"]);
    let bindings = topology.list_bindings(pb::ListBindingsRequest::default()).await.unwrap().into_inner().bindings;
    let bindings: Vec<_> = bindings.into_iter().map(|binding| (binding.source, binding.destination)).collect();
    assert_eq!(bindings, [("ours".to_owned(), "ours".to_owned())]);
}

#[tokio::test]
async fn the_same_names_in_two_tenants_never_mix() {
    let (ours, theirs) = (Tenant::fresh().await, Tenant::fresh().await);
    for tenant in [&ours, &theirs] {
        tenant.queue("jobs").await;
        tenant.exchange("events", ExchangeType::Fanout).await;
        tenant.bind("events", "jobs", "").await;
    }
    for n in 0..20 {
        ours.publish_to("jobs", format!("ours {n}")).await;
        let event = pb::Publication { exchange: "events".into(), ..to_queue("", format!("theirs {n}")) };
        theirs.publish(event).await;
    }
    let bodies = |name: &str| (0..20).map(|n| format!("{name} {n}")).collect::<Vec<_>>();
    assert_eq!(ours.take("jobs", 20).await, bodies("ours"));
    assert_eq!(theirs.take("jobs", 20).await, bodies("theirs"));
    let delete = pb::DeleteQueueRequest { name: "jobs".into(), ..pb::DeleteQueueRequest::default() };
    ours.client.topology().delete_queue(delete).await.unwrap();
    theirs.publish_to("jobs", "still here").await;
    assert_eq!(theirs.take("jobs", 1).await, ["still here"]);
}

#[tokio::test]
async fn no_name_leads_to_another_vhost_or_the_gateways_own_objects() {
    let (ours, theirs) = (Tenant::fresh().await, Tenant::fresh().await);
    theirs.queue("jobs").await;
    let hostile = [
        format!("wg.{}/jobs", theirs.id),
        format!("../wg.{}/jobs", theirs.id),
        format!("%2e%2e%2fwg.{}%2fjobs", theirs.id),
        format!("wg.{}.jobs", theirs.id),
        "wg.dead-letters".to_owned(),
        "amq.rabbitmq.trace".to_owned(),
        "jobs\0".to_owned(),
    ];
    for name in hostile {
        let status = ours.client.topology().get_queue(pb::GetQueueRequest { name: name.clone() }).await;
        let status = status.expect_err("no such name");
        assert_eq!(status.code(), Code::InvalidArgument, "{name:?}: {status:?}");
        let queue = Some(pb::Queue { name: name.clone(), ..pb::Queue::default() });
        let declare = pb::DeclareQueueRequest { queue, validate_only: false };
        let status = ours.client.topology().declare_queue(declare).await.expect_err("no such name");
        assert_eq!(status.code(), Code::InvalidArgument, "{name:?}: {status:?}");
    }
    // The default exchange routes by queue name, but not to the gateway's own queue.
    let result = ours.client.publish_batch(vec![to_queue("wg.dead-letters", "forged")]).await.unwrap().remove(0);
    assert_eq!(result.outcome(), Outcome::Rejected, "{result:?}");
    let exchange = pb::Publication { exchange: "wg.dead-letters".into(), ..to_queue("", "forged") };
    let result = ours.client.publish_batch(vec![exchange]).await.unwrap().remove(0);
    assert_eq!(result.outcome(), Outcome::Rejected, "{result:?}");
}

#[tokio::test]
async fn a_tenant_administrator_cannot_change_another_tenant_or_learn_whether_it_exists() {
    let (ours, theirs) = (Tenant::fresh().await, Tenant::fresh().await);
    let shared = SharedStack::get();
    let grants = pb::Grants { administer: true, ..crate::harness::tenant::all_grants() };
    let (id, secret) = Tenant::add_client(&shared.admin().await, &ours.id, "administrator", grants).await;
    let tenant_admin = shared.client(&id, &secret).await;

    for tenant in [theirs.id.as_str(), "no-such-tenant", ""] {
        let client_id = if tenant.is_empty() { "admin".to_owned() } else { format!("{tenant}.app") };
        let mut admin = tenant_admin.admin();
        let client = Some(pb::Client { client_id: client_id.clone(), ..pb::Client::default() });
        let update_mask = Some(prost_types::FieldMask { paths: vec!["display_name".into()] });
        let refusals = [
            admin.list_clients(pb::ListClientsRequest { tenant: tenant.into(), ..Default::default() }).await.map(drop),
            admin
                .create_client(pb::CreateClientRequest { client: client.clone(), ..Default::default() })
                .await
                .map(drop),
            admin.update_client(pb::UpdateClientRequest { client, update_mask, validate_only: false }).await.map(drop),
            admin.revoke_client(pb::RevokeClientRequest { client_id: client_id.clone() }).await.map(drop),
            admin.rotate_client_secret(pb::RotateClientSecretRequest { client_id, overlap: None }).await.map(drop),
        ];
        for refused in refusals {
            let status = refused.expect_err("another tenant's");
            let answer = (status.code(), reason(&status));
            assert_eq!(
                (answer.0, answer.1.as_str()),
                (Code::PermissionDenied, "CLIENTS_OF_OTHER_TENANT"),
                "{status:?}"
            );
        }
    }
    for tenant in [&theirs.id, &ours.id] {
        let mut admin = tenant_admin.admin();
        let tenant = || tenant.clone();
        let whole = || Some(pb::Tenant { id: tenant(), ..pb::Tenant::default() });
        let update_mask = Some(prost_types::FieldMask { paths: vec!["plan".into()] });
        let refusals = [
            admin.get_tenant(pb::GetTenantRequest { tenant: tenant() }).await.map(drop),
            admin.list_tenants(pb::ListTenantsRequest::default()).await.map(drop),
            admin.create_tenant(pb::CreateTenantRequest { tenant: whole(), ..Default::default() }).await.map(drop),
            admin
                .update_tenant(pb::UpdateTenantRequest { tenant: whole(), update_mask, validate_only: false })
                .await
                .map(drop),
            admin.suspend_tenant(pb::SuspendTenantRequest { tenant: tenant() }).await.map(drop),
            admin.resume_tenant(pb::ResumeTenantRequest { tenant: tenant() }).await.map(drop),
            admin.delete_tenant(pb::DeleteTenantRequest { tenant: tenant() }).await.map(drop),
        ];
        for refused in refusals {
            let status = refused.expect_err("for the platform's administrators");
            let answer = (status.code(), reason(&status));
            assert_eq!(
                (answer.0, answer.1.as_str()),
                (Code::PermissionDenied, "PLATFORM_ADMINISTRATORS_ONLY"),
                "{status:?}"
            );
        }
    }
    // The other tenant's client continues to work.
    theirs.queue("jobs").await;
}
