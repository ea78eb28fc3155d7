//! The library against a gateway of its own (`warrengate` in PATH, or WARRENGATE_BINARY):
//! `cargo test -p warrengate-client --all-features --test stack`.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry::{
    Context, global,
    trace::{SpanKind, TraceContextExt as _},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use warrengate_client::{
    Client, ClientOptions, Credentials, Outcome, SubscribeOptions, pb, publication, testing::TestTenant,
};

const LIMIT: Duration = Duration::from_secs(30);

async fn queue(client: &Client, name: &str) {
    client.declare_queue(pb::Queue { name: name.into(), ..Default::default() }).await.expect("a queue");
}

/// Keeps the spans that have ended.
#[derive(Debug, Clone, Default)]
struct Spans(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Spans {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().expect("no panic").push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[tokio::test]
async fn the_span_of_a_handler_has_the_producers_span_as_parent_and_link() {
    let spans = Spans::default();
    global::set_tracer_provider(SdkTracerProvider::builder().with_span_processor(spans.clone()).build());
    let tenant = TestTenant::create().await;
    let client = tenant.connect().await;
    queue(&client, "traced").await;
    client.publisher().publish(publication("", "traced", "hello")).await.expect("confirmed");
    let (handled, mut current) = tokio::sync::mpsc::channel(1);
    let consumer = client.consume(SubscribeOptions::queue("traced"), move |_| {
        let handled = handled.clone();
        async move {
            handled.send(Context::current().span().span_context().clone()).await?;
            Ok(())
        }
    });
    let consumer = consumer.await.expect("a consumer");
    let current = tokio::time::timeout(LIMIT, current.recv()).await.expect("in time").expect("a message");
    consumer.close(LIMIT).await.expect("closed");
    let spans = spans.0.lock().expect("no panic").clone();
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name}: {spans:?}"));
    let (published, processed) = (named("publish traced"), named("process traced"));
    assert_eq!((&published.span_kind, &processed.span_kind), (&SpanKind::Producer, &SpanKind::Consumer));
    assert_eq!(processed.parent_span_id, published.span_context.span_id());
    assert_eq!(processed.links.links[0].span_context.span_id(), published.span_context.span_id());
    assert_eq!(current.span_id(), processed.span_context.span_id(), "it is the current span of the handler");
}

#[tokio::test]
async fn each_test_has_a_tenant_of_its_own() {
    let (one, other) = (TestTenant::create().await, TestTenant::create().await);
    assert_ne!(one.name(), other.name());
    assert_eq!(one.connect().await.whoami().await.expect("an answer").tenant, one.name());
    queue(&one.connect().await, "mine").await;
    let listed = other.connect().await.topology().list_queues(pb::ListQueuesRequest::default()).await;
    assert!(listed.expect("a list").into_inner().queues.is_empty());
    assert!(one.env().iter().any(|(name, _)| *name == "WARRENGATE_CLIENT_SECRET"));
}

#[tokio::test]
async fn requests_are_answered_and_unroutable_messages_are_typed_errors() {
    let tenant = TestTenant::create().await;
    let client = tenant.connect().await;
    queue(&client, "requests").await;
    let upper = async |request: warrengate_client::Delivery| {
        let body = String::from_utf8_lossy(request.body()).to_uppercase();
        Ok(pb::Message { body: body.into(), ..Default::default() })
    };
    let _responder = client.respond("requests", upper).await.expect("a responder");
    let request = pb::Message { body: "hello".into(), ..Default::default() };
    let reply = client.request("requests", request, LIMIT).await.expect("a reply");
    assert_eq!(reply.body, "HELLO");
    let error = client.publisher().publish(publication("", "nowhere", "x")).await.expect_err("no queue");
    assert_eq!((error.outcome(), error.reason()), (Some(Outcome::Unroutable), "NO_ROUTE"));
    let error = client.request("requests-without-a-queue", pb::Message::default(), LIMIT).await.expect_err("no queue");
    assert_eq!(error.reason(), "NO_ROUTE");
    client.close(LIMIT).await;
}

#[tokio::test]
async fn batches_tokens_and_calls_use_the_clients_identity() {
    let tenant = TestTenant::create().await;
    let client = tenant.connect().await;
    queue(&client, "batch").await;
    let results = client.publish_batch(vec![publication("", "batch", "1"), publication("", "batch", "2")]).await;
    assert!(results.expect("outcomes").iter().all(|result| result.outcome() == pb::Outcome::Confirmed));
    let request = pb::PurgeQueueRequest { name: "batch".into() };
    let purged = client.call(|client| {
        let request = request.clone();
        async move { client.topology().purge_queue(request).await }
    });
    assert_eq!(purged.await.expect("purged").messages_purged, 2);

    // A token of the application is used as it is, and cannot be renewed.
    let token = client.token().await.expect("a token").expect("a token");
    let options = tenant.options();
    let with_token = Client::connect(options.with_credentials(Credentials::Token(token.secret().clone()))).await;
    let with_token = with_token.expect("connected");
    assert_eq!(with_token.whoami().await.expect("an answer").tenant, tenant.name());
    with_token.set_token("not.a.token".into()).expect("a form");
    let error = with_token.whoami().await.expect_err("refused");
    assert_eq!(error.code(), Some(tonic::Code::Unauthenticated), "{error}");
    let nobody = ClientOptions::new("https://127.0.0.1:1", Credentials::Anonymous).connect_once();
    let error = Client::connect(nobody).await.expect_err("nothing listens");
    assert_eq!((error.reason(), error.is_retryable()), ("GATEWAY_UNREACHABLE", true));
}
