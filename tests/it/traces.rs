//! One message, one trace: the exact spans of each path of a message, as a collector receives them.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tonic_types::StatusExt as _;
use warrengate::pb::{self, NackAction, Outcome};

use crate::harness::{
    SharedStack, Tenant,
    collector::Span,
    consumer::{RawSubscription, start},
    dead_letters::all,
    plans::OwnPlan,
    tenant::all_grants,
    to_queue,
    traced::{Context, Traced, header, traced, with_header},
    wait::{until, within},
};

/// Publishes on a stream, where a message belongs to its own trace and not to that of the call.
async fn publish(tenant: &Tenant, publication: pb::Publication) -> pb::PublishResult {
    let publisher = tenant.client.publisher();
    let receipt = publisher.send(publication).await.unwrap();
    let result = within("an outcome", receipt).await;
    publisher.close().await.unwrap();
    result
}

fn only<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {spans:#?}");
    found[0]
}

/// Checks the attributes that each span of a tenant's message has.
fn is_about(span: &Span, tenant: &Tenant, operation: &str, kind: &str, destination: &str, message_id: &str) {
    for (name, value) in [
        ("messaging.system", "rabbitmq"),
        ("messaging.operation.name", operation),
        ("messaging.operation.type", kind),
        ("messaging.destination.name", destination),
        ("messaging.message.id", message_id),
        ("warrengate.tenant", &tenant.id),
        ("warrengate.client", &tenant.client_id),
    ] {
        assert_eq!(span.attribute(name), value, "{name} of {span:#?}");
    }
    assert!(!format!("{span:?}").contains("secret-body"), "{span:#?}");
}

#[tokio::test]
async fn a_message_is_one_trace_from_its_caller_to_its_acknowledgement() {
    let traced_gateway = Traced::start().await;
    let tenant = &traced_gateway.tenant;
    tenant.queue("jobs").await;
    let caller = Context::new();
    let mut publication = traced("jobs", &caller.traceparent());
    with_header(&mut publication, "tracestate", "vendor=1");
    with_header(&mut publication, "baggage", "user=alice");
    with_header(&mut publication, "Baggage", "user=alice");
    let result = publish(tenant, publication).await;
    assert_eq!((result.outcome(), result.trace_id.as_str()), (Outcome::Confirmed, caller.trace.as_str()));

    let mut subscription = RawSubscription::open(&tenant.client, start("jobs")).await;
    let delivery = subscription.one().await;
    let message = delivery.message.clone().unwrap();
    subscription.ack(&[delivery.delivery_id]).await;
    subscription.close().await;

    let spans = traced_gateway.collector.trace(&caller.trace, 3).await;
    let (send, deliver, ack) = (only(&spans, "send jobs"), only(&spans, "deliver jobs"), only(&spans, "ack jobs"));
    assert_eq!((send.kind, &send.parent), (SpanKind::Producer, &caller.span));
    assert_eq!(send.events, ["sent to broker", "confirmed"]);
    assert_eq!(send.attribute("warrengate.outcome"), "confirmed");
    assert_eq!(send.attribute("messaging.message.body.size"), "11");
    assert_eq!((deliver.kind, &deliver.parent), (SpanKind::Consumer, &send.id));
    assert_eq!(deliver.links[0], send.id);
    assert_eq!((deliver.attribute("warrengate.attempt"), deliver.attribute("warrengate.settlement")), ("1", "ack"));
    assert_eq!((ack.kind, &ack.parent), (SpanKind::Client, &deliver.id));
    for (span, operation, kind) in [(send, "send", "send"), (deliver, "deliver", "process"), (ack, "ack", "settle")] {
        is_about(span, tenant, operation, kind, "jobs", &result.message_id);
        assert!(!span.failed && span.service == "warrengate", "{span:#?}");
    }
    // The consumer continues the trace from its delivery; baggage does not pass the gateway.
    assert_eq!(header(&message, "traceparent"), format!("00-{}-{}-01", caller.trace, deliver.id));
    assert_eq!(header(&message, "tracestate"), "vendor=1");
    assert!(message.headers.keys().all(|name| !name.eq_ignore_ascii_case("baggage")), "{message:?}");
    assert!(!format!("{spans:?}").contains("alice"), "{spans:?}");

    // Streams have separate spans without children, to which the messages' spans are linked.
    let collector = &traced_gateway.collector;
    let streams = collector.spans("the streams", |span| span.name.starts_with("warrengate.v1.Messaging/"), 2).await;
    let (publishing, subscribing) =
        (only(&streams, "warrengate.v1.Messaging/Publish"), only(&streams, "warrengate.v1.Messaging/Subscribe"));
    assert_eq!((&send.links, &deliver.links[1..]), (&vec![publishing.id.clone()], &[subscribing.id.clone()][..]));
    for stream in [publishing, subscribing] {
        assert_eq!((stream.kind, stream.attribute("rpc.response.status_code")), (SpanKind::Server, "OK"));
        assert!(collector.received().iter().all(|span| span.parent != stream.id));
    }
}

