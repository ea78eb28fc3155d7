//! Tests of authentication: every kind of invalid token is refused with the same sentence.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::http::{Extensions, HeaderMap};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proptest::prelude::*;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::*;
use crate::{
    config::AuthConfig,
    error::{Classify as _, Failure},
    names::{ClientId, PlanName, TenantId},
    store::{EncryptionKey, NewClient, NewTenant, Store, TenantState},
};

/// A key, and a verifier that trusts only this key.
struct Forge {
    verifier: Verifier,
    pair: Ed25519KeyPair,
}

impl Forge {
    fn new() -> Self {
        let pair = Ed25519KeyPair::generate().expect("a key");
        let verifier = Verifier::new(&AuthConfig::for_test());
        verifier.set_keys([("k1", pair.public_key().as_ref())].into_iter());
        Self { verifier, pair }
    }

    fn sign(&self, header: &Header, claims: &Value) -> String {
        let key = EncodingKey::from_ed_der(self.pair.to_pkcs8().expect("a document").as_ref());
        jsonwebtoken::encode(header, claims, &key).expect("a token")
    }

    fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = claims();
        change(&mut claims);
        self.sign(&header(), &claims)
    }

    fn refusal(&self, token: &str) -> Failure {
        self.verifier.verify(token).expect_err("refused").into()
    }
}

