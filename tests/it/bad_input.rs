//! Invalid requests: each is refused with an error that names the field, and has no effect on others.

use bytes::Bytes;
use tonic::{Code, Status};
use warrengate::pb::{
    self, Outcome, publish_request::Frame as PublishFrame, subscribe_request::Frame, subscribe_response::Event,
    value::Kind,
};

use crate::harness::{
    Tenant,
    bytes_codec::{self, call},
    raw::{RawPublish, RawSubscribe, field, reason, start},
    to_queue,
};

/// Another stream of the same tenant, which must keep working throughout.
struct Bystander {
    publisher: RawPublish,
    subscriber: RawSubscribe,
    seen: u64,
}

impl Bystander {
    async fn of(tenant: &Tenant) -> Self {
        tenant.queue("other").await;
        let publisher = RawPublish::open(&tenant.client).await.unwrap();
        let subscriber = RawSubscribe::started(&tenant.client, "other").await;
        Self { publisher, subscriber, seen: 0 }
    }

    /// Sends another message in each direction on the streams opened before.
    async fn still_works(&mut self) {
        let result = self.publisher.publish(to_queue("other", "still here")).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Confirmed, "{result:?}");
        let delivery = self.subscriber.delivery().await;
        self.seen += 1;
        assert_eq!((delivery.delivery_id, delivery.redelivered), (self.seen, false));
        self.subscriber.ack(vec![delivery.delivery_id], 0).await;
    }
}

fn assert_invalid(status: &Status, named: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(field(status), named, "{status:?}");
    assert!(status.message().starts_with(named), "{status:?}");
}

/// Field `number` with these bytes, as protobuf writes it.
fn tagged(number: u8, bytes: &[u8]) -> Vec<u8> {
    assert!(number < 16 && bytes.len() < 128);
    [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

#[tokio::test]
async fn malformed_protobuf_and_invalid_utf8_are_invalid_arguments() {
    let tenant = Tenant::fresh().await;
    let mut bystander = Bystander::of(&tenant).await;
    let not_utf8 = tagged(1, &tagged(1, b"jobs\xff\xfe"));
    let cut_short = vec![0x0a, 0x7f, 0x01];
    let endless = vec![0xff; 64];
    let deep = vec![0x0b; 4_000];
    for (what, body) in
        [("not UTF-8", &not_utf8), ("cut short", &cut_short), ("an unterminated varint", &endless), ("deep", &deep)]
    {
        for method in ["warrengate.v1.Topology/DeclareQueue", "warrengate.v1.Messaging/PublishBatch"] {
            let status = call(&tenant, method, body.clone().into()).await.expect_err(what);
            assert_eq!(status.code(), Code::InvalidArgument, "{what}, {method}: {status:?}");
            assert_eq!(reason(&status), "MALFORMED_REQUEST", "{what}, {method}: {status:?}");
        }
    }
    let status = call(&tenant, "warrengate.v1.Topology/DeclareQueue", not_utf8.into()).await.expect_err("not UTF-8");
    assert_invalid(&status, "queue.name");

    // On a stream, the invalid frame ends that stream.
    for method in ["Publish", "Subscribe"] {
        let mut stream = bytes_codec::stream(&tenant, method, vec![Bytes::from_static(b"\xff\xff\xff")]).await;
        let status = bytes_codec::end(&mut stream).await;
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "MALFORMED_FRAME"), "{status:?}");
    }
    bystander.still_works().await;
}

