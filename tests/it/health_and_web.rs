//! Endpoints other than the API: health, reflection, gRPC-Web, probes and metrics.

use prost::Message as _;
use secrecy::ExposeSecret as _;
use tonic::{Request, codec::CompressionEncoding};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::{
    v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    },
    v1alpha,
};
use warrengate::pb::{self, Outcome, messaging_client::MessagingClient, topology_client::TopologyClient};

use crate::harness::{
    SharedStack, Tenant, to_queue,
    wait::{until, within},
    web,
};

#[tokio::test]
async fn health_is_served_without_a_token() {
    let mut health = HealthClient::new(web::channel().await);
    for service in ["", "warrengate.v1.Messaging", "warrengate.v1.Topology"] {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "no.such.Service".into() }).await.expect_err("unknown");
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn reflection_is_on_by_default_and_lists_the_services() {
    let mut reflection = ServerReflectionClient::new(web::channel().await);
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = tokio_stream::iter([ask]);
    let mut answers = reflection.server_reflection_info(requests).await.unwrap().into_inner();
    let answer = within("the services", answers.message()).await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for service in ["Messaging", "Topology", "Auth", "Admin"] {
        assert!(names.contains(&format!("warrengate.v1.{service}")), "{names:?}");
    }
}

#[tokio::test]
async fn a_watch_reports_an_unknown_service_and_the_shutdown() {
    let gateway = web::gateway(|_| {}).await;
    let mut health = HealthClient::new(gateway.channel().await);
    let mut watches = Vec::new();
    for (service, first) in [
        ("", ServingStatus::Serving),
        ("warrengate.v1.Messaging", ServingStatus::Serving),
        ("no.such.Service", ServingStatus::ServiceUnknown),
    ] {
        let request = HealthCheckRequest { service: service.into() };
        let mut watch = health.watch(request).await.unwrap().into_inner();
        let answer = within("a status", watch.message()).await.unwrap().unwrap();
        assert_eq!(answer.status(), first, "{service:?}");
        watches.push((service, watch));
    }
    let stopping = tokio::spawn(gateway.running.shutdown());
    for (service, watch) in &mut watches[..2] {
        let answer = within("the next status", watch.message()).await.unwrap().unwrap();
        assert_eq!(answer.status(), ServingStatus::NotServing, "{service:?}");
    }
    drop((watches, health));
    within("the end", stopping).await.unwrap();
}

#[tokio::test]
async fn reflection_of_both_versions_describes_error_details() {
    let symbol = "google.rpc.ErrorInfo";
    let mut reflection = ServerReflectionClient::new(web::channel().await);
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol(symbol.into())),
    };
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([ask])).await.unwrap().into_inner();
    let answer = within("a file", answers.message()).await.unwrap().unwrap();
    let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else { panic!("{answer:?}") };
    let mut reflection = v1alpha::server_reflection_client::ServerReflectionClient::new(web::channel().await);
    let ask = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(symbol.into())),
    };
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([ask])).await.unwrap().into_inner();
    let answer = within("a file", answers.message()).await.unwrap().unwrap();
    let Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(older)) =
        answer.message_response
    else {
        panic!("{answer:?}")
    };
    assert_eq!(files.file_descriptor_proto, older.file_descriptor_proto);
    let file = prost_types::FileDescriptorProto::decode(&*files.file_descriptor_proto[0]).unwrap();
    assert!(file.message_type.iter().any(|message| message.name() == "ErrorInfo"), "{file:?}");
}

