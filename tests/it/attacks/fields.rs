//! Attacks through fields: names of other tenants' objects and injected code in every field that takes a name, old
//! clocks, unknown keys, and replayed delivery ids.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use tonic::{Code, Request};
use warrengate::pb::{
    self, admin_client::AdminClient, auth_client::AuthClient, messaging_client::MessagingClient,
    subscribe_request::Frame, subscribe_response::Event, topology_client::TopologyClient,
};

use super::{SOURCE, Suite, assert_audited, by};
use crate::{
    harness::{
        SharedStack, Tenant,
        issuer::{Issuer, IssuerExt as _, Key},
        raw::{RawSubscribe, start},
        to_queue,
        wait::until,
        web,
    },
    tokens::{Signer, claims},
};

const NAMES: &[&str] = &["INVALID_NAME", "RESERVED_NAME"];

/// A client with few grants that administers its tenant.
async fn tenant_admin(
    gateway: &web::OwnGateway,
    auth: &AuthClient<tonic::transport::Channel>,
    tenant: &Tenant,
) -> (String, String) {
    let few = pb::Grants { administer: true, subscribe: vec!["jobs".into()], ..pb::Grants::default() };
    let (id, secret) = Tenant::add_client(&SharedStack::get().admin().await, &tenant.id, "administrator", few).await;
    let token = until("the tenant administrator", async || {
        let token = gateway.token(&id, &secret).await;
        auth.clone().who_am_i(by(&token, pb::WhoAmIRequest {})).await.ok().map(|_| token)
    })
    .await;
    (id, token)
}