#[tokio::test]
async fn oversized_fields_are_refused_by_name_and_the_stream_continues() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let mut bystander = Bystander::of(&tenant).await;
    let mut publisher = RawPublish::open(&tenant.client).await.unwrap();

    let large = to_queue("jobs", vec![7; 5 << 20]);
    let result = publisher.publish(large.clone()).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Rejected);
    assert!(result.reason.starts_with("MESSAGE_TOO_LARGE: message.body:"), "{result:?}");
    let result = tenant.client.publish_batch(vec![large]).await.unwrap().remove(0);
    assert!(result.reason.starts_with("MESSAGE_TOO_LARGE: message.body:"), "{result:?}");
    // A message so large that the whole frame is refused.
    let status = tenant.client.publish_batch(vec![to_queue("jobs", vec![7; 9 << 20])]).await.expect_err("too large");
    assert_eq!(status.code(), Some(Code::InvalidArgument), "{status:?}");
    bystander.still_works().await;

    let header = |n: usize| (format!("header-{n}"), pb::Value { kind: Some(Kind::IntValue(1)) });
    let mut wrong = vec![
        ("routing_key", pb::Publication { exchange: "amq.topic".into(), ..to_queue(&"k".repeat(256), "") }),
        ("exchange", pb::Publication { exchange: "x".repeat(300), ..to_queue("jobs", "") }),
    ];
    let mut with = |named, change: &dyn Fn(&mut pb::Message)| {
        let mut publication = to_queue("jobs", "");
        change(publication.message.as_mut().unwrap());
        wrong.push((named, publication));
    };
    with("message.headers", &|message| message.headers = (0..10_000).map(header).collect());
    with("message.headers", &|message| {
        message.headers = [("n".repeat(256), pb::Value { kind: Some(Kind::BoolValue(true)) })].into();
    });
    with("message.headers", &|message| message.headers = [("none".to_owned(), pb::Value { kind: None })].into());
    with("message.headers", &|message| {
        let mut value = pb::Value { kind: Some(Kind::IntValue(1)) };
        for _ in 0..20 {
            value = pb::Value { kind: Some(Kind::ListValue(pb::ValueList { values: vec![value] })) };
        }
        message.headers = [("deep".to_owned(), value)].into();
    });
    with("message.headers", &|message| {
        message.headers = [("CC".to_owned(), pb::Value { kind: Some(Kind::StringValue("other".into())) })].into();
    });
    with("message.message_id", &|message| message.message_id = "i".repeat(256));
    with("message.content_type", &|message| message.content_type = "c".repeat(256));
    with("message.priority", &|message| message.priority = 256);
    with("message.ttl", &|message| message.ttl = Some(prost_types::Duration { seconds: -1, nanos: 0 }));
    with("message.ttl", &|message| message.ttl = Some(prost_types::Duration { seconds: i64::MAX, nanos: 0 }));
    for (named, publication) in wrong {
        let result = publisher.publish(publication).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Rejected, "{named}: {result:?}");
        assert!(result.reason.contains(named), "{named}: {}", result.reason);
        bystander.still_works().await;
    }
    let good = publisher.publish(to_queue("jobs", "fine")).await.unwrap();
    assert_eq!(good.outcome(), Outcome::Confirmed, "the stream with the refusals continues");
    assert_eq!(tenant.take("jobs", 1).await, ["fine"], "and none of them arrived");
}

#[tokio::test]
async fn names_out_of_bounds_are_refused_by_field() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let mut bystander = Bystander::of(&tenant).await;
    let mut topology = tenant.client.topology();
    for name in ["q".repeat(300), String::new(), "with space".into(), "new\nline".into(), "ü".into(), "wg.own".into()]
    {
        let queue = Some(pb::Queue { name: name.clone(), ..pb::Queue::default() });
        let declare = pb::DeclareQueueRequest { queue, validate_only: false };
        assert_invalid(&topology.declare_queue(declare).await.expect_err("an invalid name"), "queue.name");
        assert_invalid(
            &topology.get_queue(pb::GetQueueRequest { name: name.clone() }).await.expect_err("wrong"),
            "name",
        );
        let binding = pb::Binding { source: name, destination: "jobs".into(), ..pb::Binding::default() };
        assert_invalid(
            &topology.bind(pb::BindRequest { binding: Some(binding) }).await.expect_err("wrong"),
            "binding.source",
        );
    }
    let binding = pb::Binding {
        source: "amq.topic".into(),
        destination: "jobs".into(),
        routing_key: "k".repeat(256),
        ..pb::Binding::default()
    };
    let status = topology.bind(pb::BindRequest { binding: Some(binding) }).await.expect_err("wrong");
    assert_invalid(&status, "binding.routing_key");
    let missing = topology.declare_queue(pb::DeclareQueueRequest::default()).await.expect_err("nothing");
    assert_invalid(&missing, "queue");
    let list = pb::ListQueuesRequest { page_size: -1, ..pb::ListQueuesRequest::default() };
    assert_invalid(&topology.list_queues(list).await.expect_err("wrong"), "page_size");
    let list = pb::ListQueuesRequest { page_token: "?".into(), ..pb::ListQueuesRequest::default() };
    assert_invalid(&topology.list_queues(list).await.expect_err("wrong"), "page_token");
    bystander.still_works().await;
}

#[tokio::test]
async fn frames_out_of_order_end_only_their_stream() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let mut bystander = Bystander::of(&tenant).await;
    let ack = || Frame::Ack(pb::Ack { delivery_ids: vec![1], through: 0 });

    let before_start = RawSubscribe::open(&tenant.client).await.unwrap();
    before_start.send(ack()).await;
    let twice = RawSubscribe::started(&tenant.client, "jobs").await;
    twice.send(Frame::Start(start("jobs"))).await;
    let mut nothing = RawSubscribe::open(&tenant.client).await.unwrap();
    nothing.finish();
    for mut stream in [before_start, twice, nothing] {
        let (status, _) = stream.end().await;
        assert_invalid(&status, "frame");
        assert_eq!(reason(&status), "FRAME_ORDER");
    }
    let empty = RawSubscribe::started(&tenant.client, "jobs").await;
    empty.send_empty().await;
    let first = RawSubscribe::open(&tenant.client).await.unwrap();
    first.send_empty().await;
    for mut stream in [empty, first] {
        assert_invalid(&stream.end().await.0, "frame");
    }
    let mut publisher = RawPublish::open(&tenant.client).await.unwrap();
    publisher.send_empty().await;
    assert_invalid(&publisher.end().await.0, "frame");
    for count in [0, 1_001] {
        let publications = vec![to_queue("jobs", ""); count];
        let mut publisher = RawPublish::open(&tenant.client).await.unwrap();
        publisher.send(PublishFrame::Publications(pb::Publications { publications: publications.clone() })).await;
        assert_invalid(&publisher.end().await.0, "publications");
        let batch = pb::PublishBatchRequest { publications };
        assert_invalid(&tenant.client.raw_messaging().publish_batch(batch).await.expect_err("wrong"), "publications");
    }
    bystander.still_works().await;
}

