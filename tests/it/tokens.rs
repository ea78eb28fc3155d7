//! Authentication at a real gateway: forged, altered and expired tokens, and the ways to obtain one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Channel};
use warrengate::{
    pb::{self, Outcome, messaging_client::MessagingClient, topology_client::TopologyClient},
    store::{EncryptionKey, Store},
};

use crate::harness::{SharedStack, Tenant, raw::reason, to_queue, wait::until, web};

/// The gateway's own signing key, from its store.
pub struct Signer {
    pub kid: String,
    pub key: EncodingKey,
    pub public: Vec<u8>,
}

impl Signer {
    pub async fn of_the_gateway() -> Self {
        let config = &SharedStack::get().stack.config().store;
        let store = Store::open(&config.url, EncryptionKey::parse(&config.encryption_key).unwrap()).await.unwrap();
        let row = store.signing_keys().await.unwrap().remove(0);
        Self { kid: row.kid.clone(), key: EncodingKey::from_ed_der(&row.private), public: row.public.clone() }
    }

    pub fn header(&self) -> Header {
        Header { typ: Some("at+jwt".into()), kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) }
    }

    pub fn sign(&self, claims: &Value) -> String {
        jsonwebtoken::encode(&self.header(), claims, &self.key).unwrap()
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The claims of a valid token of this tenant's client.
pub async fn claims(tenant: &Tenant) -> Value {
    let token = tenant.client.token().await.unwrap().unwrap();
    let text = secrecy::ExposeSecret::expose_secret(token.secret()).to_owned();
    web::claims_of(&text)
}

fn with(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[name] = value;
    claims
}

fn request<T>(body: T, authorization: &[String]) -> Request<T> {
    let mut request = Request::new(body);
    for value in authorization {
        request.metadata_mut().append("authorization", MetadataValue::try_from(value.as_str()).unwrap());
    }
    request
}

/// A reading call and a publishing call with these headers.
async fn try_both(channel: &Channel, authorization: &[String]) -> [Result<(), Status>; 2] {
    let list = request(pb::ListQueuesRequest::default(), authorization);
    let publish = request(pb::PublishBatchRequest { publications: vec![to_queue("jobs", "forged")] }, authorization);
    [
        TopologyClient::new(channel.clone()).list_queues(list).await.map(drop),
        MessagingClient::new(channel.clone()).publish_batch(publish).await.map(drop),
    ]
}

/// The number of logins of this tenant's user in the broker's log.
fn logins(tenant: &str) -> usize {
    let log = std::fs::read_to_string(SharedStack::get().stack.node().log()).unwrap();
    log.lines().filter(|line| line.contains(&format!("user 'wg.{tenant}' authenticated"))).count()
}

#[tokio::test]
async fn forged_altered_and_expired_tokens_are_refused_alike_before_the_broker() {
    let tenant = Tenant::fresh().await;
    let signer = Signer::of_the_gateway().await;
    let good = claims(&tenant).await;
    let token = signer.sign(&good);
    let bearer = |token: &str| vec![format!("Bearer {token}")];
    let [head, body, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let encode = web::base64url;

    let unknown = {
        let pair = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
        EncodingKey::from_ed_der(pair.to_pkcs8().unwrap().as_ref())
    };
    let header = |change: &dyn Fn(&mut Header)| {
        let mut header = signer.header();
        change(&mut header);
        header
    };
    let hmac = |key: &[u8]| {
        let header = header(&|header| header.alg = Algorithm::HS256);
        jsonwebtoken::encode(&header, &good, &EncodingKey::from_secret(key)).unwrap()
    };
    let none = encode(json!({"alg": "none", "typ": "at+jwt", "kid": signer.kid}).to_string().as_bytes());
    let other_tenant = Tenant::fresh().await;

    let bad: Vec<(&str, Vec<String>)> = vec![
        ("no token", vec![]),
        ("expired", bearer(&signer.sign(&with(&good, "exp", json!(now() - 60))))),
        ("not yet valid", bearer(&signer.sign(&with(&good, "nbf", json!(now() + 60))))),
        ("other issuer", bearer(&signer.sign(&with(&good, "iss", json!("https://elsewhere.example"))))),
        ("wrong audience", bearer(&signer.sign(&with(&good, "aud", json!("another-service"))))),
        ("another tenant than its subject's", bearer(&signer.sign(&with(&good, "wg_tenant", json!(other_tenant.id))))),
        ("alg none, no signature", bearer(&format!("{none}.{body}."))),
        ("alg none, with the old signature", bearer(&format!("{none}.{body}.{signature}"))),
        ("HS256 with the public key", bearer(&hmac(&signer.public))),
        ("HS256 with the public key in base64", bearer(&hmac(encode(&signer.public).as_bytes()))),
        ("signed by an unknown key", bearer(&jsonwebtoken::encode(&signer.header(), &good, &unknown).unwrap())),
        ("unknown kid", {
            let header = header(&|header| header.kid = Some("0".repeat(32)));
            bearer(&jsonwebtoken::encode(&header, &good, &signer.key).unwrap())
        }),
        ("no kid", {
            bearer(&jsonwebtoken::encode(&header(&|header| header.kid = None), &good, &signer.key).unwrap())
        }),
        ("not an access token", {
            let header = header(&|header| header.typ = Some("JWT".into()));
            bearer(&jsonwebtoken::encode(&header, &good, &signer.key).unwrap())
        }),
        ("a stripped signature", bearer(&format!("{head}.{body}."))),
        ("no signature at all", bearer(&format!("{head}.{body}"))),
        ("another body under the signature", {
            let more = with(&good, "exp", json!(now() + 999_999));
            bearer(&format!("{head}.{}.{signature}", encode(more.to_string().as_bytes())))
        }),
        ("two headers", [bearer(&token), bearer(&token)].concat()),
        ("basic", vec![format!("Basic {}", encode(format!("{}:x", tenant.client_id).as_bytes()))]),
        ("the bare token", vec![token.clone()]),
        ("nothing after bearer", vec!["Bearer ".into()]),
        ("a very long one", bearer(&"a".repeat(9_000))),
        ("no token at all, but text", bearer("null")),
    ];
    let channel = web::channel().await;
    for (what, authorization) in &bad {
        for refused in try_both(&channel, authorization).await {
            let status = refused.expect_err(what);
            assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status:?}");
            // All refusals look alike: only the holder of an expired token, or of none, learns why.
            let expected = match *what {
                "no token" => "TOKEN_MISSING",
                "expired" => "TOKEN_EXPIRED",
                _ => "TOKEN_INVALID",
            };
            assert_eq!(reason(&status), expected, "{what}: {status:?}");
            if expected == "TOKEN_INVALID" {
                assert_eq!(status.message(), "the token is not valid; fetch a new one", "{what}");
            }
        }
    }

    // The control, which also proves that the broker logs a login.
    let [list, publish] = try_both(&channel, &bearer(&token)).await;
    list.unwrap();
    publish.unwrap();
    until("the broker logs the control's login", async || (logins(&tenant.id) > 0).then_some(())).await;
    assert_eq!(logins(&tenant.id), 1, "one publishing connection, opened by the control");
    assert_eq!(logins(&other_tenant.id), 0);
}

#[tokio::test]
async fn tokens_of_suspended_revoked_and_deleted_clients_are_refused_before_the_broker() {
    let admin = SharedStack::get().admin().await;
    let channel = web::channel().await;
    let mut admin = admin.admin();
    let tenants = [Tenant::fresh().await, Tenant::fresh().await, Tenant::fresh().await, Tenant::fresh().await];
    let [suspended, revoked, withdrawn, deleted] = &tenants;
    let mut outstanding = Vec::new();
    for tenant in &tenants {
        let token = tenant.client.token().await.unwrap().unwrap();
        outstanding.push(format!("Bearer {}", secrecy::ExposeSecret::expose_secret(token.secret())));
    }
    admin.suspend_tenant(pb::SuspendTenantRequest { tenant: suspended.id.clone() }).await.unwrap();
    admin.revoke_client(pb::RevokeClientRequest { client_id: revoked.client_id.clone() }).await.unwrap();
    let rotate = pb::RotateClientSecretRequest { client_id: withdrawn.client_id.clone(), overlap: None };
    admin.rotate_client_secret(rotate).await.unwrap();
    admin.delete_tenant(pb::DeleteTenantRequest { tenant: deleted.id.clone() }).await.unwrap();

    let expected = [
        (Code::PermissionDenied, "TENANT_SUSPENDED"),
        (Code::Unauthenticated, "CLIENT_REVOKED"),
        (Code::Unauthenticated, "TOKEN_WITHDRAWN"),
        (Code::Unauthenticated, "TENANT_NOT_FOUND"),
    ];
    for ((token, (code, why)), tenant) in outstanding.into_iter().zip(expected).zip(&tenants) {
        for refused in try_both(&channel, &[token]).await {
            let status = refused.expect_err(why);
            assert_eq!((status.code(), reason(&status).as_str()), (code, why), "{status:?}");
        }
        assert_eq!(logins(&tenant.id), 0, "{why}");
        // The old secret gets no new token.
        let (status, body) = web::token(&tenant.client_id, &tenant.secret).await;
        assert_eq!((status.as_u16(), body["error"].as_str()), (401, Some("invalid_client")), "{why}: {body}");
    }
}

#[tokio::test]
async fn the_token_endpoint_accepts_both_oauth_authentication_methods() {
    let tenant = Tenant::fresh().await;
    for (what, (status, body)) in [
        ("client_secret_basic", web::token(&tenant.client_id, &tenant.secret).await),
        ("client_secret_post", web::token_by_post(&tenant.client_id, &tenant.secret).await),
    ] {
        assert_eq!(status.as_u16(), 200, "{what}: {body}");
        assert_eq!(body["token_type"], "Bearer");
        assert_eq!(body["expires_in"], 3600);
        let token = body["access_token"].as_str().unwrap();
        let channel = web::channel().await;
        let [list, _] = try_both(&channel, &[format!("Bearer {token}")]).await;
        list.unwrap();
    }
    for (id, secret) in [
        (tenant.client_id.as_str(), "wrong".into()),
        (tenant.client_id.as_str(), "".into()),
        ("nobody.app", tenant.secret.clone()),
        ("", tenant.secret.clone()),
    ] {
        for (status, body) in [web::token(id, &secret).await, web::token_by_post(id, &secret).await] {
            let refused = (status.as_u16(), body["error"].as_str());
            // An empty parameter counts as missing (RFC 6749, 3.2), which is an invalid request.
            let expected = matches!(refused, (401, Some("invalid_client")))
                || (id.is_empty() && refused == (400, Some("invalid_request")));
            assert!(expected, "{id}: {status} {body}");
            assert_eq!(body["access_token"], Value::Null);
        }
    }
}

#[tokio::test]
async fn the_published_keys_verify_a_token_and_the_discovery_document_matches() {
    let tenant = Tenant::fresh().await;
    let discovery = web::ops_json("/.well-known/openid-configuration").await;
    let jwks = web::ops_json("/.well-known/jwks.json").await;
    let (_, body) = web::token(&tenant.client_id, &tenant.secret).await;
    let token = body["access_token"].as_str().unwrap();

    let header = jsonwebtoken::decode_header(token).unwrap();
    let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(jwks.clone()).unwrap();
    let key = set.find(header.kid.as_deref().unwrap()).expect("the key is published");
    let key = jsonwebtoken::DecodingKey::from_jwk(key).unwrap();
    let mut validation = jsonwebtoken::Validation::new(Algorithm::EdDSA);
    validation.set_audience(&["warrengate"]);
    validation.set_issuer(&[discovery["issuer"].as_str().unwrap()]);
    let claims = jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap().claims;
    assert_eq!(claims["sub"], tenant.client_id.as_str());
    assert_eq!(claims["wg_tenant"], tenant.id.as_str());

    for private in ["d", "k"] {
        assert!(
            jwks["keys"].as_array().unwrap().iter().all(|key| key.get(private).is_none()),
            "a private key is published"
        );
    }
    let issuer = discovery["issuer"].as_str().unwrap();
    assert_eq!(discovery["jwks_uri"], format!("{issuer}/.well-known/jwks.json"));
    assert_eq!(discovery["token_endpoint"], format!("{issuer}/oauth2/token"));
}

/// Short, because the test waits until the token expires.
const LIFETIME: Duration = Duration::from_secs(4);

#[tokio::test]
async fn an_expiring_token_is_announced_and_renewed_or_the_stream_ends() {
    use pb::{publish_request::Frame, publish_response::Event};
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let gateway = web::gateway(|config| {
        config.auth.token_lifetime = LIFETIME;
        config.auth.warn_before_expiry = LIFETIME / 2;
    })
    .await;
    let token = async || gateway.token(&tenant.client_id, &tenant.secret).await;
    let mut renewing = gateway.publish_stream(&token().await).await;
    let mut careless = gateway.publish_stream(&token().await).await;
    assert_eq!(renewing.publish(to_queue("jobs", "one")).await.unwrap().outcome(), Outcome::Confirmed);

    let mut expiries = Vec::new();
    for _ in 0..2 {
        match renewing.event().await.unwrap() {
            Some(Event::AuthExpiring(warning)) => expiries.push(warning.expires.unwrap()),
            other => panic!("a warning expected, not {other:?}"),
        }
        let newer = pb::Reauthenticate { access_token: token().await };
        renewing.send(Frame::Reauthenticate(newer)).await;
    }
    assert!(expiries[1].seconds > expiries[0].seconds, "the second warning is of the second token: {expiries:?}");

    // This token was not renewed: the stream gets a warning and then ends.
    assert!(matches!(careless.event().await.unwrap(), Some(Event::AuthExpiring(_))));
    let (status, _) = careless.end().await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "TOKEN_EXPIRED"), "{status:?}");

    // The first token has expired by now, and the stream continues.
    assert!(now() + 1 >= u64::try_from(expiries[0].seconds).unwrap());
    assert_eq!(renewing.publish(to_queue("jobs", "two")).await.unwrap().outcome(), Outcome::Confirmed);
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn a_stream_rejects_a_token_of_another_client() {
    use pb::{publish_request::Frame, subscribe_request};
    let (tenant, other) = (Tenant::fresh().await, Tenant::fresh().await);
    tenant.queue("jobs").await;
    let admin = SharedStack::get().admin().await;
    let grants = crate::harness::tenant::all_grants();
    let (colleague, secret) = Tenant::add_client(&admin, &tenant.id, "colleague", grants).await;
    let tokens = [
        (web::access_token(&colleague, &secret).await, Code::PermissionDenied, "REAUTHENTICATED_AS_ANOTHER"),
        (
            web::access_token(&other.client_id, &other.secret).await,
            Code::PermissionDenied,
            "REAUTHENTICATED_AS_ANOTHER",
        ),
        ("forged".to_owned(), Code::Unauthenticated, "TOKEN_INVALID"),
    ];
    for (access_token, code, why) in tokens {
        let mut publisher = crate::harness::raw::RawPublish::open(&tenant.client).await.unwrap();
        publisher.send(Frame::Reauthenticate(pb::Reauthenticate { access_token: access_token.clone() })).await;
        let mut subscriber = crate::harness::raw::RawSubscribe::started(&tenant.client, "jobs").await;
        let frame = subscribe_request::Frame::Reauthenticate(pb::Reauthenticate { access_token });
        subscriber.send(frame).await;
        for (status, _) in [publisher.end().await, subscriber.end().await] {
            assert_eq!((status.code(), reason(&status).as_str()), (code, why), "{status:?}");
        }
    }
}