#[tokio::test]
async fn gzip_is_accepted_within_the_size_limit_and_offered_for_answers_except_those_of_messaging() {
    const GZIP: CompressionEncoding = CompressionEncoding::Gzip;
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let token = web::access_token(&tenant.client_id, &tenant.secret).await;
    let with_token = |batch| {
        let mut request = Request::new(batch);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    };
    let channel = web::channel().await;
    let mut compressed = MessagingClient::new(channel.clone()).send_compressed(GZIP).accept_compressed(GZIP);
    let batch = pb::PublishBatchRequest { publications: vec![to_queue("jobs", "x".repeat(100_000))] };
    let answer = compressed.publish_batch(with_token(batch)).await.unwrap();
    assert!(answer.metadata().get("grpc-encoding").is_none(), "{:?}", answer.metadata());
    assert_eq!(answer.into_inner().results[0].outcome(), Outcome::Confirmed);
    assert_eq!(tenant.take("jobs", 1).await, ["x".repeat(100_000)]);
    // 64 MiB of the same byte are about 64 KiB compressed.
    let large = pb::PublishBatchRequest { publications: vec![to_queue("jobs", vec![0_u8; 64 << 20])] };
    let refused = compressed.publish_batch(with_token(large)).await.expect_err("too large");
    assert!(
        matches!(
            refused.code(),
            tonic::Code::OutOfRange | tonic::Code::ResourceExhausted | tonic::Code::InvalidArgument
        ),
        "{refused:?}"
    );
    // Without the header, answers are not compressed.
    for (mut topology, encoding) in [
        (TopologyClient::new(channel.clone()).accept_compressed(GZIP), Some("gzip")),
        (TopologyClient::new(channel), None),
    ] {
        let mut request = Request::new(pb::ListQueuesRequest::default());
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let answer = topology.list_queues(request).await.unwrap();
        let found = answer.metadata().get("grpc-encoding").map(|value| value.to_str().unwrap());
        assert_eq!(found, encoding, "{:?}", answer.metadata());
    }
}

/// The frames of a gRPC-Web response: its messages, and its trailers as text.
fn unframed(mut answer: &[u8]) -> (Vec<&[u8]>, String) {
    let (mut messages, mut trailers) = (Vec::new(), String::new());
    while let [flags, a, b, c, d, rest @ ..] = answer {
        let (frame, rest) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        match flags {
            0x80 => trailers.push_str(std::str::from_utf8(frame).unwrap()),
            _ => messages.push(frame),
        }
        answer = rest;
    }
    (messages, trailers)
}

#[tokio::test]
async fn grpc_web_publishes_over_http_1() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let token = tenant.client.token().await.unwrap().unwrap();
    let url = format!("{}/warrengate.v1.Messaging/PublishBatch", SharedStack::get().stack.endpoint());
    let body = web::framed(&pb::PublishBatchRequest { publications: vec![to_queue("jobs", "from a browser")] });
    let post = |authorization: Option<String>| {
        let mut request = web::http()
            .post(&url)
            .header("content-type", "application/grpc-web+proto")
            .header("x-grpc-web", "1")
            .body(body.clone());
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        request.send()
    };
    let answer = post(Some(format!("Bearer {}", token.secret().expose_secret()))).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_11));
    assert_eq!(answer.headers()["content-type"], "application/grpc-web+proto");
    let bytes = answer.bytes().await.unwrap();
    let (messages, trailers) = unframed(&bytes);
    assert!(trailers.contains("grpc-status:0"), "{trailers}");
    let result = pb::PublishBatchResponse::decode(messages[0]).unwrap().results.remove(0);
    assert_eq!(result.outcome(), Outcome::Confirmed, "{result:?}");
    assert_eq!(tenant.take("jobs", 1).await, ["from a browser"]);

    let refused = post(None).await.unwrap();
    assert_eq!(refused.headers()["grpc-status"], "16", "UNAUTHENTICATED: {:?}", refused.headers());
}

#[tokio::test]
async fn probes_and_metrics_are_served_in_plain_text() {
    let (status, _, text) = web::ops_get("/livez").await;
    assert_eq!((status.as_u16(), text.as_str()), (200, "ok\n"));
    until("the gateway is ready", async || (web::ops_get("/readyz").await.0.as_u16() == 200).then_some(())).await;
    let (_, kind, text) = web::ops_get("/readyz").await;
    assert_eq!((kind.as_str(), text.as_str()), ("application/json", r#"{"ready":true,"waiting_for":[]}"#));
    let (status, kind, _) = web::ops_get("/metrics").await;
    assert_eq!((status.as_u16(), kind.as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(web::ops_get("/").await.0.as_u16(), 404);
    assert_eq!(web::ops_get("/oauth2/token").await.0.as_u16(), 405);
}
