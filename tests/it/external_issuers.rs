//! External token issuers: several at once, unavailable ones, key rotation, and a flood of unknown key ids.

use std::time::Instant;

use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Channel};
use warrengate::{
    config::{IssuerConfig, KeySource, TenantSource},
    names::TenantId,
    pb::{self, admin_client::AdminClient, auth_client::AuthClient, messaging_client::MessagingClient},
};

use crate::harness::{
    SharedStack, Tenant,
    issuer::{self, Issuer, IssuerExt as _, Key},
    raw::reason,
    to_queue,
    wait::until,
    web,
};

fn with_token<T>(body: T, token: &str) -> Request<T> {
    let mut request = Request::new(body);
    request.metadata_mut().insert("authorization", MetadataValue::try_from(format!("Bearer {token}")).unwrap());
    request
}

/// The client id that the gateway derives from the token.
async fn who(channel: &Channel, token: &str) -> Result<String, Status> {
    let answer = AuthClient::new(channel.clone()).who_am_i(with_token(pb::WhoAmIRequest {}, token)).await?;
    Ok(answer.into_inner().client_id)
}

/// Waits until the token is accepted, because keys are fetched in the background.
async fn accepted(channel: &Channel, token: &str) -> String {
    until("the token is accepted", async || who(channel, token).await.ok()).await
}

async fn refused(channel: &Channel, token: &str) {
    let status = who(channel, token).await.expect_err("refused");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "TOKEN_INVALID"), "{status:?}");
}