#[tokio::test]
async fn two_retries_and_an_acknowledgement_are_three_deliveries_of_one_trace() {
    let traced_gateway = Traced::start().await;
    let tenant = &traced_gateway.tenant;
    tenant.queue("jobs").await;
    let result = publish(tenant, to_queue("jobs", "secret-body")).await;
    assert_eq!(result.trace_id.len(), 32, "the gateway starts the trace and reports its id");
    let mut subscription = RawSubscription::open(&tenant.client, start("jobs")).await;
    for attempt in 1..=3 {
        let delivery = subscription.one().await;
        assert_eq!(delivery.attempt, attempt);
        match attempt {
            3 => subscription.ack(&[delivery.delivery_id]).await,
            _ => subscription.nack(&[delivery.delivery_id], NackAction::Retry).await,
        }
    }
    subscription.close().await;

    let spans = traced_gateway.collector.trace(&result.trace_id, 7).await;
    let send = only(&spans, "send jobs");
    assert_eq!(send.parent, "");
    let deliveries: Vec<_> = spans.iter().filter(|span| span.name == "deliver jobs").collect();
    let settlements: Vec<_> =
        spans.iter().filter(|span| span.attribute("messaging.operation.type") == "settle").collect();
    assert_eq!((deliveries.len(), settlements.len()), (3, 3));
    for (n, (delivery, settlement)) in deliveries.iter().zip(&settlements).enumerate() {
        assert_eq!(
            (send.kind, delivery.kind, settlement.kind),
            (SpanKind::Producer, SpanKind::Consumer, SpanKind::Client)
        );
        assert_eq!((&delivery.parent, &delivery.links[0], &settlement.parent), (&send.id, &send.id, &delivery.id));
        assert_eq!(delivery.attribute("warrengate.attempt"), (n + 1).to_string());
        let (operation, failed) = if n < 2 { ("retry", true) } else { ("ack", false) };
        assert_eq!((settlement.attribute("messaging.operation.name"), delivery.failed), (operation, failed));
        assert_eq!(settlement.attribute("warrengate.retry_delay_ms").is_empty(), !failed);
        assert!(!settlement.failed, "the settlement reached the broker: {settlement:#?}");
    }
}

