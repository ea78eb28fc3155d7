//! Tests of external issuers: key sets that are refused, algorithms bound to keys, and claims that exceed what is
//! allowed.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{jwks::KeySetError, *};
use crate::{
    auth::Grants,
    config::{KeySource, TenantSource, TokenAlgorithm},
    error::Classify as _,
    names::{ClientId, TenantId},
    store::ExternalClient,
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
        roles_claim: None,
        roles: Default::default(),
        allow_administration: false,
        allow_platform_administration: false,
        max_token_lifetime: Duration::from_secs(24 * 3600),
        refresh_interval: Duration::from_secs(600),
        min_refresh_interval: Duration::from_secs(30),
    }
}

fn acme() -> TenantSource {
    TenantSource::Fixed(TenantId::parse("acme").expect("an id"))
}

fn issuers(config: IssuerConfig) -> ExternalIssuers {
    ExternalIssuers::new(&[config], Duration::from_secs(10))
}

fn only(issuers: &ExternalIssuers) -> &ExternalIssuer {
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

fn verify(issuers: &ExternalIssuers, token: &str) -> Result<Caller, Error> {
    issuers.named_by(token).ok_or(Error::invalid("no issuer"))?.verify(token)
}

#[test]
fn tokens_of_every_algorithm_make_callers_with_the_grants_of_their_scope() {
    let (issuers, keys) = (issuers(config(acme())), keys());
    assert_eq!(only(&issuers).take(keys.set.to_string().as_bytes()), Ok(2));
    for token in [sign(Algorithm::EdDSA, "ed", &keys.ed, &claims()), sign(Algorithm::ES256, "ec", &keys.ec, &claims())]
    {
        let caller = verify(&issuers, &token).expect("a caller");
        assert_eq!(caller.client().as_str(), "acme.app");
        let grants = caller.token_grants().expect("grants");
        assert!(grants.may_publish("orders", "eu.new") && grants.may_publish("amq.default", "jobs"));
        assert!(!grants.may_publish("orders", "us.new") && grants.may_configure("any") && !grants.administers());
    }
}

#[test]
fn a_key_is_used_with_one_algorithm_only_and_an_unknown_key_id_wakes_the_fetch_task() {
    let (issuers, keys) = (issuers(config(acme())), keys());
    only(&issuers).take(keys.set.to_string().as_bytes()).expect("accepted");
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

    // A configuration that names one algorithm uses keys of that kind only.
    let mut narrow = config(acme());
    narrow.algorithms = vec![TokenAlgorithm::Es256];
    assert_eq!(only(&self::issuers(narrow)).take(keys.set.to_string().as_bytes()), Ok(1));
}

#[test]
fn key_sets_that_are_too_large_or_malformed_are_refused_and_the_previous_keys_remain_valid() {
    let (issuers, keys) = (issuers(config(acme())), keys());
    let issuer = only(&issuers);
    issuer.take(keys.set.to_string().as_bytes()).expect("accepted");
    let many: Vec<_> = (0..65).map(|kid| json!({"kty": "OKP", "kid": kid.to_string()})).collect();
    let huge = json!({"keys": [], "pad": "x".repeat(jwks::MAX_BYTES)}).to_string();
    let bad = [
        (json!({"keys": many}).to_string(), KeySetError::TooManyKeys(65)),
        (huge, KeySetError::TooLarge),
        ("[]".to_owned(), KeySetError::Malformed),
        (String::new(), KeySetError::Malformed),
        ("[".repeat(100_000), KeySetError::Malformed),
    ];
    for (set, why) in bad {
        assert_eq!(issuer.take(set.as_bytes()), Err(why));
    }
    assert!(verify(&issuers, &sign(Algorithm::EdDSA, "ed", &keys.ed, &claims())).is_ok());
    // A key that is not published any more must be refused.
    assert_eq!(issuer.take(br#"{"keys": []}"#), Ok(0));
    assert!(verify(&issuers, &sign(Algorithm::EdDSA, "ed", &keys.ed, &claims())).is_err());
}

#[test]
fn keys_that_are_weak_private_or_for_another_use_are_skipped() {
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
fn invalid_or_excessive_claims_are_refused() {
    type Change = fn(&mut Value);
    let bad: [(&str, Change); 20] = [
        ("another tenant's client", |c| c["azp"] = json!("globex.app")),
        ("a platform administrator", |c| c["azp"] = json!("admin.x.y")),
        ("a path as client", |c| c["azp"] = json!("../globex")),
        ("no client", |c| c["azp"] = Value::Null),
        ("a list of clients", |c| c["azp"] = json!(["app"])),
        ("another issuer", |c| c["iss"] = json!("https://else.example")),
        ("a list of issuers", |c| c["iss"] = json!(["https://id.example"])),
        ("another audience", |c| c["aud"] = json!("other")),
        ("no audience", |c| drop(c.as_object_mut().expect("an object").remove("aud"))),
        ("expired", |c| c["exp"] = json!(now() - 60)),
        ("no expiry", |c| drop(c.as_object_mut().expect("an object").remove("exp"))),
        ("an expiry out of range", |c| c["exp"] = json!(1e300)),
        ("an expiry in milliseconds", |c| c["exp"] = json!(now() * 1000)),
        ("an expiry beyond the year 9999", |c| c["exp"] = json!(9_223_372_036_854_774_784_i64)),
        ("a lifetime of a year", |c| c["exp"] = json!(now() + 366 * 24 * 3600)),
        ("not yet valid", |c| c["nbf"] = json!(now() + 60)),
        ("issued in the future", |c| c["iat"] = json!(now() + 60)),
        ("no issue time", |c| drop(c.as_object_mut().expect("an object").remove("iat"))),
        ("administration", |c| c["scope"] = json!({"a": true})),
        ("a bad pattern", |c| c["scope"] = json!(["subscribe:a*"])),
    ];
    let (issuers, keys) = (issuers(config(acme())), keys());
    only(&issuers).take(keys.set.to_string().as_bytes()).expect("accepted");
    for (what, change) in bad {
        let mut claims = claims();
        change(&mut claims);
        let refused = verify(&issuers, &sign(Algorithm::EdDSA, "ed", &keys.ed, &claims)).expect_err(what);
        assert!(["TOKEN_INVALID", "TOKEN_EXPIRED"].contains(&refused.reason()), "{what}: {refused:?}");
    }
}

/// What an issuer sends and publishes, and the expected result.
struct Shape {
    issuer: &'static str,
    header: Value,
    claims: Value,
    /// Changes to the set of keys, which has an Ed25519 key `ed` and a P-256 key `ec`.
    keys: fn(&mut Vec<Value>),
    /// The external id of `acme.worker`; empty for none.
    external_id: &'static str,
    algorithm: Algorithm,
    /// The client, or a part of the operator's reason.
    becomes: Result<&'static str, &'static str>,
}

impl Default for Shape {
    fn default() -> Self {
        let (issuer, external_id, algorithm) = ("", "", Algorithm::ES256);
        Self {
            issuer,
            header: json!({}),
            claims: json!({}),
            keys: |_| {},
            external_id,
            algorithm,
            becomes: Ok("acme.worker"),
        }
    }
}

fn merge(target: &mut Value, changes: &Value) {
    for (name, value) in changes.as_object().into_iter().flatten() {
        target[name] = value.clone();
    }
}

fn b64(value: &Value) -> String {
    encode(value.to_string().as_bytes())
}

/// The cases of docs/compatibility.md: tokens and key sets in the form of well-known issuers.
#[test]
fn tokens_in_the_format_of_well_known_issuers_are_accepted_or_refused_as_documented() {
    let groups: Vec<_> = (0..200).map(|i| format!("{i:08x}-0000-4000-8000-000000000000")).collect();
    let shapes = [
        Shape {
            issuer: "Entra: azp is a GUID that begins with a digit",
            claims: json!({"azp": "9b2c8e60-1f6e-4d2c-9a57-0d6c1c1b7f10"}),
            external_id: "9b2c8e60-1f6e-4d2c-9a57-0d6c1c1b7f10",
            ..Shape::default()
        },
        Shape {
            issuer: "Entra: 200 groups",
            claims: json!({"azp": "app", "groups": groups}),
            becomes: Ok("acme.app"),
            ..Shape::default()
        },
        Shape {
            issuer: "Auth0: machine-to-machine subject",
            claims: json!({"azp": "Tk3bZ0qk9Pq@clients"}),
            external_id: "Tk3bZ0qk9Pq@clients",
            ..Shape::default()
        },
        Shape {
            issuer: "Okta: client id in mixed case",
            claims: json!({"azp": "0oa4mV9Xz5d7AbCdE"}),
            external_id: "0oa4mV9Xz5d7AbCdE",
            ..Shape::default()
        },
        Shape {
            issuer: "Google: numeric service account",
            claims: json!({"azp": "104052345678901234567"}),
            external_id: "104052345678901234567",
            ..Shape::default()
        },
        Shape {
            issuer: "Zitadel: numeric user",
            claims: json!({"azp": "312909075212468632"}),
            external_id: "312909075212468632",
            ..Shape::default()
        },
        Shape {
            issuer: "SPIFFE: JWT-SVID with typ JOSE and keys of use jwt-svid",
            header: json!({"typ": "JOSE"}),
            claims: json!({"azp": "spiffe://example.org/ns/prod/sa/worker"}),
            keys: |keys| keys.iter_mut().for_each(|key| key["use"] = json!("jwt-svid")),
            external_id: "spiffe://example.org/ns/prod/sa/worker",
            ..Shape::default()
        },
        Shape {
            issuer: "Keycloak: sig and enc keys of one id",
            claims: json!({"azp": "my_app"}),
            keys: |keys| {
                let mut encryption = keys[1].clone();
                encryption["use"] = json!("enc");
                keys.insert(0, encryption);
            },
            external_id: "my_app",
            ..Shape::default()
        },
        Shape {
            issuer: "keys of different types with one id",
            claims: json!({"azp": "app"}),
            keys: |keys| keys.iter_mut().for_each(|key| key["kid"] = json!("ec")),
            becomes: Ok("acme.app"),
            ..Shape::default()
        },
        Shape {
            issuer: "the same key twice",
            claims: json!({"azp": "app"}),
            keys: |keys| keys.push(keys[1].clone()),
            becomes: Ok("acme.app"),
            ..Shape::default()
        },
        Shape {
            issuer: "one key without an id, a token without one",
            header: json!({"kid": null}),
            claims: json!({"azp": "app"}),
            keys: |keys| {
                keys.remove(0);
                drop(keys[0].as_object_mut().expect("an object").remove("kid"));
            },
            becomes: Ok("acme.app"),
            ..Shape::default()
        },
        Shape {
            issuer: "two keys, a token without an id",
            header: json!({"kid": null}),
            claims: json!({"azp": "app"}),
            becomes: Err("exactly one key"),
            ..Shape::default()
        },
        Shape {
            issuer: "RFC 9864: alg Ed25519 in token and key",
            header: json!({"alg": "Ed25519", "kid": "ed"}),
            claims: json!({"azp": "app"}),
            keys: |keys| keys[0]["alg"] = json!("Ed25519"),
            algorithm: Algorithm::EdDSA,
            becomes: Ok("acme.app"),
            ..Shape::default()
        },
        Shape {
            issuer: "a GUID that is not bound",
            claims: json!({"azp": "9b2c8e60-1f6e-4d2c-9a57-0d6c1c1b7f10"}),
            becomes: Err("does not match a client of the tenant"),
            ..Shape::default()
        },
        Shape {
            issuer: "the name of a client that is bound by an external id",
            claims: json!({"azp": "worker"}),
            external_id: "somebody-else",
            becomes: Err("does not match a client of the tenant"),
            ..Shape::default()
        },
        Shape {
            issuer: "an identity token for another audience",
            claims: json!({"azp": "app", "aud": "my-frontend"}),
            becomes: Err("a different or missing audience"),
            ..Shape::default()
        },
        Shape {
            issuer: "a logout token",
            header: json!({"typ": "logout+jwt"}),
            claims: json!({"azp": "app"}),
            becomes: Err("a different typ"),
            ..Shape::default()
        },
    ];
    let algorithms = ["PS256", "ES384", "RS512", "ES256K", "HS256", "none"].map(|algorithm| Shape {
        issuer: algorithm,
        header: json!({"alg": algorithm}),
        claims: json!({"azp": "app"}),
        becomes: Err("an algorithm that is not accepted"),
        ..Shape::default()
    });
    for shape in shapes.into_iter().chain(algorithms) {
        let (issuers, keys) = (issuers(config(acme())), keys());
        let mut set = keys.set["keys"].as_array().expect("keys")[..2].to_vec();
        (shape.keys)(&mut set);
        only(&issuers).take(json!({"keys": set}).to_string().as_bytes()).expect(shape.issuer);
        if !shape.external_id.is_empty() {
            issuers.set_clients(&[ExternalClient {
                issuer: "https://id.example".to_owned(),
                external_id: shape.external_id.to_owned(),
                client: ClientId::parse("acme.worker").expect("an id"),
            }]);
        }
        let (key, kid) = if shape.algorithm == Algorithm::ES256 { (&keys.ec, "ec") } else { (&keys.ed, "ed") };
        let mut header = json!({"alg": if kid == "ec" { "ES256" } else { "EdDSA" }, "kid": kid, "typ": "JWT"});
        merge(&mut header, &shape.header);
        let mut claims = claims();
        merge(&mut claims, &shape.claims);
        let message = format!("{}.{}", b64(&header), b64(&claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, shape.algorithm).expect("signed");
        let token = format!("{message}.{signature}");
        assert!(token.len() < 14 * 1024, "{}: {} bytes", shape.issuer, token.len());
        match (verify(&issuers, &token), shape.becomes) {
            (Ok(caller), Ok(client)) => assert_eq!(caller.client().as_str(), client, "{}", shape.issuer),
            (Err(Error::TokenInvalid { why, .. }), Err(reason)) => {
                assert!(why.contains(reason), "{}: {why}", shape.issuer);
            }
            (found, _) => panic!("{}: {found:?}", shape.issuer),
        }
    }
}

#[test]
fn roles_and_groups_are_mapped_to_grants_and_administration_is_off_by_default() {
    let mut config = config(acme());
    config.roles_claim = Some("/realm_access/roles".to_owned());
    config.roles = [
        ("reader".to_owned(), vec!["subscribe:jobs.#".to_owned()]),
        ("boss".to_owned(), vec!["administer".to_owned(), "publish::jobs".to_owned()]),
    ]
    .into();
    let keys = keys();
    let caller = |config: &IssuerConfig, roles: Value| {
        let issuers = issuers(config.clone());
        only(&issuers).take(keys.set.to_string().as_bytes()).expect("accepted");
        let mut claims = claims();
        claims.as_object_mut().expect("an object").remove("scope");
        claims["realm_access"] = json!({"roles": roles});
        verify(&issuers, &sign(Algorithm::EdDSA, "ed", &keys.ed, &claims))
    };
    let reader = caller(&config, json!(["offline_access", "reader"])).expect("a caller");
    let grants = reader.token_grants().expect("grants");
    assert_eq!(grants.to_scope(), "subscribe:jobs.#");
    assert_eq!(caller(&config, json!([])).expect("a caller").token_grants(), Some(&Grants::default()));
    assert!(
        matches!(caller(&config, json!(["boss"])), Err(Error::TokenInvalid { why, .. }) if why.contains("administration"))
    );
    config.allow_administration = true;
    let boss = caller(&config, json!(["boss", "reader"])).expect("a caller");
    assert!(boss.token_grants().expect("grants").administers());
    // Without roles and without a scope, the store alone decides.
    (config.roles_claim, config.roles) = (None, Default::default());
    assert_eq!(caller(&config, json!(["boss"])).expect("a caller").token_grants(), None);
}

#[test]
fn an_administrator_of_the_platform_needs_the_setting_the_claim_and_no_tenant() {
    let keys = keys();
    let caller = |config: &IssuerConfig, changes: Value| {
        let issuers = issuers(config.clone());
        only(&issuers).take(keys.set.to_string().as_bytes()).expect("accepted");
        issuers.set_clients(&[ExternalClient {
            issuer: "https://id.example".to_owned(),
            external_id: "9b2c8e60".to_owned(),
            client: ClientId::parse("ops").expect("an id"),
        }]);
        let mut claims = claims();
        claims["scope"] = json!("administer");
        merge(&mut claims, &changes);
        verify(&issuers, &sign(Algorithm::EdDSA, "ed", &keys.ed, &claims)).map(|caller| caller.client().to_string())
    };
    let mut by_claim = config(TenantSource::Claim("org".to_owned()));
    assert!(caller(&by_claim, json!({"azp": "root"})).is_err(), "off by default");
    by_claim.allow_platform_administration = true;
    let mut platform = IssuerConfig { tenant: TenantSource::Platform, ..by_claim.clone() };
    for config in [&by_claim, &platform] {
        assert_eq!(caller(config, json!({"azp": "root"})).expect("a caller"), "root");
        assert_eq!(caller(config, json!({"azp": "9b2c8e60"})).expect("a caller"), "ops");
        for (changes, reason) in [
            (json!({"azp": "root", "scope": "openid"}), "no tenant"),
            (json!({"azp": "root", "scope": null}), "no tenant"),
            (json!({"azp": "acme.app"}), "does not match"),
            (json!({"azp": "ops"}), "does not match"),
        ] {
            let refused = caller(config, changes.clone());
            assert!(matches!(&refused, Err(Error::TokenInvalid { why, .. }) if why.contains(reason)), "{refused:?}");
        }
    }
    // With a tenant in the token, only that tenant's clients.
    let of_tenant = |org: &str, azp: &str, scope: &str| json!({"org": org, "azp": azp, "scope": scope});
    assert_eq!(caller(&by_claim, of_tenant("acme", "app", "subscribe:#")).expect("a caller"), "acme.app");
    assert_eq!(caller(&by_claim, of_tenant("acme", "root", "subscribe:#")).expect("a caller"), "acme.root");
    assert!(caller(&by_claim, of_tenant("acme", "app", "administer")).is_err(), "allow_administration is separate");
    assert!(caller(&by_claim, of_tenant("", "root", "administer")).is_err(), "an empty tenant is not a missing one");
    platform.roles_claim = Some("groups".to_owned());
    platform.roles = [("wg-admins".to_owned(), vec!["administer".to_owned()])].into();
    let group = json!({"azp": "root", "scope": null, "groups": ["staff", "wg-admins"]});
    assert_eq!(caller(&platform, group).expect("a caller"), "root");
}

#[test]
fn an_issue_time_in_whole_seconds_counts_as_the_end_of_that_second() {
    let (issuers, keys) = (issuers(config(acme())), keys());
    only(&issuers).take(keys.set.to_string().as_bytes()).expect("accepted");
    let issued = |iat: Value| {
        let mut claims = claims();
        claims["iat"] = iat;
        let caller = verify(&issuers, &sign(Algorithm::EdDSA, "ed", &keys.ed, &claims)).expect("a caller");
        caller.issued().duration_since(UNIX_EPOCH).expect("after 1970").as_millis()
    };
    let second = now();
    assert_eq!(issued(json!(second)), u128::from(second) * 1_000 + 999);
    assert_eq!(
        issued(serde_json::from_str(&format!("{second}.25")).expect("a number")),
        u128::from(second) * 1_000 + 250
    );
}

#[test]
fn the_tenant_is_read_from_the_configured_claim() {
    let (issuers, keys) = (issuers(config(TenantSource::Claim("/org/tenant".to_owned()))), keys());
    only(&issuers).take(keys.set.to_string().as_bytes()).expect("accepted");
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
    fn no_bytes_make_the_key_set_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = only(&issuers(config(acme()))).take(&bytes);
    }

    #[test]
    fn no_key_makes_the_key_set_parser_panic(
        kty in "OKP|EC|RSA|oct|", crv in "Ed25519|P-256|", kid in "[a-z]{0,3}", parts in prop::collection::vec("[A-Za-z0-9_=-]{0,90}", 4)
    ) {
        let key = json!({"kty": kty, "crv": crv, "kid": kid, "x": parts[0], "y": parts[1], "n": parts[2], "e": parts[3]});
        let _ = only(&issuers(config(acme()))).take(json!({"keys": [key]}).to_string().as_bytes());
    }
}
