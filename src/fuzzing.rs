//! Entry points for fuzzing the code that reads untrusted input. `fuzz/` calls them with libFuzzer, and the tests below
//! with generated inputs on a stable compiler; `./scripts/fuzz` runs either.
//!
//! A function returns for every input; a panic is a finding. Where there is a simple reference, the result is compared
//! with it.

use std::time::{Duration, SystemTime};

use prost::Message as _;

use crate::{
    auth,
    broker::{self, PendingPublish},
    config::{Config, IssuerConfig, KeySource, TenantSource, TokenAlgorithm},
    names::Pattern,
    pb::{self, publish_request::Frame},
};

/// A frame of a publish stream: decoded, and each publication checked.
pub fn frames(data: &[u8]) {
    let _ = pb::SubscribeRequest::decode(data);
    let Ok(pb::PublishRequest { frame: Some(Frame::Publications(frame)) }) = pb::PublishRequest::decode(data) else {
        return;
    };
    for (order, mut publication) in (0..).zip(frame.publications) {
        let bytes = publication.message.as_ref().map_or(0, |message| message.body.len());
        let _ = PendingPublish::check(order, bytes, &mut publication, SystemTime::UNIX_EPOCH);
    }
}

/// A message's headers and properties, to AMQP and back.
pub fn headers(data: &[u8]) {
    if let Ok(message) = pb::Message::decode(data) {
        broker::fuzzing::headers(&message);
    }
}

/// The key set of an external issuer.
pub fn jwks(data: &[u8]) {
    let config = IssuerConfig {
        issuer: "https://issuer.example".into(),
        keys: KeySource::Discovery,
        ca_certificate: None,
        audience: "warrengate".into(),
        algorithms: TokenAlgorithm::ALL.to_vec(),
        tenant: TenantSource::Claim("org".into()),
        client_claim: "azp".into(),
        grants_claim: "scope".into(),
        roles_claim: None,
        roles: Default::default(),
        allow_administration: false,
        allow_platform_administration: false,
        max_token_lifetime: Duration::from_secs(24 * 3600),
        refresh_interval: Duration::from_secs(600),
        min_refresh_interval: Duration::from_secs(30),
    };
    auth::fuzz_key_set(data, &config);
}

/// A pattern and a text, separated by a zero byte. Matching is compared with a reference implementation.
pub fn patterns(data: &[u8]) {
    let Some((pattern, text)) = std::str::from_utf8(data).ok().and_then(|data| data.split_once('\0')) else { return };
    let Ok(parsed) = Pattern::parse(pattern) else { return };
    assert_eq!(parsed.as_str(), pattern);
    let pattern: Vec<_> = pattern.split('.').collect();
    // As in RabbitMQ, an empty routing key has no words.
    let words: Vec<_> = if text.is_empty() { Vec::new() } else { text.split('.').collect() };
    if pattern.len() <= 64 && words.len() <= 64 {
        assert_eq!(parsed.matches(text), reference(&pattern, &words), "{parsed:?} {text:?}");
    }
}

/// Whether a topic pattern matches, by dynamic programming over the words of both.
fn reference(pattern: &[&str], words: &[&str]) -> bool {
    // reachable[j]: the patterns read so far match the first j words.
    let mut reachable = vec![false; words.len() + 1];
    reachable[0] = true;
    for part in pattern {
        let mut next = vec![false; words.len() + 1];
        for (index, _) in reachable.iter().enumerate().filter(|(_, reachable)| **reachable) {
            match *part {
                "#" => next[index..].fill(true),
                "*" if index < words.len() => next[index + 1] = true,
                word if words.get(index) == Some(&word) => next[index + 1] = true,
                _ => {}
            }
        }
        reachable = next;
    }
    reachable[words.len()]
}

