//! Rights that are taken away: grants and administration on another gateway, a signing key that leaked, a client that is deleted.

use std::time::{Duration, Instant};

use tonic::Code;
use warrengate::{client::Credentials, pb};

use crate::harness::{
    Tenant, World,
    own::Own,
    raw::{RawSubscribe, reason},
    tenant::{all_grants, known},
    to_queue,
    wait::until,
    web,
};

/// A right that is taken away is gone within this time on every gateway.
const BOUND: Duration = Duration::from_secs(1);

fn grants_of(client_id: &str, grants: pb::Grants) -> pb::UpdateClientRequest {
    pb::UpdateClientRequest {
        client: Some(pb::Client { client_id: client_id.into(), grants: Some(grants), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["grants".into()] }),
        validate_only: false,
    }
}

#[tokio::test]
async fn a_right_that_is_taken_away_is_gone_on_another_gateway_whatever_an_older_token_says() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let (here, there) = (World::get().admin().await, web::gateway(|_| {}).await);
    let all = pb::Grants { administer: true, ..all_grants() };
    let (id, secret) = Tenant::add_client(&here, &tenant.id, "boss", all.clone()).await;
    let boss = there.client(&id, &secret).await;
    let list = || pb::ListClientsRequest { tenant: tenant.id.clone(), ..Default::default() };
    boss.admin().list_clients(list()).await.unwrap();
    let publish = async || boss.publish_batch(vec![to_queue("jobs", "one")]).await.unwrap()[0].outcome();
    assert_eq!(publish().await, pb::Outcome::Confirmed);

    here.admin().update_client(grants_of(&id, pb::Grants::default())).await.unwrap();
    let taken = Instant::now();
    let status = until("it is no administrator", async || boss.admin().list_clients(list()).await.err()).await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "ADMINISTER_NOT_GRANTED"));
    assert_eq!(publish().await, pb::Outcome::Denied);
    assert!(taken.elapsed() < BOUND, "{:?}", taken.elapsed());
    let status = boss.topology().purge_queue(pb::PurgeQueueRequest { name: "jobs".into() }).await.expect_err("taken");
    assert_eq!(status.code(), Code::PermissionDenied);
    // It cannot give itself anything back.
    let status = boss.admin().update_client(grants_of(&id, all)).await.expect_err("no administrator");
    assert_eq!(reason(&status), "ADMINISTER_NOT_GRANTED");
    let shown = boss.auth().who_am_i(pb::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!(shown.grants, Some(pb::Grants::default()));
    there.running.shutdown().await;
}

#[tokio::test]
async fn a_client_that_is_deleted_is_gone_and_its_successor_is_another_one() {
    let tenant = Tenant::fresh().await;
    let admin = World::get().admin().await;
    let (id, secret) = Tenant::add_client(&admin, &tenant.id, "worker", all_grants()).await;
    let worker = World::get().client(&id, &secret).await;
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
    assert_eq!(reason(&admin.admin().delete_client(own).await.expect_err("oneself")), "SHUTS_ITSELF_OUT");
}

#[tokio::test]
async fn deletions_purges_and_tokens_are_on_record_without_being_administration() {
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
    let admin = World::get().admin().await;
    for (method, object) in [
        ("warrengate.v1.Topology/PurgeQueue", "jobs"),
        ("warrengate.v1.Topology/DeleteQueue", "jobs"),
        ("warrengate.v1.Auth/IssueToken", tenant.client_id.as_str()),
    ] {
        let event = until("the event is on record", async || {
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
async fn a_signing_key_that_is_distrusted_ends_its_tokens_and_streams_at_once() {
    // A stack of its own, because every token of the gateway ends.
    let own = Own::start("distrusted-key", &[]).await;
    let tenant = own.tenant().await;
    tenant.queue("jobs").await;
    let admin = own.admin().await;
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
    let with_old = own.client_with(Credentials::Token(old)).await;
    let status = with_old.auth().who_am_i(pb::WhoAmIRequest {}).await.expect_err("a token of the old key");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "TOKEN_INVALID"));
    // New tokens are signed at once, with a key that the gateway made.
    own.admin().await.auth().who_am_i(pb::WhoAmIRequest {}).await.unwrap();
    let missing = pb::RevokeSigningKeyRequest { key_id: "nobodys".into(), ..Default::default() };
    let status = own.admin().await.admin().revoke_signing_key(missing).await.expect_err("no such key");
    assert_eq!(reason(&status), "KEY_NOT_FOUND");
}
