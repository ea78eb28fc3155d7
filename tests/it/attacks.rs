//! A table of attacks: tokens, names, other tenants' objects, limits (here), and fields, injection, clocks, keys and
//! replayed ids (`fields`).
//!
//! Each attack is refused with its code and reason, and every refusal is audited.

mod fields;

use std::collections::BTreeMap;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Channel};
use warrengate::pb::{
    self, admin_client::AdminClient, auth_client::AuthClient, messaging_client::MessagingClient,
    topology_client::TopologyClient,
};

use crate::{
    harness::{SharedStack, Tenant, raw::reason, tenant::all_grants, to_queue, wait::until, web},
    tokens::{Signer, claims},
};

/// No other test connects from this address.
const SOURCE: [u8; 4] = [127, 0, 0, 77];

/// The refusals so far, and the client id in the audit record of each, empty for an unknown client.
struct Suite {
    channel: Channel,
    refused: BTreeMap<(String, String), u64>,
    /// The number of attacks of each class.
    attacks: BTreeMap<&'static str, usize>,
    class: &'static str,
}

impl Suite {
    fn new(channel: &Channel) -> Self {
        Self { channel: channel.clone(), refused: BTreeMap::new(), attacks: BTreeMap::new(), class: "" }
    }

    /// Sets the class of the following attacks.
    fn class(&mut self, class: &'static str) {
        self.class = class;
    }

    /// Counts attacks of this class and kind.
    fn count(&mut self, who: &str, reason: &str, times: usize) {
        *self.refused.entry((who.to_owned(), reason.to_owned())).or_default() += times as u64;
        *self.attacks.entry(self.class).or_default() += times;
    }

    /// The total number of attacks; prints the number of each class.
    fn total(&self) -> usize {
        let total = self.attacks.values().sum();
        eprintln!("{total} attacks, each refused as expected: {:?}", self.attacks);
        total
    }

    /// Checks that an attack was refused with this code and reason.
    fn refused<T: std::fmt::Debug>(&mut self, what: &str, who: &str, got: Result<T, Status>, code: Code, why: &[&str]) {
        let status = got.expect_err(what);
        let reason = reason(&status);
        assert!(status.code() == code && why.contains(&reason.as_str()), "{what}: {status:?}");
        // A refusal must not reveal internals.
        for leak in ["SELECT", "sqlx", "panicked", "/src/", "lapin"] {
            assert!(!status.message().contains(leak), "{what}: {status:?}");
        }
        self.count(who, &reason, 1);
    }
}

fn with_headers<T>(body: T, authorization: &[String]) -> Request<T> {
    let mut request = Request::new(body);
    for value in authorization {
        request.metadata_mut().append("authorization", MetadataValue::try_from(value.as_str()).unwrap());
    }
    request
}

fn by<T>(token: &str, body: T) -> Request<T> {
    with_headers(body, &[format!("Bearer {token}")])
}

/// Ids that have a meaning in a path, URL, database, log or broker, or that look like others.
const HOSTILE_NAMES: [&str; 16] = [
    "../acme",
    "..",
    "acme/globex",
    "a%2fb",
    "a\0b",
    "a\nlevel=ERROR forged",
    "\u{1b}[31mred",
    "acme' OR '1'='1",
    "x'; DROP TABLE tenants; --",
    "аcme",
    "acmé",
    "ACME",
    "wg.acme",
    "amq.topic",
    " acme",
    "{{7*7}}",
];

