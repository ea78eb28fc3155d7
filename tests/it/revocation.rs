//! Revoked rights: grants and administration on another gateway, a leaked signing key, a deleted client.

use std::time::{Duration, Instant};

use tonic::Code;
use warrengate::{client::Credentials, pb};

use crate::harness::{
    SharedStack, Tenant,
    dedicated::DedicatedStack,
    raw::{RawSubscribe, reason},
    tenant::{all_grants, known},
    to_queue,
    wait::until,
    web,
};

/// The time within which a revoked right ends on every gateway.
const BOUND: Duration = Duration::from_secs(1);

fn grants_of(client_id: &str, grants: pb::Grants) -> pb::UpdateClientRequest {
    pb::UpdateClientRequest {
        client: Some(pb::Client { client_id: client_id.into(), grants: Some(grants), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["grants".into()] }),
        validate_only: false,
    }
}

#[tokio::test]
async fn a_revoked_right_ends_on_another_gateway_despite_an_older_token() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let (here, there) = (SharedStack::get().admin().await, web::gateway(|_| {}).await);
    let all = pb::Grants { administer: true, ..all_grants() };
    let (id, secret) = Tenant::add_client(&here, &tenant.id, "administrator", all.clone()).await;
    let tenant_admin = there.client(&id, &secret).await;
    let list = || pb::ListClientsRequest { tenant: tenant.id.clone(), ..Default::default() };
    tenant_admin.admin().list_clients(list()).await.unwrap();
    let publish = async || tenant_admin.publish_batch(vec![to_queue("jobs", "one")]).await.unwrap()[0].outcome();
    assert_eq!(publish().await, pb::Outcome::Confirmed);

    here.admin().update_client(grants_of(&id, pb::Grants::default())).await.unwrap();
    let taken = Instant::now();
    let status =
        until("it is not an administrator", async || tenant_admin.admin().list_clients(list()).await.err()).await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "ADMINISTER_NOT_GRANTED"));
    assert_eq!(publish().await, pb::Outcome::Denied);
    assert!(taken.elapsed() < BOUND, "{:?}", taken.elapsed());
    let status =
        tenant_admin.topology().purge_queue(pb::PurgeQueueRequest { name: "jobs".into() }).await.expect_err("taken");
    assert_eq!(status.code(), Code::PermissionDenied);
    // It cannot restore its own grants.
    let status = tenant_admin.admin().update_client(grants_of(&id, all)).await.expect_err("not an administrator");
    assert_eq!(reason(&status), "ADMINISTER_NOT_GRANTED");
    let shown = tenant_admin.auth().who_am_i(pb::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!(shown.grants, Some(pb::Grants::default()));
    there.running.shutdown().await;
}

#[tokio::test]
async fn a_deleted_client_is_refused_and_a_new_one_of_the_same_id_is_another_client() {
    let tenant = Tenant::fresh().await;
    let admin = SharedStack::get().admin().await;
    let (id, secret) = Tenant::add_client(&admin, &tenant.id, "worker", all_grants()).await;
    let worker = SharedStack::get().client(&id, &secret).await;
    known(&worker).await;
    let delete = || pb::DeleteClientRequest { client_id: id.clone() };
    admin.admin().delete_client(delete()).await.unwrap();
    let status = worker.auth().who_am_i(pb::WhoAmIRequest {}).await.expect_err("deleted");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "CLIENT_UNKNOWN"));
    assert_eq!(reason(&admin.admin().delete_client(delete()).await.expect_err("deleted")), "CLIENT_NOT_FOUND");
    let (_, another) = Tenant::add_client(&admin, &tenant.id, "worker", all_grants()).await;
    assert_eq!(web::token(&id, &secret).await.0.as_u16(), 401, "the secret of the old client");
    assert_eq!(web::token(&id, &another).await.0.as_u16(), 200);
    let status = worker.auth().who_am_i(pb::WhoAmIRequest {}).await.expect_err("the token of the old client");
    assert_eq!(reason(&status), "TOKEN_WITHDRAWN");
    let own = pb::DeleteClientRequest { client_id: "admin".into() };
    assert_eq!(reason(&admin.admin().delete_client(own).await.expect_err("oneself")), "REMOVES_OWN_ACCESS");
}

#[tokio::test]
async fn deletions_purges_and_tokens_are_audited_without_being_administration() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "one").await;
    tenant.purge("jobs").await;
    tenant
        .client
        .topology()
        .delete_queue(pb::DeleteQueueRequest { name: "jobs".into(), ..Default::default() })
        .await
        .unwrap();
    let admin = SharedStack::get().admin().await;
    for (method, object) in [
        ("warrengate.v1.Topology/PurgeQueue", "jobs"),
        ("warrengate.v1.Topology/DeleteQueue", "jobs"),
        ("warrengate.v1.Auth/IssueToken", tenant.client_id.as_str()),
    ] {
        let event = until("the event is audited", async || {
            let request = pb::ListAuditEventsRequest {
                client_id: tenant.client_id.clone(),
                method: method.into(),
                ..Default::default()
            };
            admin.admin().list_audit_events(request).await.unwrap().into_inner().events.into_iter().next()
        })
        .await;
        assert_eq!((event.outcome.as_str(), event.object.as_str()), ("done", object), "{event:?}");
        assert_eq!(event.tenant, tenant.id);
    }
}

#[tokio::test]
async fn revoking_a_signing_key_ends_its_tokens_and_streams_at_once() {
    // A separate stack, because every token of the gateway becomes invalid.
    let dedicated = DedicatedStack::start("distrusted-key", &[]).await;
    let tenant = dedicated.tenant().await;
    tenant.queue("jobs").await;
    let admin = dedicated.admin().await;
    let mut stream = RawSubscribe::started(&tenant.client, "jobs").await;
    let old = admin.token().await.unwrap().expect("a token").secret().clone();
    let revoked =
        admin.admin().revoke_signing_key(pb::RevokeSigningKeyRequest { all: true, ..Default::default() }).await;
    let at = Instant::now();
    assert_eq!(revoked.unwrap().into_inner().key_ids.len(), 1);
    let status = loop {
        match stream.event().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert!(at.elapsed() < BOUND, "{:?}", at.elapsed());
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "TOKEN_WITHDRAWN"));
    let with_old = dedicated.client_with(Credentials::Token(old)).await;
    let status = with_old.auth().who_am_i(pb::WhoAmIRequest {}).await.expect_err("a token of the old key");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "TOKEN_INVALID"));
    // New tokens are signed at once with a new key.
    dedicated.admin().await.auth().who_am_i(pb::WhoAmIRequest {}).await.unwrap();
    let missing = pb::RevokeSigningKeyRequest { key_id: "nobodys".into(), ..Default::default() };
    let status = dedicated.admin().await.admin().revoke_signing_key(missing).await.expect_err("no such key");
    assert_eq!(reason(&status), "KEY_NOT_FOUND");
}