#[tokio::test]
async fn a_refusal_is_in_its_trace_with_the_rule() {
    let traced_gateway = Traced::start().await;
    let tenant = &traced_gateway.tenant;
    let grants = pb::Grants {
        publish: vec![pb::PublishGrant { exchange: "amq.default".into(), routing_key: "allowed".into() }],
        ..all_grants()
    };
    let shared = SharedStack::get();
    let (id, secret) = Tenant::add_client(&traced_gateway.admin, &tenant.id, "narrow", grants).await;
    let credentials = warrengate::client::Credentials::Secret { client_id: id.clone(), secret };
    let narrow = shared.client_at(&traced_gateway.endpoint(), credentials).await;

    let mut invalid = to_queue("allowed", "secret-body");
    with_header(&mut invalid, "x-forbidden", "1");
    let cases = [
        (to_queue("forbidden", "secret-body"), Outcome::Denied, "denied", "PUBLISH_NOT_GRANTED"),
        (to_queue("allowed", "secret-body"), Outcome::Unroutable, "unroutable", "NO_ROUTE"),
        (invalid, Outcome::Rejected, "rejected", "INVALID_ARGUMENT"),
    ];
    for (publication, outcome, text, rule) in cases {
        let publisher = narrow.publisher();
        let receipt = publisher.send(publication).await.unwrap();
        let result = within("an outcome", receipt).await;
        publisher.close().await.unwrap();
        assert_eq!(result.outcome(), outcome, "{result:?}");
        let spans = traced_gateway.collector.trace(&result.trace_id, 1).await;
        let span = &spans[0];
        assert_eq!((span.kind, span.failed, span.status.as_str()), (SpanKind::Producer, true, rule), "{span:#?}");
        for (name, value) in [
            ("warrengate.outcome", text),
            ("warrengate.rule", rule),
            ("error.type", rule),
            ("warrengate.client", &id),
            ("warrengate.tenant", &tenant.id),
        ] {
            assert_eq!(span.attribute(name), value, "{name} of {span:#?}");
        }
        assert!(!format!("{span:?}").contains("secret-body"));
    }
}

#[tokio::test]
async fn a_thousand_callers_on_one_stream_are_a_thousand_traces() {
    let traced_gateway = Traced::start().await;
    let tenant = &traced_gateway.tenant;
    tenant.queue("jobs").await;
    let callers: Vec<_> = (0..1_000).map(|_| Context::new()).collect();
    let publisher = tenant.client.publisher();
    let mut receipts = Vec::new();
    for caller in &callers {
        receipts.push(publisher.send(traced("jobs", &caller.traceparent())).await.unwrap());
    }
    for (receipt, caller) in receipts.into_iter().zip(&callers) {
        assert_eq!(within("an outcome", receipt).await.trace_id, caller.trace);
    }
    publisher.close().await.unwrap();
    assert_eq!(tenant.take("jobs", 1_000).await.len(), 1_000);

    let is_message = |span: &Span| span.attribute("messaging.system") == "rabbitmq";
    let spans = traced_gateway.collector.spans("three spans a message", is_message, 3_000).await;
    assert_eq!(spans.len(), 3_000);
    let mut by_trace = std::collections::HashMap::<_, Vec<_>>::new();
    for span in &spans {
        by_trace.entry(&span.trace).or_default().push(span);
    }
    for caller in &callers {
        let spans = &by_trace[&caller.trace];
        let named = |name: &str| *spans.iter().find(|span| span.name == name).expect(name);
        let (send, deliver, ack) = (named("send jobs"), named("deliver jobs"), named("ack jobs"));
        assert_eq!((&send.parent, &deliver.parent, &ack.parent), (&caller.span, &send.id, &deliver.id));
    }
}

#[tokio::test]
async fn a_batch_without_contexts_belongs_to_the_trace_of_its_call() {
    let traced_gateway = Traced::start().await;
    let tenant = &traced_gateway.tenant;
    tenant.queue("jobs").await;
    let caller = Context::new();
    let publications = vec![to_queue("jobs", "one"), to_queue("jobs", "two")];
    let mut request = tonic::Request::new(pb::PublishBatchRequest { publications });
    request.metadata_mut().insert("traceparent", caller.traceparent().parse().unwrap());
    request.metadata_mut().insert("baggage", "user=alice".parse().unwrap());
    let response = within("a batch", tenant.client.raw_messaging().publish_batch(request)).await.unwrap();
    assert_eq!(response.metadata().get("x-trace-id").unwrap().to_str().unwrap(), caller.trace);
    assert!(response.into_inner().results.iter().all(|result| result.trace_id == caller.trace));
    let spans = traced_gateway.collector.trace(&caller.trace, 3).await;
    let call = only(&spans, "warrengate.v1.Messaging/PublishBatch");
    assert_eq!((call.kind, &call.parent), (SpanKind::Server, &caller.span));
    assert!(!call.attribute("network.peer.address").is_empty());
    assert_eq!(call.attribute("warrengate.tenant"), tenant.id);
    assert_eq!(spans.iter().filter(|span| span.name == "send jobs" && span.parent == call.id).count(), 2);
    let mut subscription = RawSubscription::open(&tenant.client, start("jobs")).await;
    let delivery = subscription.one().await;
    assert!(!format!("{delivery:?}{spans:?}").contains("alice"), "the call's baggage does not pass the gateway");
    subscription.close().await;
}

