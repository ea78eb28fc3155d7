//! Each exchange type, with the routing tables of RabbitMQ's tutorials.

use tonic::Code;
use warrengate::pb::{self, DestinationType, ExchangeType, HeadersMatch, Outcome, value::Kind};

use crate::harness::{
    Tenant, broker,
    raw::{field, reason},
    values::{headers, int, text, to_exchange},
    wait::until,
};

/// Publishes each routing key as the body too, in this order.
async fn publish_keys(tenant: &Tenant, exchange: &str, keys: &[&str]) -> Vec<Outcome> {
    let publications = keys.iter().map(|key| to_exchange(exchange, key, key.to_string())).collect();
    tenant.outcomes(publications).await
}

fn bind_headers<const N: usize>(
    queue: &str,
    headers_match: HeadersMatch,
    entries: [(&str, pb::Value); N],
) -> pb::Binding {
    pb::Binding {
        source: "by-headers".into(),
        destination: queue.into(),
        headers: headers(entries),
        headers_match: headers_match.into(),
        ..pb::Binding::default()
    }
}

#[tokio::test]
async fn a_direct_exchange_routes_by_equal_key() {
    let tenant = Tenant::fresh().await;
    tenant.exchange("direct-logs", ExchangeType::Direct).await;
    tenant.queue("errors").await;
    tenant.queue("all").await;
    tenant.bind("direct-logs", "errors", "error").await;
    for severity in ["info", "error", "warning"] {
        tenant.bind("direct-logs", "all", severity).await;
    }
    let outcomes = publish_keys(&tenant, "direct-logs", &["error", "info", "warning", "debug", "errors", ""]).await;
    use Outcome::{Confirmed, Unroutable};
    assert_eq!(outcomes, [Confirmed, Confirmed, Confirmed, Unroutable, Unroutable, Unroutable]);
    tenant.holds("errors", &["error"]).await;
    tenant.holds("all", &["error", "info", "warning"]).await;
}

#[tokio::test]
async fn a_topic_exchange_routes_by_words() {
    let tenant = Tenant::fresh().await;
    tenant.exchange("animals", ExchangeType::Topic).await;
    tenant.queue("q1").await;
    tenant.queue("q2").await;
    tenant.bind("animals", "q1", "*.orange.*").await;
    tenant.bind("animals", "q2", "*.*.rabbit").await;
    tenant.bind("animals", "q2", "lazy.#").await;
    let routed = [
        "quick.orange.rabbit",
        "lazy.orange.elephant",
        "quick.orange.fox",
        "lazy.brown.fox",
        "lazy.pink.rabbit",
        "lazy.orange.new.rabbit",
        "lazy",
    ];
    assert_eq!(publish_keys(&tenant, "animals", &routed).await, [Outcome::Confirmed; 7]);
    let lost = ["quick.brown.fox", "orange", "quick.orange.new.rabbit", ""];
    assert_eq!(publish_keys(&tenant, "animals", &lost).await, [Outcome::Unroutable; 4]);
    tenant.holds("q1", &["quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox"]).await;
    // Once, although two of its bindings match "lazy.pink.rabbit".
    tenant
        .holds(
            "q2",
            &[
                "quick.orange.rabbit",
                "lazy.orange.elephant",
                "lazy.brown.fox",
                "lazy.pink.rabbit",
                "lazy.orange.new.rabbit",
                "lazy",
            ],
        )
        .await;
}

#[tokio::test]
async fn a_fanout_exchange_routes_to_all_and_ignores_the_key() {
    let tenant = Tenant::fresh().await;
    tenant.exchange("logs", ExchangeType::Fanout).await;
    assert_eq!(publish_keys(&tenant, "logs", &["nobody"]).await, [Outcome::Unroutable]);
    for queue in ["one", "two", "three"] {
        tenant.queue(queue).await;
        tenant.bind("logs", queue, "whatever").await;
    }
    assert_eq!(publish_keys(&tenant, "logs", &["", "a.key"]).await, [Outcome::Confirmed; 2]);
    for queue in ["one", "two", "three"] {
        tenant.holds(queue, &["", "a.key"]).await;
    }
}