/// Invalid tokens, each with the headers that contain it.
async fn bad_tokens(tenant: &Tenant, other: &Tenant) -> Vec<(&'static str, Vec<String>)> {
    let signer = Signer::of_the_gateway().await;
    let good = claims(tenant).await;
    let token = signer.sign(&good);
    let [head, body, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let signed = |change: &dyn Fn(&mut Value)| {
        let mut claims = good.clone();
        change(&mut claims);
        signer.sign(&claims)
    };
    let headed = |change: &dyn Fn(&mut Header)| {
        let mut header = signer.header();
        change(&mut header);
        jsonwebtoken::encode(&header, &good, &signer.key).unwrap()
    };
    let raw = |header: Value| format!("{}.{body}.{signature}", web::base64url(header.to_string().as_bytes()));
    let kid = &signer.kid;
    let shared = |key: &[u8]| {
        let header = Header { alg: Algorithm::HS256, ..signer.header() };
        jsonwebtoken::encode(&header, &good, &EncodingKey::from_secret(key)).unwrap()
    };
    let now = good["iat"].as_u64().unwrap();
    let tokens = [
        ("alg none", raw(json!({"alg": "none", "typ": "at+jwt", "kid": kid}))),
        ("alg none in capitals", raw(json!({"alg": "NONE", "typ": "at+jwt", "kid": kid}))),
        ("an empty alg", raw(json!({"alg": "", "typ": "at+jwt", "kid": kid}))),
        ("RS256 for an Ed25519 key", raw(json!({"alg": "RS256", "typ": "at+jwt", "kid": kid}))),
        ("ES256 for an Ed25519 key", raw(json!({"alg": "ES256", "typ": "at+jwt", "kid": kid}))),
        ("HS256 with the public key", shared(&signer.public)),
        ("HS256 with nothing", shared(b"")),
        (
            "an embedded key",
            raw(json!({"alg": "EdDSA", "typ": "at+jwt", "kid": kid, "jwk": {"kty": "OKP"}, "crit": ["jwk"]})),
        ),
        (
            "a key from another server",
            raw(json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "x", "jku": "http://127.0.0.1/k"})),
        ),
        ("a key id that is a path", headed(&|header| header.kid = Some("../../etc/passwd".into()))),
        ("a key id that is SQL", headed(&|header| header.kid = Some("' OR 1=1 --".into()))),
        ("no key id", headed(&|header| header.kid = None)),
        ("an id token", headed(&|header| header.typ = Some("JWT".into()))),
        ("critical headers", headed(&|header| header.crit = Some(vec!["exp".into()]))),
        ("another issuer", signed(&|claims| claims["iss"] = json!("https://evil.example"))),
        ("two issuers", signed(&|claims| claims["iss"] = json!([claims["iss"].clone(), "https://evil.example"]))),
        ("another audience", signed(&|claims| claims["aud"] = json!("grafana"))),
        ("expired", signed(&|claims| claims["exp"] = json!(now - 3_600))),
        ("valid only after more than the leeway", signed(&|claims| claims["nbf"] = json!(now + 3_600))),
        ("an expiry that is text", signed(&|claims| claims["exp"] = json!("never"))),
        ("an expiry out of range", signed(&|claims| claims["exp"] = json!(u64::MAX))),
        ("another tenant", signed(&|claims| claims["wg_tenant"] = json!(other.id))),
        ("another tenant's client", signed(&|claims| claims["sub"] = json!(other.client_id))),
        ("a platform administrator", signed(&|claims| claims["sub"] = json!("admin"))),
        (
            "a subject with path segments",
            signed(&|claims| claims["sub"] = json!(format!("{}.app/../../admin", tenant.id))),
        ),
        ("grants of another form", signed(&|claims| claims["wg_grants"] = json!({"everything": true}))),
        ("an invalid pattern in a grant", signed(&|claims| claims["wg_grants"] = json!({"s": ["a#b"]}))),
        ("no signature", format!("{head}.{body}.")),
        ("two parts", format!("{head}.{body}")),
        ("another's signature", format!("{head}.{body}.{}", web::base64url(&[7; 64]))),
        ("a later expiry under the old signature", {
            let mut longer = good.clone();
            longer["exp"] = json!(now + 999_999);
            format!("{head}.{}.{signature}", web::base64url(longer.to_string().as_bytes()))
        }),
        ("9,000 bytes", "a".repeat(9_000)),
        ("deeply nested claims", format!("{head}.{}.{signature}", web::base64url("[".repeat(4_000).as_bytes()))),
    ];
    let mut headers: Vec<_> = tokens.into_iter().map(|(what, token)| (what, vec![format!("Bearer {token}")])).collect();
    headers.push(("two tokens", vec![format!("Bearer {token}"), format!("Bearer {token}")]));
    headers.push(("basic", vec!["Basic YWRtaW46YWRtaW4=".into()]));
    headers.push(("a token without its scheme", vec![token.clone()]));
    headers
}