#[tokio::test]
async fn a_context_reaches_the_consumer_without_an_exporter() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    for sampled in [true, false] {
        let caller = Context::new();
        let traceparent = if sampled { caller.traceparent() } else { caller.unsampled() };
        let request = pb::PublishBatchRequest { publications: vec![to_queue("jobs", "one")] };
        let mut request = tonic::Request::new(request);
        request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
        for state in ["a=1,b=2", "c=3"] {
            request.metadata_mut().append("tracestate", state.parse().unwrap());
        }
        request.metadata_mut().insert("baggage", "user=alice".parse().unwrap());
        within("a batch", tenant.client.raw_messaging().publish_batch(request)).await.unwrap();
        let mut subscription = RawSubscription::open(&tenant.client, start("jobs")).await;
        let delivery = subscription.one().await;
        let message = delivery.message.as_ref().unwrap();
        assert_eq!(header(message, "traceparent"), traceparent);
        assert_eq!(header(message, "tracestate"), "a=1,b=2,c=3");
        assert!(!message.headers.contains_key("baggage"));
        subscription.ack(&[delivery.delivery_id]).await;
        subscription.close().await;
    }
}

#[tokio::test]
async fn a_batch_of_one_message_is_sampled_as_often_as_the_ratio_says() {
    const BATCHES: usize = 400;
    let half = Traced::start_with(|traces| traces.sample_ratio = 0.5).await;
    half.tenant.queue("jobs").await;
    let mut sampled = 0;
    for _ in 0..BATCHES {
        let results = half.tenant.client.publish_batch(vec![to_queue("jobs", "one")]).await.unwrap();
        sampled += usize::from(!results[0].trace_id.is_empty());
    }
    // Six standard deviations. Two independent decisions would sample 300.
    assert!((140..=260).contains(&sampled), "{sampled} of {BATCHES}");
}

#[tokio::test]
async fn an_error_contains_its_trace_id_in_its_details() {
    let traced_gateway = Traced::start().await;
    let tenant = &traced_gateway.tenant;
    let request = pb::GetTenantRequest { tenant: "globex".into() };
    let status = tenant.client.admin().get_tenant(request).await.expect_err("not an administrator");
    let details = status.get_error_details();
    let trace = details.request_info().expect("request info").request_id.clone();
    assert_eq!(trace.len(), 32);
    assert_eq!(details.error_info().expect("error info").metadata["trace_id"], trace);
    assert_eq!(status.metadata().get("x-trace-id").unwrap().to_str().unwrap(), trace);
    let spans = traced_gateway.collector.trace(&trace, 1).await;
    let call = only(&spans, "warrengate.v1.Admin/GetTenant");
    assert_eq!(call.attribute("rpc.response.status_code"), "PERMISSION_DENIED");
    assert_eq!((call.failed, call.attribute("warrengate.rule")), (true, details.error_info().unwrap().reason.as_str()));
}

/// The trace id of an error's details, which must equal that of its metadata.
fn trace_in(status: &tonic::Status) -> String {
    let details = status.get_error_details();
    let trace = details.request_info().unwrap_or_else(|| panic!("no trace in {status:?}")).request_id.clone();
    if let Some(info) = details.error_info() {
        assert_eq!(info.metadata["trace_id"], trace, "{status:?}");
    }
    trace
}