#[tokio::test]
async fn a_headers_exchange_routes_by_all_or_any_typed_value() {
    let tenant = Tenant::fresh().await;
    tenant.exchange("by-headers", ExchangeType::Headers).await;
    let bindings = [
        bind_headers("all", HeadersMatch::All, [("format", text("pdf")), ("copies", int(3))]),
        bind_headers("any", HeadersMatch::Any, [("format", text("pdf")), ("copies", int(3))]),
        bind_headers("text-three", HeadersMatch::All, [("copies", text("3"))]),
    ];
    for binding in bindings {
        tenant.queue(&binding.destination).await;
        tenant.client.topology().bind(pb::BindRequest { binding: Some(binding) }).await.unwrap();
    }
    let cases = [
        ("both", headers([("format", text("pdf")), ("copies", int(3)), ("more", int(1))])),
        ("format only", headers([("format", text("pdf"))])),
        ("copies only", headers([("format", text("zip")), ("copies", int(3))])),
        ("copies as text", headers([("copies", text("3"))])),
        ("neither", headers([("format", text("zip")), ("copies", int(4))])),
        ("no headers", headers([])),
    ];
    let publications = cases.into_iter().map(|(body, headers)| {
        let mut publication = to_exchange("by-headers", "", body);
        publication.message.as_mut().unwrap().headers = headers;
        publication
    });
    let outcomes = tenant.outcomes(publications.collect()).await;
    assert_eq!(outcomes[..4], [Outcome::Confirmed; 4]);
    assert_eq!(outcomes[4..], [Outcome::Unroutable; 2]);
    tenant.holds("all", &["both"]).await;
    tenant.holds("any", &["both", "format only", "copies only"]).await;
    tenant.holds("text-three", &["copies as text"]).await;
}

#[tokio::test]
async fn a_listed_binding_is_the_declared_one_for_every_kind_of_value_and_can_be_unbound() {
    let tenant = Tenant::fresh().await;
    tenant.exchange("by-headers", ExchangeType::Headers).await;
    tenant.queue("q").await;
    let value = |kind| pb::Value { kind: Some(kind) };
    let kinds = [
        ("text", Kind::StringValue("é".into())),
        ("int", Kind::IntValue(i64::MAX)),
        ("whole", Kind::DoubleValue(2.0)),
        ("fraction", Kind::DoubleValue(0.1)),
        ("truth", Kind::BoolValue(true)),
        ("bytes", Kind::BytesValue(vec![0, 255].into())),
        ("time", Kind::TimestampValue(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 })),
        ("nothing", Kind::NullValue(0)),
    ];
    let topology = || tenant.client.topology();
    let listed =
        async || topology().list_bindings(pb::ListBindingsRequest::default()).await.unwrap().into_inner().bindings;
    let is_4 = broker::version().await >= (4, 0);
    for (name, kind) in kinds {
        let declared = pb::Binding {
            destination_type: DestinationType::Queue.into(),
            ..bind_headers("q", HeadersMatch::All, [(name, value(kind))])
        };
        topology().bind(pb::BindRequest { binding: Some(declared.clone()) }).await.unwrap();
        let found = until("the binding is listed", async || listed().await.pop()).await;
        assert_eq!(found, declared);
        let mut publication = to_exchange("by-headers", "", name);
        publication.message.as_mut().unwrap().headers = found.headers.clone();
        let matching = tenant.outcomes(vec![publication]).await;
        // A headers exchange compares values of equal type; RabbitMQ takes null for any value. RabbitMQ 4.x compares a
        // time of the binding in seconds with one of the message in milliseconds.
        let expected = if name == "time" && is_4 { Outcome::Unroutable } else { Outcome::Confirmed };
        assert_eq!(matching, [expected], "{name}");
        topology().unbind(pb::UnbindRequest { binding: Some(found) }).await.unwrap();
        until("the binding is gone", async || listed().await.is_empty().then_some(())).await;
    }
}

