//! Whatever bytes come as a frame, and whatever a broker has for headers: nothing panics, and what is written is read as it was.

use std::{collections::HashMap, time::SystemTime};

use proptest::prelude::*;
use prost::Message as _;

use super::{headers, properties};
use crate::{
    names::{ExchangeName, QueueName, RoutingKey, cases},
    pb::{self, value::Kind},
};

fn value() -> impl Strategy<Value = pb::Value> {
    let leaf = prop_oneof![
        any::<String>().prop_map(Kind::StringValue),
        any::<i64>().prop_map(Kind::IntValue),
        any::<f64>().prop_map(Kind::DoubleValue),
        any::<bool>().prop_map(Kind::BoolValue),
        any::<(i64, i32)>()
            .prop_map(|(seconds, nanos)| Kind::TimestampValue(prost_types::Timestamp { seconds, nanos })),
    ];
    let leaf = prop::option::weighted(0.9, leaf).prop_map(|kind| pb::Value { kind });
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop::collection::vec(inner, 0..4)
            .prop_map(|values| pb::Value { kind: Some(Kind::ListValue(pb::ValueList { values })) })
    })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn no_bytes_panic_the_reading_of_frames(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = pb::SubscribeRequest::decode(&*bytes);
        let _ = pb::PublishRequest::decode(&*bytes);
        if let Ok(publication) = pb::Publication::decode(&*bytes) {
            let _ = (ExchangeName::parse(&publication.exchange), RoutingKey::parse(&publication.routing_key));
            let _ = QueueName::parse(&publication.exchange);
            let _ = publication.message.map(|message| properties::to_amqp(&message, &message.message_id, SystemTime::now()));
        }
        if let Ok(message) = pb::Message::decode(&*bytes) {
            let _ = properties::to_amqp(&message, &message.message_id, SystemTime::now());
        }
    }

    #[test]
    fn no_headers_panic_and_those_that_are_taken_come_back(
        given in prop::collection::hash_map("\\PC{0,20}|x-[a-z]{1,5}|wg\\.[a-z]{1,5}", value(), 0..4)
    ) {
        if let Ok(table) = headers::to_table(&given) {
            let back: HashMap<_, _> = headers::from_table(&table).collect();
            prop_assert!(back.len() <= given.len());
        }
        let message = pb::Message { headers: given, ..pb::Message::default() };
        if let Ok(written) = properties::to_amqp(&message, &message.message_id, SystemTime::now()) {
            let _ = properties::from_amqp(&written, bytes::Bytes::new());
        }
    }
}