fn header() -> Header {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some("k1".to_owned());
    header.typ = Some("at+jwt".to_owned());
    header
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn claims() -> Value {
    json!({
        "iss": "https://auth.example", "aud": "warrengate", "sub": "acme.app", "wg_tenant": "acme",
        "wg_grants": {"s": ["#"]}, "iat": now(), "wg_iat_ms": now() * 1000, "nbf": now(), "exp": now() + 600, "jti": "1",
    })
}

fn raw(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(header), part(claims), URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn a_valid_token_yields_a_caller() {
    let forge = Forge::new();
    let caller = forge.verifier.verify(&forge.token(|_| ())).expect("a caller");
    assert_eq!(caller.client().as_str(), "acme.app");
    assert_eq!(caller.tenant().map(TenantId::as_str), Some("acme"));
    assert!(
        caller.token_grants().expect("grants").may_subscribe(&crate::names::QueueName::parse("any").expect("a name"))
    );
    assert!(caller.expires() > SystemTime::now());
}

#[test]
fn every_invalid_claim_is_refused_with_the_same_sentence() {
    let forge = Forge::new();
    type Change = fn(&mut Value);
    let bad: [(&str, Change); 22] = [
        ("another issuer", |c| c["iss"] = json!("https://else.example")),
        ("no issuer", |c| drop(c.as_object_mut().expect("an object").remove("iss"))),
        ("a list of issuers", |c| c["iss"] = json!(["https://auth.example", "x"])),
        ("another audience", |c| c["aud"] = json!("else")),
        ("no audience", |c| drop(c.as_object_mut().expect("an object").remove("aud"))),
        ("null audience", |c| c["aud"] = Value::Null),
        ("no expiry", |c| drop(c.as_object_mut().expect("an object").remove("exp"))),
        ("an expiry as text", |c| c["exp"] = json!("9999999999")),
        ("a negative expiry", |c| c["exp"] = json!(-1)),
        ("an expiry out of range", |c| c["exp"] = json!(u64::MAX)),
        ("not yet valid", |c| c["nbf"] = json!(now() + 60)),
        ("no not-before time", |c| drop(c.as_object_mut().expect("an object").remove("nbf"))),
        ("a not-before time as text", |c| c["nbf"] = json!("0")),
        ("no subject", |c| drop(c.as_object_mut().expect("an object").remove("sub"))),
        ("a subject that is not a client id", |c| c["sub"] = json!("acme/../globex")),
        ("another tenant", |c| c["wg_tenant"] = json!("globex")),
        ("no tenant", |c| drop(c.as_object_mut().expect("an object").remove("wg_tenant"))),
        ("a tenant for an administrator", |c| c["sub"] = json!("admin")),
        ("no grants", |c| drop(c.as_object_mut().expect("an object").remove("wg_grants"))),
        ("unknown grants", |c| c["wg_grants"] = json!({"all": true})),
        ("a bad pattern", |c| c["wg_grants"] = json!({"s": ["a*"]})),
        ("no issue time", |c| drop(c.as_object_mut().expect("an object").remove("wg_iat_ms"))),
    ];
    let wanted = forge.refusal("x");
    assert_eq!((wanted.kind.grpc(), wanted.reason), (tonic::Code::Unauthenticated, "TOKEN_INVALID"));
    for (what, change) in bad {
        assert_eq!(forge.refusal(&forge.token(change)), wanted, "{what}");
    }
}

#[test]
fn an_expired_token_is_reported_as_expired_after_the_configured_leeway() {
    let forge = Forge::new();
    let ended = forge.refusal(&forge.token(|c| c["exp"] = json!(now() - 15)));
    assert_eq!((ended.kind.grpc(), ended.reason), (tonic::Code::Unauthenticated, "TOKEN_EXPIRED"));
    assert!(forge.verifier.verify(&forge.token(|c| c["exp"] = json!(now() - 5))).is_ok());
    assert!(forge.verifier.verify(&forge.token(|c| c["nbf"] = json!(now() + 5))).is_ok());
}

#[test]
fn a_forged_signature_or_header_is_refused_with_the_same_sentence() {
    let forge = Forge::new();
    let wanted = forge.refusal("");
    let good = forge.token(|_| ());
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let public = forge.pair.public_key().as_ref();
    let head = |alg: &str| json!({"alg": alg, "typ": "at+jwt", "kid": "k1"});
    let with = |change: fn(&mut Header)| {
        let mut header = header();
        change(&mut header);
        forge.sign(&header, &claims())
    };
    let hs256 = {
        let mut header = header();
        header.alg = Algorithm::HS256;
        jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(public)).expect("a token")
    };
    let other = Forge::new().token(|_| ());
    let mut flipped = good.clone().into_bytes();
    let middle = signed.len() / 2;
    flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
    let bad: Vec<(&str, String)> = vec![
        ("no algorithm", raw(&head("none"), &claims(), b"")),
        ("no algorithm, capital", raw(&head("None"), &claims(), b"")),
        ("HS256 with the public key", hs256),
        ("another key of the same id", other),
        ("a stripped signature", format!("{signed}.")),
        ("no signature", signed.to_owned()),
        ("half a signature", format!("{signed}.{}", &signature[..40])),
        ("a changed body", String::from_utf8(flipped).expect("ASCII")),
        ("an unknown key id", with(|header| header.kid = Some("k2".to_owned()))),
        ("a path as key id", with(|header| header.kid = Some("../../k1".to_owned()))),
        ("no key id", with(|header| header.kid = None)),
        ("another type", with(|header| header.typ = Some("JWT".to_owned()))),
        ("no type", with(|header| header.typ = None)),
        ("critical headers", with(|header| header.crit = Some(vec!["exp".to_owned()]))),
        (
            "a key URL in the header",
            raw(&json!({"alg": "EdDSA", "jku": "https://x", "kid": "k1"}), &claims(), &[0; 64]),
        ),
        ("more than 14 KiB", forge.token(|c| c["pad"] = json!("x".repeat(14 * 1024)))),
        ("one part more", format!("{good}.x")),
        ("spaces", format!(" {good}")),
    ];
    for (what, token) in bad {
        assert_eq!(forge.refusal(&token), wanted, "{what}");
    }
    assert!(forge.verifier.verify(&good).is_ok());
}

/// Shared by all cases, because generating keys is slow.
fn shared() -> &'static Forge {
    static SHARED: std::sync::OnceLock<Forge> = std::sync::OnceLock::new();
    SHARED.get_or_init(Forge::new)
}