#[tokio::test]
async fn every_attack_is_refused_with_its_reason_and_audited() {
    let shared = SharedStack::get();
    let (tenant, other) = (Tenant::fresh().await, Tenant::fresh().await);
    tenant.queue("jobs").await;
    other.queue("secrets").await;
    other.publish_to("secrets", "not yours").await;
    let gateway = web::gateway(|_| {}).await;
    let channel = web::channel_from(&gateway.endpoint(), SOURCE.into()).await;
    let mut suite = Suite::new(&channel);
    suite.class("tokens");

    let mut auth = AuthClient::new(channel.clone());
    for (what, headers) in bad_tokens(&tenant, &other).await {
        let got = auth.who_am_i(with_headers(pb::WhoAmIRequest {}, &headers)).await;
        suite.refused(what, "", got, Code::Unauthenticated, &["TOKEN_INVALID", "TOKEN_EXPIRED"]);
    }
    let got = auth.who_am_i(Request::new(pb::WhoAmIRequest {})).await;
    suite.refused("no token", "", got, Code::Unauthenticated, &["TOKEN_MISSING"]);
    suite.class("identifiers");
    for id in HOSTILE_NAMES {
        let request =
            pb::IssueTokenRequest { client_id: id.into(), client_secret: "' OR '1'='1".into(), lifetime: None };
        let got = auth.issue_token(Request::new(request)).await;
        suite.refused(id, "", got, Code::Unauthenticated, &["INVALID_CLIENT_CREDENTIALS"]);
    }

    // Names, used by a client that may do everything in its tenant.
    let mut topology = TopologyClient::new(suite.channel.clone());
    let token = gateway.token(&tenant.client_id, &tenant.secret).await;
    let too_long = "x".repeat(256);
    let theirs = format!("wg.{}/secrets", other.id);
    let hostile =
        HOSTILE_NAMES.into_iter().filter(|name| *name != "ACME").chain([too_long.as_str(), &theirs, "wg.dead-letters"]);
    for name in hostile {
        let wrong = ["INVALID_NAME", "RESERVED_NAME"];
        let got = topology.get_queue(by(&token, pb::GetQueueRequest { name: name.into() })).await;
        suite.refused(name, &tenant.client_id, got, Code::InvalidArgument, &wrong);
        let queue = Some(pb::Queue { name: name.into(), ..pb::Queue::default() });
        let got = topology.declare_queue(by(&token, pb::DeclareQueueRequest { queue, validate_only: false })).await;
        suite.refused(name, &tenant.client_id, got, Code::InvalidArgument, &wrong);
        if name != "amq.topic" {
            let binding = pb::Binding { source: name.into(), destination: "jobs".into(), ..pb::Binding::default() };
            let got = topology.bind(by(&token, pb::BindRequest { binding: Some(binding) })).await;
            suite.refused(name, &tenant.client_id, got, Code::InvalidArgument, &wrong);
        }
    }

    // Ids, used by a platform administrator of this test.
    let admin_id = format!("a{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
    let grants = pb::Grants { administer: true, ..pb::Grants::default() };
    let client = pb::Client { client_id: admin_id.clone(), grants: Some(grants), ..pb::Client::default() };
    let request = pb::CreateClientRequest { client: Some(client), ..pb::CreateClientRequest::default() };
    let secret = shared.admin().await.admin().create_client(request).await.unwrap().into_inner().client_secret.into();
    let platform = until("the new administrator", async || {
        let token = gateway.token(&admin_id, &secret).await;
        auth.clone().who_am_i(by(&token, pb::WhoAmIRequest {})).await.ok().map(|_| token)
    })
    .await;
    let mut admin = AdminClient::new(suite.channel.clone());
    for id in HOSTILE_NAMES {
        let wrong = ["INVALID_NAME", "RESERVED_NAME"];
        let whole = Some(pb::Tenant { id: id.into(), ..pb::Tenant::default() });
        let create = pb::CreateTenantRequest { tenant: whole, ..pb::CreateTenantRequest::default() };
        let got = admin.create_tenant(by(&platform, create)).await;
        suite.refused(id, &admin_id, got, Code::InvalidArgument, &wrong);
        let got = admin.delete_tenant(by(&platform, pb::DeleteTenantRequest { tenant: id.into() })).await;
        suite.refused(id, &admin_id, got, Code::InvalidArgument, &wrong);
        let client_id = format!("{}.{id}", tenant.id);
        let got = admin.revoke_client(by(&platform, pb::RevokeClientRequest { client_id })).await;
        suite.refused(id, &admin_id, got, Code::InvalidArgument, &wrong);
    }

    suite.class("other tenants' ids");
    // Other tenants and excessive grants, requested by a tenant administrator with few grants.
    let few = pb::Grants { administer: true, subscribe: vec!["jobs".into()], ..pb::Grants::default() };
    let (tenant_admin_id, secret) = Tenant::add_client(&shared.admin().await, &tenant.id, "administrator", few).await;
    let tenant_admin = until("the tenant administrator", async || {
        let token = gateway.token(&tenant_admin_id, &secret).await;
        auth.clone().who_am_i(by(&token, pb::WhoAmIRequest {})).await.ok().map(|_| token)
    })
    .await;
    let denied = Code::PermissionDenied;
    for client_id in [other.client_id.clone(), "admin".to_owned(), "no-such-tenant.app".to_owned()] {
        let elsewhere = &["CLIENTS_OF_OTHER_TENANT"];
        let got =
            admin.revoke_client(by(&tenant_admin, pb::RevokeClientRequest { client_id: client_id.clone() })).await;
        suite.refused("revoke a client of another tenant", &tenant_admin_id, got, denied, elsewhere);
        let rotate = pb::RotateClientSecretRequest { client_id: client_id.clone(), overlap: None };
        let got = admin.rotate_client_secret(by(&tenant_admin, rotate)).await;
        suite.refused("rotate a secret of another tenant", &tenant_admin_id, got, denied, elsewhere);
        let client = Some(pb::Client { client_id, ..pb::Client::default() });
        let create = pb::CreateClientRequest { client, ..pb::CreateClientRequest::default() };
        let got = admin.create_client(by(&tenant_admin, create)).await;
        suite.refused("create a client in another tenant", &tenant_admin_id, got, denied, elsewhere);
    }
    let all = Some(pb::Client {
        client_id: format!("{}.more", tenant.id),
        grants: Some(all_grants()),
        ..pb::Client::default()
    });
    let create = pb::CreateClientRequest { client: all, ..pb::CreateClientRequest::default() };
    let got = admin.create_client(by(&tenant_admin, create)).await;
    suite.refused("more than its own", &tenant_admin_id, got, denied, &["GRANTS_EXCEED_OWN"]);
    let platforms = &["PLATFORM_ADMINISTRATORS_ONLY"];
    let got = admin.delete_tenant(by(&tenant_admin, pb::DeleteTenantRequest { tenant: other.id.clone() })).await;
    suite.refused("delete another tenant", &tenant_admin_id, got, denied, platforms);
    let got = admin.get_tenant_usage(by(&tenant_admin, pb::GetTenantUsageRequest { tenant: other.id.clone() })).await;
    suite.refused("usage of another tenant", &tenant_admin_id, got, denied, platforms);
    let got = admin.list_audit_events(by(&tenant_admin, pb::ListAuditEventsRequest::default())).await;
    suite.refused("the audit trail", &tenant_admin_id, got, denied, &["OBSERVE_NOT_GRANTED"]);
    let got = admin.rotate_signing_key(by(&tenant_admin, pb::RotateSigningKeyRequest {})).await;
    suite.refused("the signing key", &tenant_admin_id, got, denied, platforms);
    let rotate = pb::RotateBrokerCredentialsRequest { tenant: other.id.clone() };
    let got = admin.rotate_broker_credentials(by(&tenant_admin, rotate)).await;
    suite.refused("certificate of another tenant", &tenant_admin_id, got, denied, platforms);
    let got = admin.list_tenants(by(&tenant_token(&gateway, &tenant).await, pb::ListTenantsRequest::default())).await;
    suite.refused("the tenants", &tenant.client_id, got, denied, &["ADMINISTER_NOT_GRANTED"]);

    suite.class("grants at their edges");
    // Grants at the edges of their patterns: each message has an outcome, the call has no error status.
    let edge = pb::Grants {
        publish: vec![pb::PublishGrant { exchange: "amq.topic".into(), routing_key: "eu.*".into() }],
        ..pb::Grants::default()
    };
    let (edge_id, secret) = Tenant::add_client(&shared.admin().await, &tenant.id, "edge", edge).await;
    let edge = until("the client", async || {
        let token = gateway.token(&edge_id, &secret).await;
        auth.clone().who_am_i(by(&token, pb::WhoAmIRequest {})).await.ok().map(|_| token)
    })
    .await;
    let keys = ["eu", "eu.", "eu.a.b", "EU.a", "eu*a", "#", "eu.#.x", ".eu.a", "us.eu", ""];
    let mut publications: Vec<_> = keys
        .iter()
        .filter(|key| **key != "eu.")
        .map(|key| pb::Publication { exchange: "amq.topic".into(), ..to_queue(key, "forged") })
        .collect();
    publications.push(to_queue("jobs", "forged"));
    publications.push(pb::Publication { exchange: "amq.direct".into(), ..to_queue("eu.a", "forged") });
    let count = publications.len();
    let mut messaging = MessagingClient::new(suite.channel.clone());
    let batch = pb::PublishBatchRequest { publications };
    let results = messaging.publish_batch(by(&edge, batch)).await.unwrap().into_inner().results;
    assert!(results.iter().all(|result| result.outcome() == pb::Outcome::Denied), "{results:?}");
    suite.count(&edge_id, "PUBLISH_NOT_GRANTED", count);

    assert!(suite.total() >= 60);
    // None of them had an effect.
    assert_eq!(other.take("secrets", 1).await, ["not yours"]);
    assert_eq!(tenant.depth("jobs").await, 0);
    assert_audited(&suite).await;
    gateway.running.shutdown().await;
}

async fn tenant_token(gateway: &web::OwnGateway, tenant: &Tenant) -> String {
    gateway.token(&tenant.client_id, &tenant.secret).await
}

/// Checks that every refusal is in the audit trail, as an event or in an aggregate, without control characters.
async fn assert_audited(suite: &Suite) {
    let admin = SharedStack::get().admin().await;
    let from = format!("{}:", std::net::IpAddr::from(SOURCE));
    for ((client_id, rule), times) in &suite.refused {
        let what = format!("{times} refusals of {client_id:?} by {rule}");
        until(&what, async || {
            let mut found = 0;
            let mut page_token = String::new();
            loop {
                let request = pb::ListAuditEventsRequest {
                    client_id: client_id.clone(),
                    outcome: "refused".into(),
                    page_size: 1_000,
                    page_token,
                    ..pb::ListAuditEventsRequest::default()
                };
                let page = admin.admin().list_audit_events(request).await.unwrap().into_inner();
                let ours = page.events.iter().filter(|event| {
                    event.client_id == *client_id && event.rule == *rule && event.peer_address.starts_with(&from)
                });
                for event in ours {
                    assert!(!event.object.chars().any(char::is_control), "{event:?}");
                    found += event.times;
                }
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            (found >= *times).then_some(())
        })
        .await;
    }
}