#[tokio::test]
async fn every_error_contains_its_trace_id_wherever_it_arises() {
    let traced_gateway = Traced::start().await;
    let tenant = &traced_gateway.tenant;
    let caller = Context::new();
    // Before the caller is authenticated.
    let shared = SharedStack::get();
    let channel = tonic::transport::Endpoint::from_shared(traced_gateway.endpoint()).unwrap();
    let ca = tonic::transport::Certificate::from_pem(shared.ca());
    let tls = tonic::transport::ClientTlsConfig::new().ca_certificate(ca);
    let channel = channel.tls_config(tls).unwrap().connect().await.unwrap();
    let mut request = tonic::Request::new(pb::ListQueuesRequest::default());
    request.metadata_mut().insert("traceparent", caller.traceparent().parse().unwrap());
    let mut anonymous = pb::topology_client::TopologyClient::new(channel.clone());
    assert_eq!(trace_in(&anonymous.list_queues(request).await.expect_err("no token")), caller.trace);
    // An unknown service, for which the gRPC library returns the status.
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/no.such.Service/Method");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let mut request = tonic::Request::new(());
    let token = tenant.client.token().await.unwrap().unwrap();
    let token = format!("Bearer {}", secrecy::ExposeSecret::expose_secret(token.secret()));
    request.metadata_mut().insert("authorization", token.parse().unwrap());
    let status = grpc.unary(request, path, codec).await.expect_err("no such service");
    assert_eq!((status.code(), trace_in(&status).len()), (tonic::Code::Unimplemented, 32));
    // By an invalid name, a missing queue, a frame that is too large, and at the end of a stream.
    let mut topology = tenant.client.topology();
    let bad = topology.get_queue(pb::GetQueueRequest { name: "wg.x".into() }).await.expect_err("no name");
    let none = topology.get_queue(pb::GetQueueRequest { name: "none".into() }).await.expect_err("no queue");
    let publications = vec![to_queue("jobs", vec![7; 9 << 20])];
    let batch = pb::PublishBatchRequest { publications };
    let large = tenant.client.raw_messaging().publish_batch(batch).await.expect_err("too large");
    let mut subscribe = crate::harness::raw::RawSubscribe::open(&tenant.client).await.unwrap();
    subscribe.send(pb::subscribe_request::Frame::Start(crate::harness::raw::start("none"))).await;
    let (ended, _) = subscribe.end().await;
    for status in [bad, none, large, ended] {
        assert_eq!(trace_in(&status).len(), 32, "{status:?}");
    }
}

#[tokio::test]
async fn an_unsampled_context_creates_no_span_and_is_passed_on() {
    let traced_gateway = Traced::start().await;
    let tenant = &traced_gateway.tenant;
    tenant.queue("jobs").await;
    let caller = Context::new();
    let result = publish(tenant, traced("jobs", &caller.unsampled())).await;
    assert_eq!(result.trace_id, "");
    let mut subscription = RawSubscription::open(&tenant.client, start("jobs")).await;
    let delivery = subscription.one().await;
    assert_eq!(header(delivery.message.as_ref().unwrap(), "traceparent"), caller.unsampled());
    subscription.ack(&[delivery.delivery_id]).await;
    subscription.close().await;
    // The exporter sends this trace after the others, so they would have arrived.
    let later = publish(tenant, to_queue("jobs", "kept")).await;
    traced_gateway.collector.is_quiet_after(async { later.trace_id }).await;
    assert!(traced_gateway.collector.received().iter().all(|span| span.trace != caller.trace));
}

#[tokio::test]
async fn a_tenant_can_have_its_own_sample_ratio() {
    let quiet = Traced::start_with(|traces| traces.sample_ratio = 0.0).await;
    quiet.tenant.queue("jobs").await;
    let result = publish(&quiet.tenant, to_queue("jobs", "one")).await;
    assert_eq!((result.outcome(), result.trace_id.as_str()), (Outcome::Confirmed, ""));
    let delivered = quiet.tenant.take("jobs", 1).await;
    assert_eq!(delivered, ["one"]);
    assert!(quiet.collector.received().is_empty());
    // A ratio for one tenant has no effect on others.
    let id = warrengate::names::TenantId::parse(&quiet.tenant.id).unwrap();
    let loud = Traced::start_as(&quiet.tenant, |traces| {
        traces.sample_ratio = 0.0;
        traces.tenant_sample_ratios.insert(id, 1.0);
    })
    .await;
    let result = publish(&loud.tenant, to_queue("jobs", "two")).await;
    assert_eq!(loud.collector.trace(&result.trace_id, 1).await[0].attribute("warrengate.tenant"), quiet.tenant.id);
}