/// A configuration file.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse(Some(text), []) {
        Ok(config) => drop(format!("{config:?}")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The text of an AMQP error.
pub fn error_text(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        broker::fuzzing::error_text(text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::names::cases;

    /// Valid encodings with some bytes changed, cut or inserted: most still decode to something.
    fn mutated(valid: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..4);
        (valid, changes).prop_map(|(mut bytes, changes)| {
            for (index, byte, kind) in changes {
                if bytes.is_empty() {
                    break;
                }
                let index = index.index(bytes.len());
                match kind {
                    0 => bytes[index] = byte,
                    1 => bytes.insert(index, byte),
                    2 => {
                        bytes.remove(index);
                    }
                    _ => bytes.truncate(index),
                }
            }
            bytes
        })
    }

    fn value() -> impl Strategy<Value = pb::Value> {
        use pb::value::Kind;
        let leaf = prop_oneof![
            "\\PC{0,40}".prop_map(Kind::StringValue),
            any::<i64>().prop_map(Kind::IntValue),
            any::<f64>().prop_map(Kind::DoubleValue),
            any::<bool>().prop_map(Kind::BoolValue),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| Kind::BytesValue(bytes.into())),
            (-10_i64..5_000_000_000, prop_oneof![9 => Just(0), 1 => any::<i32>()])
                .prop_map(|(seconds, nanos)| Kind::TimestampValue(prost_types::Timestamp { seconds, nanos })),
            any::<i32>().prop_map(Kind::NullValue),
        ];
        let leaf = prop::option::weighted(0.95, leaf).prop_map(|kind| pb::Value { kind });
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|values| Kind::ListValue(pb::ValueList { values })),
                prop::collection::hash_map("\\PC{0,8}", inner, 0..4)
                    .prop_map(|entries| Kind::TableValue(pb::ValueTable { entries })),
            ]
            .prop_map(|kind| pb::Value { kind: Some(kind) })
        })
    }

    fn message() -> impl Strategy<Value = pb::Message> {
        let headers = prop::collection::hash_map("\\PC{0,20}|x-[a-z]{1,5}|wg\\.[a-z]{1,5}", value(), 0..4);
        (headers, "\\PC{0,30}", any::<i32>(), any::<bool>()).prop_map(|(headers, id, durability, has_durability)| {
            let durability = if has_durability { durability } else { 0 };
            pb::Message { headers, message_id: id, durability, ..pb::Message::default() }
        })
    }

    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let publication = ("[a-z.]{0,12}", "\\PC{0,20}", prop::option::weighted(0.9, message()));
        let publication = publication.prop_map(|(exchange, routing_key, message)| pb::Publication {
            exchange,
            routing_key,
            message,
            ..pb::Publication::default()
        });
        prop::collection::vec(publication, 0..4).prop_map(|publications| {
            pb::PublishRequest { frame: Some(Frame::Publications(pb::Publications { publications })) }.encode_to_vec()
        })
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn frames_never_panic(data in mutated(frame())) {
            frames(&data);
        }

        #[test]
        fn accepted_headers_are_unchanged_after_both_conversions(data in mutated(message().prop_map(|m| m.encode_to_vec()))) {
            headers(&data);
        }

        #[test]
        fn patterns_match_as_the_reference_does(pattern in "[a-c*#.]{0,12}", text in "[a-c.]{0,12}") {
            patterns(format!("{pattern}\0{text}").as_bytes());
        }

        #[test]
        fn key_sets_never_panic(data in mutated(Just(include_bytes!("../fuzz/seeds/jwks/ed25519.json").to_vec()))) {
            jwks(&data);
        }

        #[test]
        fn configuration_files_never_panic(data in mutated(Just(include_bytes!("../fuzz/seeds/config/small.toml").to_vec()))) {
            config(&data);
        }

        #[test]
        fn error_texts_never_panic(data in mutated(prop_oneof![
            Just(include_bytes!("../fuzz/seeds/error_text/inequivalent.txt").to_vec()),
            Just(include_bytes!("../fuzz/seeds/error_text/not_found.txt").to_vec()),
        ])) {
            error_text(&data);
        }
    }
}