proptest! {
    #![proptest_config(crate::names::cases())]

    #[test]
    fn no_text_makes_the_verifier_panic(text in "\\PC{0,200}", parts in prop::collection::vec("[A-Za-z0-9_-]{0,40}", 0..5)) {
        let forge = shared();
        prop_assert!(forge.verifier.verify(&text).is_err());
        prop_assert!(forge.verifier.verify(&parts.join(".")).is_err());
    }

    #[test]
    fn no_signed_claims_make_the_verifier_panic(exp: u64, nbf: u64, ms: u64, sub in "\\PC{0,60}", tenant: Option<String>) {
        let forge = shared();
        let token = forge.token(|c| {
            (c["exp"], c["nbf"], c["wg_iat_ms"]) = (json!(exp), json!(nbf), json!(ms));
            (c["sub"], c["wg_tenant"]) = (json!(sub), json!(tenant));
        });
        let _ = forge.verifier.verify(&token);
    }
}

fn headers(values: &[&str]) -> HeaderMap {
    values.iter().map(|value| ("authorization".parse().expect("a name"), value.parse().expect("a value"))).collect()
}

#[test]
fn a_request_without_a_token_has_no_caller_and_one_with_an_invalid_token_fails() {
    let forge = Forge::new();
    let mut extensions = Extensions::new();
    assert!(authenticate(&forge.verifier, &headers(&[]), &mut extensions).is_ok());
    let request = tonic::Request::from_parts(tonic::metadata::MetadataMap::new(), extensions, ());
    assert_eq!(Caller::from_request(&request).expect_err("nobody").reason(), "TOKEN_MISSING");

    let good = forge.token(|_| ());
    let (bearer, lower) = (format!("Bearer {good}"), format!("bearer {good}"));
    for values in [[bearer.as_str()], [lower.as_str()]] {
        let mut extensions = Extensions::new();
        authenticate(&forge.verifier, &headers(&values), &mut extensions).expect("authenticated");
        let request = tonic::Request::from_parts(tonic::metadata::MetadataMap::new(), extensions, ());
        assert_eq!(Caller::from_request(&request).expect("a caller").client().as_str(), "acme.app");
    }
    for values in [vec!["Basic eA=="], vec![good.as_str()], vec!["Bearer"], vec![bearer.as_str(), bearer.as_str()]] {
        let mut extensions = Extensions::new();
        let refused = authenticate(&forge.verifier, &headers(&values), &mut extensions).expect_err("refused");
        assert_eq!(refused.reason(), "TOKEN_INVALID");
        assert!(extensions.is_empty());
    }
}

async fn store() -> Store {
    let key = EncryptionKey::parse(&EncryptionKey::generate()).expect("a key");
    let store = Store::open(&"sqlite::memory:".into(), key).await.expect("a store");
    let id = TenantId::parse("acme").expect("an id");
    let plan = PlanName::parse("standard").expect("a plan");
    store.create_tenant(&NewTenant { id, display_name: String::new(), plan }).await.expect("created");
    store
}

async fn client(store: &Store, id: &str) -> SecretString {
    let secret = Secret::generate();
    let new = NewClient {
        id: ClientId::parse(id).expect("an id"),
        display_name: String::new(),
        secret_hash: secret.hash().await.expect("hashed"),
        grants: Grants::everything().to_json(),
        external: None,
    };
    store.create_client(&new).await.expect("the store responds").expect("created");
    secret.reveal().clone()
}

#[tokio::test]
async fn an_issued_token_is_valid_and_wrong_secrets_revoked_clients_and_unknown_ids_get_the_same_refusal() {
    let store = store().await;
    let secret = client(&store, "acme.app").await;
    let issuer = Issuer::start(store.clone(), &AuthConfig::for_test()).await.expect("an issuer");
    let issued = issuer.issue("acme.app", &secret, Some(Duration::from_secs(90)), None).await.expect("a token");
    let caller = issuer.verifier().verify(issued.token.expose_secret()).expect("a caller");
    assert_eq!((caller.client().as_str(), caller.expires()), ("acme.app", issued.expires));
    let row = store.client(caller.client()).await.expect("the store responds").expect("found");
    assert!(caller.issued() >= row.not_before);

    let mut refusals = Vec::new();
    for (id, secret) in [("acme.app", &Secret::generate().reveal().clone()), ("acme.else", &secret), ("../x", &secret)]
    {
        refusals.push(Failure::from(issuer.issue(id, secret, None, None).await.expect_err("refused")));
    }
    store.revoke_client(caller.client()).await.expect("revoked");
    refusals.push(issuer.issue("acme.app", &secret, None, None).await.expect_err("refused").into());
    assert_eq!(refusals[0].reason, "INVALID_CLIENT_CREDENTIALS");
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]));
}

