//! Sets of keys that are refused, algorithms that do not change hands, and claims that say more than they may.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{jwks::Unusable, *};
use crate::{
    config::{KeySource, TenantSource, TokenAlgorithm},
    error::Classify as _,
    names::TenantId,
};

fn config(tenant: TenantSource) -> IssuerConfig {
    IssuerConfig {
        issuer: "https://id.example".to_owned(),
        keys: KeySource::Discovery,
        ca_certificate: None,
        audience: "warrengate".to_owned(),
        algorithms: TokenAlgorithm::ALL.to_vec(),
        tenant,
        client_claim: "azp".to_owned(),
        grants_claim: "scope".to_owned(),
        refresh_interval: Duration::from_secs(600),
        min_refresh_interval: Duration::from_secs(30),
    }
}

fn acme() -> TenantSource {
    TenantSource::Fixed(TenantId::parse("acme").expect("an id"))
}

fn issuers(config: IssuerConfig) -> ForeignIssuers {
    ForeignIssuers::new(&[config], Duration::from_secs(10))
}

fn only(issuers: &ForeignIssuers) -> &ForeignIssuer {
    issuers.0.values().next().expect("one")
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An Ed25519 and a P-256 key, and the set that publishes them as `ed` and `ec`.
struct Keys {
    ed: EncodingKey,
    ec: EncodingKey,
    set: Value,
}

fn keys() -> Keys {
    let ed = Ed25519KeyPair::generate().expect("a key");
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).expect("a key");
    let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).expect("a key");
    let (x, y) = ec.public_key().as_ref()[1..].split_at(32);
    Keys {
        set: json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "use": "sig", "x": encode(ed.public_key().as_ref())},
            {"kty": "EC", "crv": "P-256", "kid": "ec", "alg": "ES256", "x": encode(x), "y": encode(y)},
            {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"},
            {"kty": "EC", "crv": "P-384", "kid": "other"},
        ]}),
        ed: EncodingKey::from_ed_der(ed.to_pkcs8().expect("a document").as_ref()),
        ec: EncodingKey::from_ec_der(document.as_ref()),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn claims() -> Value {
    json!({
        "iss": "https://id.example", "aud": ["other", "warrengate"], "azp": "app", "exp": now() + 60, "iat": now(),
        "scope": "openid publish:orders:eu.# publish::jobs subscribe:jobs configure:#",
    })
}

fn sign(algorithm: Algorithm, kid: &str, key: &EncodingKey, claims: &Value) -> String {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, claims, key).expect("a token")
}

fn verify(issuers: &ForeignIssuers, token: &str) -> Result<Caller, Error> {
    let issuer = issuers.named_by(token).ok_or(Error::invalid("no issuer"))?;
    issuer.verify(token, &jsonwebtoken::decode_header(token)?)
}

#[test]
fn tokens_of_every_algorithm_make_callers_with_the_grants_of_their_scope() {
    let (issuers, keys) = (issuers(config(acme())), keys());
    assert_eq!(only(&issuers).take(keys.set.to_string().as_bytes()), Ok(2));
    for token in [sign(Algorithm::EdDSA, "ed", &keys.ed, &claims()), sign(Algorithm::ES256, "ec", &keys.ec, &claims())]
    {
        let caller = verify(&issuers, &token).expect("a caller");
        assert_eq!(caller.client().as_str(), "acme.app");
        let grants = caller.grants();
        assert!(grants.may_publish("orders", "eu.new") && grants.may_publish("amq.default", "jobs"));
        assert!(!grants.may_publish("orders", "us.new") && grants.may_configure("any") && !grants.administers());
    }
}

#[test]
fn a_key_has_one_algorithm_and_unknown_ids_wake_the_fetching() {
    let (issuers, keys) = (issuers(config(acme())), keys());
    only(&issuers).take(keys.set.to_string().as_bytes()).expect("taken");
    let public = keys.set["keys"][0]["x"].as_str().expect("text");
    let hmac = |kid, secret: &[u8]| sign(Algorithm::HS256, kid, &EncodingKey::from_secret(secret), &claims());
    for token in [
        sign(Algorithm::ES256, "ed", &keys.ec, &claims()),
        sign(Algorithm::EdDSA, "ec", &keys.ed, &claims()),
        hmac("ed", public.as_bytes()),
        hmac("shared", b"secret"),
    ] {
        assert_eq!(verify(&issuers, &token).expect_err("refused").reason(), "TOKEN_INVALID");
    }
    assert!(verify(&issuers, &sign(Algorithm::EdDSA, "new", &keys.ed, &claims())).is_err());
    let woken = only(&issuers).unknown.notified();
    assert!(futures_util::FutureExt::now_or_never(woken).is_some());

    let mut narrow = config(acme());
    narrow.algorithms = vec![TokenAlgorithm::Es256];
    assert_eq!(ForeignIssuers::new(&[narrow], Duration::ZERO).0.len(), 1);
}