#[tokio::test]
async fn another_tenants_ids_and_code_in_any_field_are_refused_and_audited() {
    let (tenant, other) = (Tenant::fresh().await, Tenant::fresh().await);
    tenant.queue("jobs").await;
    other.queue("secrets").await;
    let gateway = web::gateway(|_| {}).await;
    let channel = web::channel_from(&gateway.endpoint(), SOURCE.into()).await;
    let mut suite = Suite::new(&channel);
    let auth = AuthClient::new(channel.clone());
    let mut admin = AdminClient::new(channel.clone());
    let (tenant_admin, token) = tenant_admin(&gateway, &auth, &tenant).await;

    suite.class("other tenants' ids in every field");
    let denied = Code::PermissionDenied;
    let whose = &["PLATFORM_ADMINISTRATORS_ONLY", "CLIENTS_OF_OTHER_TENANT"];
    for id in [other.id.as_str(), "no-such-tenant"] {
        let whole = || Some(pb::Tenant { id: id.into(), ..pb::Tenant::default() });
        let client = || Some(pb::Client { client_id: format!("{id}.app"), ..pb::Client::default() });
        let mask = || Some(prost_types::FieldMask { paths: vec!["display_name".into()] });
        macro_rules! refused {
            ($($call:ident $request:expr;)*) => {
                $(let got = admin.$call(by(&token, $request)).await;
                suite.refused(stringify!($call), &tenant_admin, got, denied, whose);)*
            };
        }
        refused! {
            create_tenant pb::CreateTenantRequest { tenant: whole(), ..Default::default() };
            get_tenant pb::GetTenantRequest { tenant: id.into() };
            update_tenant pb::UpdateTenantRequest { tenant: whole(), update_mask: mask(), ..Default::default() };
            suspend_tenant pb::SuspendTenantRequest { tenant: id.into() };
            resume_tenant pb::ResumeTenantRequest { tenant: id.into() };
            delete_tenant pb::DeleteTenantRequest { tenant: id.into() };
            get_tenant_usage pb::GetTenantUsageRequest { tenant: id.into() };
            list_clients pb::ListClientsRequest { tenant: id.into(), ..Default::default() };
            create_client pb::CreateClientRequest { client: client(), ..Default::default() };
            update_client pb::UpdateClientRequest { client: client(), update_mask: mask(), ..Default::default() };
            revoke_client pb::RevokeClientRequest { client_id: format!("{id}.app") };
            rotate_client_secret pb::RotateClientSecretRequest { client_id: format!("{id}.app"), overlap: None };
            rotate_broker_credentials pb::RotateBrokerCredentialsRequest { tenant: id.into() };
            list_audit_events pb::ListAuditEventsRequest { tenant: id.into(), ..Default::default() };
            reconcile_tenant pb::ReconcileTenantRequest { tenant: id.into(), dry_run: true };
            verify_isolation pb::VerifyIsolationRequest { tenant: tenant.id.clone(), other_tenant: id.into() };
            verify_isolation pb::VerifyIsolationRequest { tenant: id.into(), other_tenant: tenant.id.clone() };
        }
    }

    // Requests of a client that may do everything in its own tenant: names of other tenants' objects, and names that
    // contain code.
    let all = gateway.token(&tenant.client_id, &tenant.secret).await;
    let mut topology = TopologyClient::new(channel.clone());
    let mut messaging = MessagingClient::new(channel.clone());
    let theirs =
        [format!("wg.{}", other.id), format!("wg.{}/secrets", other.id), format!("../wg.{}/secrets", other.id)];
    let code = ["x' OR '1'='1", "x'; DROP TABLE tenants; --", "x\nlevel=ERROR forged", "x\r\n\u{1b}[2K forged", "x\0y"];
    let names = theirs.iter().map(|name| ("other tenants' ids in every field", name.as_str()));
    for (class, name) in names.chain(code.map(|name| ("code in every name", name))) {
        suite.class(class);
        let invalid = Code::InvalidArgument;
        let queue = || Some(pb::Queue { name: name.into(), ..Default::default() });
        let exchange = || Some(pb::Exchange { name: name.into(), r#type: 1, ..Default::default() });
        let from = || Some(pb::Binding { source: name.into(), destination: "jobs".into(), ..Default::default() });
        let to = || Some(pb::Binding { source: "amq.topic".into(), destination: name.into(), ..Default::default() });
        let filter = || Some(pb::DeadLetterFilter { queue: name.into(), ..Default::default() });
        macro_rules! refused {
            ($($call:ident $request:expr;)*) => {
                $(let got = topology.$call(by(&all, $request)).await.map(drop);
                suite.refused(&format!("{} {name:?}", stringify!($call)), &tenant.client_id, got, invalid, NAMES);)*
            };
        }
        refused! {
            declare_queue pb::DeclareQueueRequest { queue: queue(), validate_only: false };
            get_queue pb::GetQueueRequest { name: name.into() };
            delete_queue pb::DeleteQueueRequest { name: name.into(), ..Default::default() };
            purge_queue pb::PurgeQueueRequest { name: name.into() };
            declare_exchange pb::DeclareExchangeRequest { exchange: exchange(), validate_only: false };
            get_exchange pb::GetExchangeRequest { name: name.into() };
            delete_exchange pb::DeleteExchangeRequest { name: name.into(), ..Default::default() };
            bind pb::BindRequest { binding: from() };
            bind pb::BindRequest { binding: to() };
            unbind pb::UnbindRequest { binding: from() };
            unbind pb::UnbindRequest { binding: to() };
            list_bindings pb::ListBindingsRequest { source: name.into(), ..Default::default() };
            list_bindings pb::ListBindingsRequest { destination: name.into(), ..Default::default() };
            list_dead_letters pb::ListDeadLettersRequest { filter: filter(), ..Default::default() };
        }
        let begin = Frame::Start(start(name));
        let request = tokio_stream::once(pb::SubscribeRequest { frame: Some(begin) });
        let got = async { messaging.subscribe(by(&all, request)).await?.into_inner().message().await }.await;
        suite.refused(name, &tenant.client_id, got, invalid, NAMES);
        // For a message, the outcome reports the refusal.
        let publication = pb::Publication { exchange: name.into(), ..to_queue("jobs", "forged") };
        let batch = pb::PublishBatchRequest { publications: vec![publication] };
        let result = messaging.publish_batch(by(&all, batch)).await.unwrap().into_inner().results.remove(0);
        assert_eq!(result.outcome(), pb::Outcome::Rejected, "{name:?}: {result:?}");
        suite.count(&tenant.client_id, result.reason.split(':').next().unwrap(), 1);
    }

    assert!(suite.total() >= 60);
    assert_eq!((tenant.depth("jobs").await, other.depth("secrets").await), (0, 0));
    assert_audited(&suite).await;
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn expired_tokens_unknown_keys_and_replayed_delivery_ids_are_refused_and_audited() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let (good_key, bad_key) = (Key::new("good"), Key::new("bad"));
    let issuer = Issuer::start(&[&good_key]).await;
    let gateway = web::gateway(|config| config.auth.issuers = vec![issuer.config()]).await;
    let channel = web::channel_from(&gateway.endpoint(), SOURCE.into()).await;
    let mut suite = Suite::new(&channel);
    let mut auth = AuthClient::new(channel.clone());
    let mut who = async |token: &str| auth.who_am_i(by(token, pb::WhoAmIRequest {})).await;
    let unauthenticated = Code::Unauthenticated;
    let bad = &["TOKEN_INVALID", "TOKEN_EXPIRED"];

    suite.class("clock skew");
    let signer = Signer::of_the_gateway().await;
    let own = claims(&tenant).await;
    let now = own["iat"].as_u64().unwrap();
    // The leeway is 10 s, and at most 30 s, so a minute exceeds it.
    let skewed = [
        ("ended a minute ago", json!({"exp": now - 60})),
        ("begins in two minutes", json!({"nbf": now + 120})),
        ("ended before it began", json!({"nbf": now + 600, "exp": now + 300})),
        ("a time before all times", json!({"exp": 0})),
        ("a negative time", json!({"exp": -1})),
        ("a time that is text", json!({"nbf": "soon"})),
    ];
    for (what, changes) in skewed {
        let mut claims = own.clone();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        suite.refused(what, "", who(&signer.sign(&claims)).await, unauthenticated, bad);
    }

    suite.class("sets of keys");
    gateway.external_client(&tenant, "ext", issuer.name(), "").await;
    let external = issuer.claims(&tenant.id, "ext");
    let token = good_key.sign(&external);
    until("the issuer's key is known", async || who(&token).await.ok()).await;
    let forged = bad_key.sign(&external);
    let twice = json!({"keys": [good_key.public, Key::new("good").public]});
    let crowd: Vec<_> = (0..65).map(|n| Key::new(&format!("k{n}")).public).chain([bad_key.public.clone()]).collect();
    let sets = [
        ("two keys of one id", twice),
        ("65 keys and one", json!({"keys": crowd})),
        ("a huge set", json!({"keys": [bad_key.public], "pad": "x".repeat(300 * 1024)})),
        ("no set", json!({"keys": "all"})),
        ("a shared secret", json!({"keys": [{"kty": "oct", "kid": "bad", "k": "c2VjcmV0"}]})),
    ];
    for (what, set) in sets {
        let asked = issuer.requests();
        issuer.publish_document(set);
        suite.refused(what, "", who(&forged).await, unauthenticated, bad);
        until("the keys are requested", async || {
            // An unknown key id causes a fetch, within the limit.
            let again = who(&forged).await;
            assert!(again.is_err(), "{what}");
            (issuer.requests() > asked + 1).then_some(())
        })
        .await;
        suite.refused(what, "", who(&forged).await, unauthenticated, bad);
        let previous = who(&token).await;
        assert!(previous.is_ok() || what == "a shared secret", "{what}: the previous key is still valid: {previous:?}");
    }
    let shared = Header { alg: Algorithm::HS256, kid: Some("bad".into()), ..Header::default() };
    let shared = jsonwebtoken::encode(&shared, &external, &EncodingKey::from_secret(b"secret")).unwrap();
    suite.refused("signed with a shared secret", "", who(&shared).await, unauthenticated, bad);

    suite.class("replayed delivery ids");
    let all = gateway.token(&tenant.client_id, &tenant.secret).await;
    let client = tenant.client_at(&gateway.endpoint()).await;
    let replayed = async |frame: Frame, ids: usize, subscriber: &mut RawSubscribe| {
        subscriber.send(frame).await;
        loop {
            if let Some(Event::Settled(settled)) = subscriber.event().await.unwrap() {
                assert_eq!(settled.unknown_delivery_ids.len(), ids, "{settled:?}");
                return;
            }
        }
    };
    tenant.publish_to("jobs", "once").await;
    let mut subscriber = RawSubscribe::started(&client, "jobs").await;
    let id = subscriber.delivery().await.delivery_id;
    subscriber.ack(vec![id], 0).await;
    let nack = |action: pb::NackAction| {
        Frame::Nack(pb::Nack { delivery_ids: vec![id], action: action.into(), ..Default::default() })
    };
    let frames = [
        (Frame::Ack(pb::Ack { delivery_ids: vec![id], through: 0 }), 1),
        (Frame::Ack(pb::Ack { delivery_ids: vec![], through: id + 1_000 }), 1),
        (nack(pb::NackAction::Retry), 1),
        (nack(pb::NackAction::DeadLetter), 1),
        (Frame::ExtendLease(pb::ExtendLease { delivery_ids: vec![id], ack_deadline: None }), 1),
        (Frame::Ack(pb::Ack { delivery_ids: vec![u64::MAX, id + 1, 77], through: 0 }), 3),
    ];
    let mut times = 0;
    for (frame, ids) in frames {
        replayed(frame, ids, &mut subscriber).await;
        times += ids;
    }
    assert_eq!(tenant.depth("jobs").await, 0, "nothing was returned to the queue");
    drop((subscriber, all));

    eprintln!("and {times} replayed or invented delivery ids");
    suite.total();
    assert_audited(&suite).await;
    // These were sent on a connection from another address, and are audited with that address.
    let admin = SharedStack::get().admin().await;
    until("the replays are audited", async || {
        let filter = pb::ListAuditEventsRequest {
            client_id: tenant.client_id.clone(),
            outcome: "refused".into(),
            page_size: 1_000,
            ..pb::ListAuditEventsRequest::default()
        };
        let events =
            admin.admin().list_audit_events(Request::new(filter).into_inner()).await.unwrap().into_inner().events;
        let replays = events.iter().filter(|event| event.rule == "DELIVERY_UNKNOWN" && event.object == "jobs");
        (replays.map(|event| event.times).sum::<u64>() >= times as u64).then_some(())
    })
    .await;
    gateway.running.shutdown().await;
}