#[tokio::test]
async fn a_suspended_tenant_gets_no_token_and_lifetimes_are_bounded() {
    let store = store().await;
    let secret = client(&store, "acme.app").await;
    let issuer = Issuer::start(store.clone(), &AuthConfig::for_test()).await.expect("an issuer");
    for seconds in [0, 59, 3601] {
        let refused =
            issuer.issue("acme.app", &secret, Some(Duration::from_secs(seconds)), None).await.expect_err("refused");
        assert_eq!(refused.field().as_deref(), Some("lifetime"));
    }
    let acme = TenantId::parse("acme").expect("an id");
    store.set_tenant_state(&acme, TenantState::Suspended).await.expect("suspended");
    let refused = issuer.issue("acme.app", &secret, None, None).await.expect_err("refused");
    assert_eq!((refused.kind(), refused.reason()), (crate::error::Kind::Denied, "TENANT_SUSPENDED"));
}

#[tokio::test]
async fn a_token_issued_right_after_a_secret_rotation_is_accepted() {
    let store = store().await;
    client(&store, "acme.app").await;
    let issuer = Issuer::start(store.clone(), &AuthConfig::for_test()).await.expect("an issuer");
    let (id, secret) = (ClientId::parse("acme.app").expect("an id"), Secret::generate());
    let hash = secret.hash().await.expect("hashed");
    let row = store.set_client_secret(&id, &hash).await.expect("the store responds").expect("found");
    let issued = issuer.issue("acme.app", secret.reveal(), None, None).await.expect("a token");
    let caller = issuer.verifier().verify(issued.token.expose_secret()).expect("a caller");
    assert!(caller.issued() >= row.not_before);
}

#[tokio::test]
async fn gateways_share_the_signing_key_and_a_rotation_invalidates_no_token() {
    let store = store().await;
    let secret = client(&store, "acme.app").await;
    let one = Issuer::start(store.clone(), &AuthConfig::for_test()).await.expect("an issuer");
    let two = Issuer::start(store.clone(), &AuthConfig::for_test()).await.expect("an issuer");
    let old = one.issue("acme.app", &secret, None, None).await.expect("a token");
    one.rotate_key(&store).await.expect("rotated");
    let new = one.issue("acme.app", &secret, None, None).await.expect("a token");
    // The other gateway has not read the change yet.
    for token in [&old, &new] {
        assert!(one.verifier().verify(token.token.expose_secret()).is_ok());
        assert!(two.verifier().verify(token.token.expose_secret()).is_ok());
    }
    two.refresh().await.expect("refreshed");
    for token in [&old, &new] {
        assert!(two.verifier().verify(token.token.expose_secret()).is_ok());
    }
    assert_eq!(two.jwks()["keys"].as_array().map(Vec::len), Some(2));
    assert!(!two.jwks().to_string().contains("\"d\""));
}

#[tokio::test]
async fn the_first_administrator_is_created_once() {
    let store = store().await;
    let (id, secret) = Issuer::bootstrap_admin(&store).await.expect("the store responds").expect("created");
    assert!(Issuer::bootstrap_admin(&store).await.expect("the store responds").is_none());
    let issuer = Issuer::start(store, &AuthConfig::for_test()).await.expect("an issuer");
    let issued = issuer.issue(id.as_str(), &secret, None, None).await.expect("a token");
    let caller = issuer.verifier().verify(issued.token.expose_secret()).expect("a caller");
    assert!(caller.tenant().is_none() && caller.token_grants().expect("grants").administers());
}