#[tokio::test]
async fn a_throttled_message_is_in_its_trace() {
    let traced_gateway = Traced::start().await;
    let tenant = &traced_gateway.tenant;
    tenant.queue("jobs").await;
    let plan = OwnPlan::of(pb::Plan { max_publish_messages_per_second: 1, ..Default::default() }).await;
    plan.give(tenant).await;
    let throttled = until("a throttled message", async || {
        let batch = vec![to_queue("jobs", "secret-body"); 20];
        let results = tenant.client.publish_batch(batch).await.ok()?;
        results.into_iter().find(|result| result.outcome() == Outcome::Throttled)
    })
    .await;
    let of_it = |span: &Span| span.trace == throttled.trace_id && span.attribute("warrengate.outcome") == "throttled";
    let spans = traced_gateway.collector.spans("a throttled message's span", of_it, 1).await;
    let rule = throttled.reason.split(':').next().unwrap();
    assert_eq!((spans[0].kind, spans[0].failed, spans[0].status.as_str()), (SpanKind::Producer, true, rule));
    assert_eq!(spans[0].attribute("warrengate.rule"), rule);
}

#[tokio::test]
async fn the_trace_of_a_dead_letter_contains_the_reason_and_its_redrive() {
    let traced_gateway = Traced::start().await;
    let tenant = &traced_gateway.tenant;
    tenant.queue("jobs").await;
    let result = publish(tenant, to_queue("jobs", "secret-body")).await;
    let mut subscription = RawSubscription::open(&tenant.client, start("jobs")).await;
    let delivery = subscription.one().await;
    let (delivery_ids, action) = (vec![delivery.delivery_id], NackAction::DeadLetter.into());
    let nack = pb::Nack { delivery_ids, action, reason: "no such customer".into(), ..pb::Nack::default() };
    subscription.send(pb::subscribe_request::Frame::Nack(nack)).await;
    subscription.close().await;
    let spans = traced_gateway.collector.trace(&result.trace_id, 3).await;
    let (deliver, dead) = (only(&spans, "deliver jobs"), only(&spans, "dead-letter jobs"));
    assert_eq!(
        (&dead.parent, dead.kind, dead.attribute("messaging.operation.type")),
        (&deliver.id, SpanKind::Client, "settle")
    );
    assert_eq!((deliver.failed, deliver.status.as_str(), dead.failed), (true, "DEAD_LETTERED", false));
    for span in [deliver, dead] {
        assert_eq!(span.attribute("warrengate.reason"), "no such customer");
        assert_eq!(span.attribute("warrengate.dead_letter_reason"), "rejected");
    }
    assert_eq!(tenant.has_dead_letters(1).await.len(), 1);
    assert_eq!(tenant.redrive(all()).await.redriven, 1);
    assert_eq!(tenant.take("jobs", 1).await, ["secret-body"]);
    let spans = traced_gateway.collector.trace(&result.trace_id, 6).await;
    let (send, redrive) = (only(&spans, "send jobs"), only(&spans, "redrive jobs"));
    let is_call = |span: &Span| span.name == "warrengate.v1.Topology/RedriveDeadLetters";
    let call = traced_gateway.collector.spans("the redrive's call", is_call, 1).await.remove(0);
    assert_eq!((&redrive.parent, redrive.kind), (&send.id, SpanKind::Producer));
    assert_eq!(redrive.links, [send.id.clone(), call.id]);
    assert_eq!(redrive.attribute("warrengate.outcome"), "confirmed");
    let again = spans.iter().rfind(|span| span.name == "deliver jobs").unwrap();
    assert_eq!((&again.parent, again.attribute("warrengate.attempt")), (&send.id, "1"));
    assert_eq!(only(&spans, "ack jobs").parent, again.id);
}