#[tokio::test]
async fn windows_leases_and_positions_out_of_bounds_are_refused_by_field() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let mut bystander = Bystander::of(&tenant).await;
    let lease = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    let absurd = [
        ("start.queue", start("")),
        ("start.queue", start("wg.dead-letters")),
        ("start.max_outstanding_messages", pb::SubscribeStart { max_outstanding_messages: 10_001, ..start("jobs") }),
        ("start.max_outstanding_messages", pb::SubscribeStart { max_outstanding_messages: u32::MAX, ..start("jobs") }),
        ("start.max_outstanding_bytes", pb::SubscribeStart { max_outstanding_bytes: u64::MAX, ..start("jobs") }),
        ("start.priority", pb::SubscribeStart { priority: i32::MIN, ..start("jobs") }),
        ("start.ack_deadline", pb::SubscribeStart { ack_deadline: lease(0, 0), ..start("jobs") }),
        ("start.ack_deadline", pb::SubscribeStart { ack_deadline: lease(-5, 0), ..start("jobs") }),
        ("start.ack_deadline", pb::SubscribeStart { ack_deadline: lease(i64::MAX, i32::MAX), ..start("jobs") }),
        (
            "start.position",
            pb::SubscribeStart { position: Some(pb::StreamPosition { position: None }), ..start("jobs") },
        ),
    ];
    for (named, start) in absurd {
        let mut stream = RawSubscribe::open(&tenant.client).await.unwrap();
        stream.send(Frame::Start(start)).await;
        assert_invalid(&stream.end().await.0, named);
    }
    let nack = pb::Nack { delivery_ids: vec![1], ..pb::Nack::default() };
    let too_many = (0..10_001).collect::<Vec<_>>();
    let frames = [
        ("nack.action", Frame::Nack(nack.clone())),
        ("nack.action", Frame::Nack(pb::Nack { action: 77, ..nack.clone() })),
        ("nack.reason", Frame::Nack(pb::Nack { action: 1, reason: "r".repeat(1_025), ..nack })),
        ("ack.delivery_ids", Frame::Ack(pb::Ack { delivery_ids: too_many.clone(), through: 0 })),
        (
            "extend_lease.ack_deadline",
            Frame::ExtendLease(pb::ExtendLease { delivery_ids: vec![1], ack_deadline: lease(1, 0) }),
        ),
        (
            "extend_lease.delivery_ids",
            Frame::ExtendLease(pb::ExtendLease { delivery_ids: too_many, ack_deadline: None }),
        ),
    ];
    for (named, frame) in frames {
        let mut stream = RawSubscribe::started(&tenant.client, "jobs").await;
        stream.send(frame).await;
        assert_invalid(&stream.end().await.0, named);
    }
    bystander.still_works().await;
}

#[tokio::test]
async fn settling_an_unknown_delivery_is_reported_and_has_no_effect() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let mut stream = RawSubscribe::started(&tenant.client, "jobs").await;
    let ids = vec![7, 0, u64::MAX];
    let nack = pb::Nack { delivery_ids: ids.clone(), action: pb::NackAction::Drop.into(), ..pb::Nack::default() };
    for frame in [
        Frame::Ack(pb::Ack { delivery_ids: ids.clone(), through: 0 }),
        Frame::Nack(nack),
        Frame::ExtendLease(pb::ExtendLease { delivery_ids: ids.clone(), ack_deadline: None }),
    ] {
        stream.send(frame).await;
        match stream.event().await.unwrap() {
            Some(Event::Settled(settled)) => assert_eq!(settled.unknown_delivery_ids, ids),
            other => panic!("{other:?}"),
        }
    }
    stream.ack(Vec::new(), 99).await;
    match stream.event().await.unwrap() {
        Some(Event::Settled(settled)) => assert_eq!(settled.unknown_delivery_ids, [99]),
        other => panic!("{other:?}"),
    }
    tenant.publish_to("jobs", "one").await;
    assert_eq!(stream.delivery().await.message.unwrap().body, "one");
}