#[tokio::test]
async fn several_issuers_are_trusted_and_an_unavailable_one_affects_no_other() {
    let (tenant, other) = (Tenant::fresh().await, Tenant::fresh().await);
    tenant.queue("jobs").await;
    // All keys have the same id, so that only the issuer distinguishes them.
    let keys: Vec<_> = (0..4).map(|_| Key::new("k")).collect();
    let by_discovery = Issuer::start(&[&keys[0]]).await;
    let going_away = Issuer::start(&[&keys[1]]).await;
    let unreachable = "http://127.0.0.1:9";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, serde_json::json!({"keys": [keys[3].public]}).to_string()).unwrap();
    let by_file = IssuerConfig {
        keys: KeySource::File(file),
        tenant: TenantSource::Fixed(TenantId::parse(&tenant.id).unwrap()),
        ..issuer::config("urn:corp")
    };
    let by_url = IssuerConfig { keys: KeySource::Url(format!("{}/keys", going_away.name())), ..going_away.config() };
    let gateway = web::gateway(|config| {
        config.auth.issuers = vec![by_discovery.config(), by_url, issuer::config(unreachable), by_file];
    })
    .await;
    let channel = gateway.channel().await;

    let guid = "9b2c8e60-1f6e-4d2c-9a57-0d6c1c1b7f10";
    let clients = [
        gateway.external_client(&tenant, "found", by_discovery.name(), "").await,
        gateway.external_client(&tenant, "away", going_away.name(), guid).await,
        gateway.external_client(&tenant, "file", "urn:corp", "spiffe://example.org/worker").await,
    ];
    let tokens = [
        keys[0].sign(&by_discovery.claims(&tenant.id, "found")),
        keys[1].sign(&going_away.claims(&tenant.id, guid)),
        keys[3].sign(&issuer::claims("urn:corp", "whatever", "spiffe://example.org/worker")),
    ];
    for (token, client) in tokens.iter().zip(&clients) {
        assert_eq!(accepted(&channel, token).await, *client);
    }
    // The gateway's own tokens are still valid.
    let own = gateway.token(&tenant.client_id, &tenant.secret).await;
    assert_eq!(who(&channel, &own).await.unwrap(), tenant.client_id);

    // Keys are not valid for another issuer, and an issuer cannot name another tenant than its own.
    refused(&channel, &keys[1].sign(&by_discovery.claims(&tenant.id, "found"))).await;
    refused(&channel, &keys[2].sign(&issuer::claims(unreachable, &tenant.id, "found"))).await;
    refused(&channel, &keys[3].sign(&issuer::claims("urn:corp", &other.id, &other.client_id))).await;
    let mut administers = by_discovery.claims(&tenant.id, "found");
    administers["scope"] = serde_json::json!({"a": true});
    refused(&channel, &keys[0].sign(&administers)).await;
    // A client is identified by the issuer to which it is bound, and by its external id, if it has one.
    refused(&channel, &keys[1].sign(&going_away.claims(&tenant.id, "away"))).await;
    let mut before = by_discovery.claims(&tenant.id, "app");
    before["iat"] = (before["iat"].as_u64().unwrap() - 60).into();
    for client in ["app", "unbound"] {
        before["azp"] = client.into();
        let status = who(&channel, &keys[0].sign(&before)).await.expect_err("refused");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "CLIENT_UNKNOWN"), "{status:?}");
    }
    // It has no usable secret.
    gateway.refused_token_by_http(&clients[0]).await;

    going_away.stop();
    let mut messaging = MessagingClient::new(channel.clone());
    for token in &tokens {
        let batch = pb::PublishBatchRequest { publications: vec![to_queue("jobs", "one")] };
        let results = messaging.publish_batch(with_token(batch, token)).await.unwrap().into_inner().results;
        assert_eq!(results[0].outcome(), pb::Outcome::Confirmed);
    }
    // The token limits the grants.
    let mut narrow = by_discovery.claims(&tenant.id, "found");
    narrow["scope"] = "subscribe:jobs".into();
    let batch = pb::PublishBatchRequest { publications: vec![to_queue("jobs", "one")] };
    let results =
        messaging.publish_batch(with_token(batch, &keys[0].sign(&narrow))).await.unwrap().into_inner().results;
    assert_eq!(results[0].outcome(), pb::Outcome::Denied);
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn a_platform_administrator_uses_a_token_of_a_trusted_issuer_until_it_is_revoked() {
    let key = Key::new("k");
    let corporate = Issuer::start(&[&key]).await;
    let gateway = web::gateway(|config| {
        config.auth.issuers = vec![IssuerConfig {
            tenant: TenantSource::Platform,
            allow_platform_administration: true,
            roles_claim: Some("groups".into()),
            roles: [("wg-admins".to_owned(), vec!["administer".to_owned()])].into(),
            ..corporate.config()
        }];
    })
    .await;
    let admin = gateway.client("admin", SharedStack::get().admin_secret()).await;
    let (tenant, guid) = (Tenant::fresh().await, "7c0a8f7e-6f0b-4f7e-8f53-2a9f0c6b1d11");
    let client_id = format!("ops-{}", tenant.id);
    let client = pb::Client {
        client_id: client_id.clone(),
        grants: Some(pb::Grants { administer: true, ..Default::default() }),
        issuer: corporate.name().into(),
        external_id: guid.into(),
        ..Default::default()
    };
    let request = pb::CreateClientRequest { client: Some(client.clone()), ..Default::default() };
    assert_eq!(admin.admin().create_client(request).await.unwrap().into_inner().client_secret, "");
    // Only an issuer with the setting can be given to a platform administrator.
    let other = pb::Client { client_id: "another".into(), issuer: "https://elsewhere".into(), ..client };
    let request = pb::CreateClientRequest { client: Some(other), ..Default::default() };
    assert_eq!(admin.admin().create_client(request).await.unwrap_err().code(), Code::InvalidArgument);

    let token = |groups: &[&str]| {
        let mut claims = corporate.claims(&tenant.id, guid);
        (claims["scope"], claims["groups"]) = ("openid".into(), groups.into());
        key.sign(&claims)
    };
    let (administrator, employee) = (token(&["staff", "wg-admins"]), token(&["staff"]));
    let channel = gateway.channel().await;
    assert_eq!(accepted(&channel, &administrator).await, client_id);
    refused(&channel, &employee).await;
    let mut external = AdminClient::new(channel.clone());
    let suspend = pb::SuspendTenantRequest { tenant: tenant.id.clone() };
    external.suspend_tenant(with_token(suspend, &administrator)).await.unwrap();
    let filter = pb::ListAuditEventsRequest { tenant: tenant.id.clone(), ..Default::default() };
    let events = external.list_audit_events(with_token(filter, &administrator)).await.unwrap().into_inner().events;
    assert!(events.iter().any(|event| event.client_id == client_id && event.outcome == "done"), "{events:?}");

    let revoke = pb::RevokeClientRequest { client_id };
    admin.admin().revoke_client(revoke).await.unwrap();
    let list = with_token(pb::ListTenantsRequest::default(), &administrator);
    let status = external.list_tenants(list).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn rotated_keys_are_fetched_and_a_flood_of_unknown_ones_causes_few_requests() {
    let tenant = Tenant::fresh().await;
    let (first, second) = (Key::new("first"), Key::new("second"));
    let local = Issuer::start(&[&first]).await;
    let gateway = web::gateway(|config| config.auth.issuers = vec![local.config()]).await;
    let channel = gateway.channel().await;
    gateway.external_client(&tenant, "ext", local.name(), "").await;
    let (old, new) = (first.sign(&local.claims(&tenant.id, "ext")), second.sign(&local.claims(&tenant.id, "ext")));
    accepted(&channel, &old).await;
    refused(&channel, &new).await;

    // Both keys are valid during the overlap, then only the new one.
    local.publish(&[&first, &second]);
    accepted(&channel, &new).await;
    who(&channel, &old).await.unwrap();
    local.publish(&[&second]);
    until("the old key is removed", async || {
        // An unknown key id causes a fetch of the keys.
        let _ = who(&channel, &Key::new("unknown").sign(&local.claims(&tenant.id, "ext"))).await;
        who(&channel, &old).await.err()
    })
    .await;

    // A refused key set changes nothing.
    let requests = local.requests();
    let crowd: Vec<_> = (0..65).map(|n| Key::new(&format!("k{n}")).public).chain([first.public.clone()]).collect();
    local.publish_document(serde_json::json!({"keys": crowd}));
    until("the set was fetched", async || {
        let _ = who(&channel, &Key::new("unknown").sign(&local.claims(&tenant.id, "ext"))).await;
        (local.requests() > requests).then_some(())
    })
    .await;
    who(&channel, &new).await.unwrap();
    refused(&channel, &old).await;

    local.publish(&[&second]);
    let (requests, began) = (local.requests(), Instant::now());
    let unknown = Key::new("x");
    let claims = local.claims(&tenant.id, "ext");
    for _ in 0..500 {
        refused(&channel, &unknown.sign(&claims)).await;
    }
    who(&channel, &new).await.unwrap();
    let (requests, took) = (local.requests() - requests, began.elapsed());
    eprintln!("500 unknown keys in {took:?} caused {requests} requests");
    let at_most = took.as_millis() / 500 + 2;
    assert!(requests as u128 <= at_most, "{requests} requests in {took:?}");
    gateway.running.shutdown().await;
}