#[test]
fn sets_that_are_huge_crowded_or_ambiguous_are_refused_and_the_keys_before_stay() {
    let (issuers, keys) = (issuers(config(acme())), keys());
    let issuer = only(&issuers);
    issuer.take(keys.set.to_string().as_bytes()).expect("taken");
    let first = keys.set["keys"][0].clone();
    let twice = json!({"keys": [first, first]}).to_string();
    let many: Vec<_> = (0..65).map(|kid| json!({"kty": "OKP", "kid": kid.to_string()})).collect();
    let huge = json!({"keys": [], "pad": "x".repeat(jwks::MAX_BYTES)}).to_string();
    let bad = [
        (twice, Unusable::DuplicateId),
        (json!({"keys": many}).to_string(), Unusable::TooManyKeys(65)),
        (huge, Unusable::TooLarge),
        ("[]".to_owned(), Unusable::Malformed),
        (String::new(), Unusable::Malformed),
        ("[".repeat(100_000), Unusable::Malformed),
    ];
    for (set, why) in bad {
        assert_eq!(issuer.take(set.as_bytes()), Err(why));
    }
    assert!(verify(&issuers, &sign(Algorithm::EdDSA, "ed", &keys.ed, &claims())).is_ok());
    // What it publishes no more is believed no more.
    assert_eq!(issuer.take(br#"{"keys": []}"#), Ok(0));
    assert!(verify(&issuers, &sign(Algorithm::EdDSA, "ed", &keys.ed, &claims())).is_err());
}

#[test]
fn keys_that_are_weak_private_or_for_something_else_are_left_out() {
    let issuers = issuers(config(acme()));
    let rsa = |bytes: usize| json!({"kty": "RSA", "kid": "k", "e": "AQAB", "n": encode(&vec![0xff; bytes])});
    let with = |name: &str, value: Value| {
        let mut key = keys().set["keys"][0].clone();
        key[name] = value;
        key
    };
    assert_eq!(only(&issuers).take(json!({"keys": [rsa(256)]}).to_string().as_bytes()), Ok(1));
    let left_out = [
        rsa(128),
        rsa(513),
        with("d", json!("private")),
        with("use", json!("enc")),
        with("alg", json!("ES256")),
        with("alg", json!("none")),
        with("x", json!("AA")),
        with("kid", json!("")),
        with("kid", json!("k".repeat(257))),
        with("kid", json!(7)),
        with("crv", json!("Ed448")),
    ];
    for key in left_out {
        let set = json!({"keys": [key]}).to_string();
        assert_eq!(only(&issuers).take(set.as_bytes()), Ok(0), "{key}");
    }
}

#[test]
fn claims_that_say_more_than_they_may_are_refused() {
    type Change = fn(&mut Value);
    let bad: [(&str, Change); 17] = [
        ("another tenant's client", |c| c["azp"] = json!("globex.app")),
        ("a platform administrator", |c| c["azp"] = json!("admin.x.y")),
        ("a client that walks", |c| c["azp"] = json!("../globex")),
        ("no client", |c| c["azp"] = Value::Null),
        ("a list of clients", |c| c["azp"] = json!(["app"])),
        ("another issuer", |c| c["iss"] = json!("https://else.example")),
        ("a list of issuers", |c| c["iss"] = json!(["https://id.example"])),
        ("another audience", |c| c["aud"] = json!("other")),
        ("no audience", |c| drop(c.as_object_mut().expect("an object").remove("aud"))),
        ("ended", |c| c["exp"] = json!(now() - 60)),
        ("no end", |c| drop(c.as_object_mut().expect("an object").remove("exp"))),
        ("an end beyond time", |c| c["exp"] = json!(1e300)),
        ("not yet valid", |c| c["nbf"] = json!(now() + 60)),
        ("of the future", |c| c["iat"] = json!(now() + 60)),
        ("of no time", |c| drop(c.as_object_mut().expect("an object").remove("iat"))),
        ("administration", |c| c["scope"] = json!({"a": true})),
        ("a bad pattern", |c| c["scope"] = json!(["subscribe:a*"])),
    ];
    let (issuers, keys) = (issuers(config(acme())), keys());
    only(&issuers).take(keys.set.to_string().as_bytes()).expect("taken");
    for (what, change) in bad {
        let mut claims = claims();
        change(&mut claims);
        let refused = verify(&issuers, &sign(Algorithm::EdDSA, "ed", &keys.ed, &claims)).expect_err(what);
        assert!(["TOKEN_INVALID", "TOKEN_EXPIRED"].contains(&refused.reason()), "{what}: {refused:?}");
    }
}

#[test]
fn the_tenant_comes_from_where_the_configuration_says() {
    let (issuers, keys) = (issuers(config(TenantSource::Claim("/org/tenant".to_owned()))), keys());
    only(&issuers).take(keys.set.to_string().as_bytes()).expect("taken");
    let caller = |org: Value, azp: &str| {
        let mut claims = claims();
        (claims["org"], claims["azp"]) = (org, json!(azp));
        verify(&issuers, &sign(Algorithm::EdDSA, "ed", &keys.ed, &claims)).map(|caller| caller.client().to_string())
    };
    assert_eq!(caller(json!({"tenant": "globex"}), "app").expect("a caller"), "globex.app");
    assert_eq!(caller(json!({"tenant": "globex"}), "globex.app").expect("a caller"), "globex.app");
    for (org, azp) in [
        (json!({"tenant": "globex"}), "acme.app"),
        (json!({"tenant": "../acme"}), "app"),
        (json!({"tenant": ""}), "admin"),
        (json!({"tenant": ["acme"]}), "app"),
        (json!("acme"), "app"),
    ] {
        assert!(caller(org.clone(), azp).is_err(), "{org} {azp}");
    }
}

proptest! {
    #![proptest_config(crate::names::cases())]

    #[test]
    fn no_bytes_panic_the_reading_of_keys(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = only(&issuers(config(acme()))).take(&bytes);
    }

    #[test]
    fn no_key_panics_the_reading_of_keys(
        kty in "OKP|EC|RSA|oct|", crv in "Ed25519|P-256|", kid in "[a-z]{0,3}", parts in prop::collection::vec("[A-Za-z0-9_=-]{0,90}", 4)
    ) {
        let key = json!({"kty": kty, "crv": crv, "kid": kid, "x": parts[0], "y": parts[1], "n": parts[2], "e": parts[3]});
        let _ = only(&issuers(config(acme()))).take(json!({"keys": [key]}).to_string().as_bytes());
    }
}