#[tokio::test]
async fn listed_queues_and_exchanges_are_the_declared_ones_and_can_be_declared_again() {
    let tenant = Tenant::fresh().await;
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let common = pb::Queue {
        max_length: 1_000,
        max_length_bytes: 1 << 20,
        message_ttl: seconds(60),
        expires: seconds(3_600),
        max_delivery_attempts: 7,
        single_active_consumer: true,
        retry_policy: Some(pb::RetryPolicy {
            min_backoff: seconds(2),
            max_backoff: seconds(20),
            multiplier: Some(1.5),
            jitter: Some(0.25),
        }),
        ..Default::default()
    };
    let quorum = pb::Queue { name: "quorum".into(), r#type: pb::QueueType::Quorum.into(), ..common.clone() };
    let classic =
        pb::Queue { name: "classic".into(), r#type: pb::QueueType::Classic.into(), max_priority: 5, ..common };
    let stream = pb::Queue {
        name: "stream".into(),
        r#type: pb::QueueType::Stream.into(),
        max_length_bytes: 10 << 20,
        max_age: seconds(3_600),
        stream_max_segment_bytes: 1 << 20,
        ..Default::default()
    };
    let topology = || tenant.client.topology();
    let declare = async |queue: &pb::Queue| {
        let request = pb::DeclareQueueRequest { queue: Some(queue.clone()), validate_only: false };
        topology().declare_queue(request).await.unwrap().into_inner().queue.unwrap()
    };
    for queue in [&quorum, &classic, &stream] {
        assert_eq!(declare(queue).await, *queue);
        let get = pb::GetQueueRequest { name: queue.name.clone() };
        assert_eq!(topology().get_queue(get).await.unwrap().into_inner().queue.unwrap(), *queue);
    }
    let listed = until("the queues are listed", async || {
        let entries = topology().list_queues(pb::ListQueuesRequest::default()).await.unwrap().into_inner().queues;
        (entries.len() == 3).then_some(entries)
    })
    .await;
    for entry in listed {
        let queue = entry.queue.unwrap();
        assert!([&quorum, &classic, &stream].contains(&&queue), "{queue:?}");
        assert_eq!(declare(&queue).await, queue);
    }

    let exchanges = [
        pb::Exchange { name: "rest".into(), r#type: ExchangeType::Fanout.into(), ..Default::default() },
        pb::Exchange {
            name: "topics".into(),
            r#type: ExchangeType::Topic.into(),
            internal: true,
            alternate_exchange: "rest".into(),
            ..Default::default()
        },
        pb::Exchange {
            name: "short-lived".into(),
            r#type: ExchangeType::Headers.into(),
            auto_delete: true,
            ..Default::default()
        },
    ];
    let declare = async |exchange: &pb::Exchange| {
        let request = pb::DeclareExchangeRequest { exchange: Some(exchange.clone()), validate_only: false };
        topology().declare_exchange(request).await.unwrap().into_inner().exchange.unwrap()
    };
    for exchange in &exchanges {
        assert_eq!(declare(exchange).await, *exchange);
        let get = pb::GetExchangeRequest { name: exchange.name.clone() };
        assert_eq!(topology().get_exchange(get).await.unwrap().into_inner().exchange.unwrap(), *exchange);
    }
    let listed = until("the exchanges are listed", async || {
        let all = topology().list_exchanges(pb::ListExchangesRequest::default()).await.unwrap().into_inner().exchanges;
        let own: Vec<_> = all.into_iter().filter(|exchange| !exchange.name.starts_with("amq.")).collect();
        (own.len() == exchanges.len()).then_some(own)
    })
    .await;
    for exchange in &listed {
        assert!(exchanges.contains(exchange), "{exchange:?}");
        assert_eq!(declare(exchange).await, *exchange);
    }
}

#[tokio::test]
async fn headers_of_a_binding_over_4_kib_are_refused() {
    let tenant = Tenant::fresh().await;
    tenant.exchange("by-headers", ExchangeType::Headers).await;
    tenant.queue("q").await;
    for (length, fits) in [(4_000, true), (4_200, false)] {
        let binding = Some(bind_headers("q", HeadersMatch::All, [("large", text("x".repeat(length)))]));
        let bound = tenant.client.topology().bind(pb::BindRequest { binding }).await;
        match fits {
            true => drop(bound.unwrap()),
            false => assert_eq!(field(&bound.expect_err("too large")), "binding.headers"),
        }
    }
}

#[tokio::test]
async fn a_topic_pattern_that_the_broker_does_not_allow_is_an_invalid_argument() {
    let tenant = Tenant::fresh().await;
    tenant.exchange("topics", ExchangeType::Topic).await;
    tenant.queue("q").await;
    let binding = |routing_key: &str| pb::BindRequest {
        binding: Some(pb::Binding {
            source: "topics".into(),
            destination: "q".into(),
            routing_key: routing_key.into(),
            ..pb::Binding::default()
        }),
    };
    tenant.client.topology().bind(binding("#.a.#")).await.expect("two wildcards are allowed everywhere");
    // From 4.3.5 on, RabbitMQ allows two; before, any number.
    match tenant.client.topology().bind(binding("#.a.#.b.#")).await {
        Ok(_) => assert_eq!(publish_keys(&tenant, "topics", &["a.b"]).await, [Outcome::Confirmed]),
        Err(status) => {
            assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_ARGUMENT"));
            assert!(status.message().contains("wildcards"), "{status}");
        }
    }
}

#[tokio::test]
async fn an_exchange_routes_to_another_until_unbound() {
    let tenant = Tenant::fresh().await;
    tenant.exchange("in", ExchangeType::Topic).await;
    let inner = pb::Exchange {
        name: "inner".into(),
        r#type: ExchangeType::Direct.into(),
        internal: true,
        ..pb::Exchange::default()
    };
    tenant.exchange_of(inner).await;
    tenant.queue("orders").await;
    tenant.bind("inner", "orders", "order.new").await;
    let binding = pb::Binding {
        source: "in".into(),
        destination: "inner".into(),
        destination_type: DestinationType::Exchange.into(),
        routing_key: "order.*".into(),
        ..pb::Binding::default()
    };
    tenant.client.topology().bind(pb::BindRequest { binding: Some(binding.clone()) }).await.unwrap();
    let outcomes = publish_keys(&tenant, "in", &["order.new", "order.old", "other"]).await;
    assert_eq!(outcomes, [Outcome::Confirmed, Outcome::Unroutable, Outcome::Unroutable]);
    tenant.holds("orders", &["order.new"]).await;
    tenant.client.topology().unbind(pb::UnbindRequest { binding: Some(binding) }).await.unwrap();
    assert_eq!(publish_keys(&tenant, "in", &["order.new"]).await, [Outcome::Unroutable]);
}

#[tokio::test]
async fn an_alternate_exchange_gets_what_cannot_be_routed() {
    let tenant = Tenant::fresh().await;
    tenant.exchange("unsorted", ExchangeType::Fanout).await;
    let sorted = pb::Exchange {
        name: "sorted".into(),
        r#type: ExchangeType::Direct.into(),
        alternate_exchange: "unsorted".into(),
        ..pb::Exchange::default()
    };
    tenant.exchange_of(sorted).await;
    tenant.queue("known").await;
    tenant.bind("sorted", "known", "known").await;
    tenant.queue("rest").await;
    assert_eq!(publish_keys(&tenant, "sorted", &["strange"]).await, [Outcome::Unroutable]);
    tenant.bind("unsorted", "rest", "").await;
    assert_eq!(publish_keys(&tenant, "sorted", &["known", "strange"]).await, [Outcome::Confirmed; 2]);
    tenant.holds("known", &["known"]).await;
    tenant.holds("rest", &["strange"]).await;
}

#[tokio::test]
async fn a_message_that_may_be_lost_is_confirmed_without_a_route() {
    let tenant = Tenant::fresh().await;
    let mut publication = to_exchange("", "no-such-queue", "x");
    assert_eq!(tenant.outcomes(vec![publication.clone()]).await, [Outcome::Unroutable]);
    publication.allow_unroutable = true;
    assert_eq!(tenant.outcomes(vec![publication]).await, [Outcome::Confirmed]);
}
