//! Requests that try to exhaust memory or time: endless bodies, calls without a token, floods of elements, small frames
//! on a paused stream. Each is refused or slowed down, and the connection of an honest client stays open.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, Request, codec::CompressionEncoding};
use tonic_health::pb::HealthCheckRequest;
use warrengate::pb::{
    self, Outcome, PublishRequest, PublishResponse, SubscribeRequest, SubscribeResponse,
    messaging_client::MessagingClient, publish_response, subscribe_request::Frame as SubscribeFrame,
    subscribe_response,
};

use crate::harness::{
    Tenant,
    consumer::RawSubscription,
    http2::Http2,
    plans::limited,
    raw::{RawPublish, field, reason, start},
    to_queue,
    wait::within,
    web,
};

const BATCH: &str = "warrengate.v1.Messaging/PublishBatch";

fn publications_frame(publications: Vec<pb::Publication>) -> PublishRequest {
    let publications = pb::Publications { publications };
    PublishRequest { frame: Some(pb::publish_request::Frame::Publications(publications)) }
}

#[tokio::test]
async fn a_call_without_a_token_is_refused_before_its_body_is_read() {
    let gateway = web::gateway(|_| {}).await;
    let connection = Http2::connect(gateway.running.grpc_address()).await;
    for method in [BATCH, "warrengate.v1.Admin/CreateTenant", "warrengate.v1.Messaging/Publish", "no.such/Method"] {
        for token in [None, Some("invalid")] {
            // The body is never sent.
            let mut call = connection.call(method, token).await;
            let status = call.status().await;
            assert_eq!(status.code(), Code::Unauthenticated, "{method} {token:?}");
        }
    }
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn a_body_that_does_not_arrive_in_time_is_refused() {
    let gateway = web::gateway(|config| {
        config.limits.request_timeout = Duration::from_secs(1);
        config.limits.unauthenticated_timeout = Duration::from_secs(1);
    })
    .await;
    let tenant = Tenant::fresh().await;
    let token = gateway.token(&tenant.client_id, &tenant.secret).await;
    for (method, token) in [
        ("warrengate.v1.Auth/IssueToken", None),
        (BATCH, Some(token.as_str())),
        ("warrengate.v1.Messaging/Publish", Some(token.as_str())),
    ] {
        let connection = Http2::connect(gateway.running.grpc_address()).await;
        let mut call = connection.call(method, token).await;
        call.data(vec![0, 0, 0, 1, 0, 7], false).await;
        let status = call.status().await;
        assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "REQUEST_TIMEOUT"), "{method}");
    }
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn a_connection_without_a_valid_token_is_closed_early_and_one_of_a_client_is_not() {
    let gateway = web::gateway(|config| config.limits.unauthenticated_timeout = Duration::from_secs(1)).await;
    let address = gateway.running.grpc_address();
    let tenant = Tenant::fresh().await;
    let token = gateway.token(&tenant.client_id, &tenant.secret).await;
    let client = Http2::connect(address).await;
    let who = client.call("warrengate.v1.Auth/WhoAmI", Some(&token));
    let mut who = who.await;
    who.data(web::framed(&pb::WhoAmIRequest {}), true).await;
    assert_eq!(who.status().await.code(), Code::Ok);
    let unauthenticated = Http2::connect(address).await;
    let mut refused = unauthenticated.call(BATCH, None).await;
    assert_eq!(refused.status().await.code(), Code::Unauthenticated);
    unauthenticated.closed().await;
    assert!(!client.is_closed());
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn an_unauthenticated_connection_is_closed_in_time_whatever_its_calls_do() {
    let gateway = web::gateway(|config| config.limits.unauthenticated_timeout = Duration::from_secs(1)).await;
    let began = Instant::now();
    let mut open = Vec::new();
    for (method, body) in [
        ("grpc.health.v1.Health/Watch", web::framed(&HealthCheckRequest::default())),
        ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Vec::new()),
        ("warrengate.v1.Auth/IssueToken", vec![0, 0, 0, 1, 0, 7]),
        (BATCH, vec![0, 0, 0, 1, 0, 7]),
    ] {
        let connection = Http2::connect(gateway.running.grpc_address()).await;
        let mut call = connection.call(method, None).await;
        call.data(body, false).await;
        open.push((method, connection, call));
    }
    let mut ops = TcpStream::connect(gateway.running.ops_address()).await.unwrap();
    let head = "POST /oauth2/token HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n";
    ops.write_all(format!("{head}Content-Length: 1000\r\n\r\ngrant_type=").as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("the end of the ops connection", ops.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    for (method, connection, call) in open {
        connection.closed().await;
        drop(call);
        assert!(began.elapsed() < Duration::from_secs(8), "{method}: {:?}", began.elapsed());
    }
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn elements_are_counted_before_they_are_decoded() {
    let tenant = Tenant::fresh().await;
    let token = web::access_token(&tenant.client_id, &tenant.secret).await;
    let gateway = crate::harness::SharedStack::get().stack.gateway().grpc_address();
    // Two bytes for each element.
    let publications = vec![pb::Publication::default(); 500_000];
    let batch = pb::PublishBatchRequest { publications: publications.clone() };
    let frame = publications_frame(publications);
    let frames = [(BATCH, web::framed(&batch)), ("warrengate.v1.Messaging/Publish", web::framed(&frame))];
    // After the frames are encoded, which takes long on a busy machine: a connection without a call is closed soon.
    let connection = Http2::connect(gateway).await;
    for (method, frame) in frames {
        let mut call = connection.call(method, Some(&token)).await;
        for piece in frame.chunks(16 * 1024) {
            call.data(piece.to_vec(), false).await;
        }
        let status = call.status().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{method}: {status:?}");
        assert_eq!(field(&status), "publications", "{method}");
    }
}

#[tokio::test]
async fn requests_that_take_long_to_decode_are_decoded_in_turn_whether_compressed_or_not() {
    const AT_ONCE: usize = 6;
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let token = web::access_token(&tenant.client_id, &tenant.secret).await;
    let headers: HashMap<_, _> = (0..30)
        .map(|number| (format!("h{number}"), pb::Value { kind: Some(pb::value::Kind::BoolValue(true)) }))
        .collect();
    let batch = || {
        let mut publication = to_queue("jobs", "work");
        publication.message.as_mut().unwrap().headers.clone_from(&headers);
        vec![publication; 600]
    };
    let channel = web::channel().await;
    let batches = (0..AT_ONCE).map(|number| {
        let mut request = Request::new(pb::PublishBatchRequest { publications: batch() });
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let messaging = MessagingClient::new(channel.clone());
        let compressed = messaging.clone().send_compressed(CompressionEncoding::Gzip);
        let mut messaging = if number % 2 == 0 { messaging } else { compressed };
        async move { messaging.publish_batch(request).await.unwrap().into_inner().results }
    });
    let results = within("all outcomes", futures_util::future::join_all(batches)).await;
    assert_eq!(results.iter().map(Vec::len).sum::<usize>(), AT_ONCE * 600);
    assert!(results.iter().flatten().all(|result| result.outcome() == Outcome::Confirmed));
    // As frames of a stream.
    let mut stream = RawPublish::open(&tenant.client).await.unwrap();
    for _ in 0..AT_ONCE {
        stream.send(pb::publish_request::Frame::Publications(pb::Publications { publications: batch() })).await;
    }
    let mut confirmed = 0;
    while confirmed < AT_ONCE * 600 {
        let event = stream.event().await.unwrap();
        let Some(publish_response::Event::Results(frame)) = event else { panic!("{event:?}") };
        assert!(frame.results.iter().all(|result| result.outcome() == Outcome::Confirmed), "{frame:?}");
        confirmed += frame.results.len();
    }
}

#[tokio::test]
async fn single_message_frames_on_a_paused_stream_are_slowed_down_and_the_connection_stays_open() {
    const MESSAGES: u64 = 3_000;
    let tenant = limited(pb::Plan { max_in_flight_messages: 10, ..Default::default() }).await;
    tenant.queue("jobs").await;
    let token = web::access_token(&tenant.client_id, &tenant.secret).await;
    let gateway = crate::harness::SharedStack::get().stack.gateway().grpc_address();
    let connection = Http2::connect(gateway).await;
    let mut call = connection.call("warrengate.v1.Messaging/Publish", Some(&token)).await;
    // All frames are sent before the first response is read.
    for _ in 0..MESSAGES {
        let frame = publications_frame(vec![to_queue("jobs", "x")]);
        call.data(web::framed(&frame), false).await;
    }
    let mut confirmed = 0;
    while confirmed < MESSAGES {
        let response: PublishResponse = call.message().await.expect("an open stream");
        if let Some(publish_response::Event::Results(results)) = response.event {
            assert!(results.results.iter().all(|result| result.outcome() == Outcome::Confirmed), "{results:?}");
            confirmed += results.results.len() as u64;
        }
    }
    assert!(!connection.is_closed());
    tenant.has_depth("jobs", MESSAGES).await;
}

#[tokio::test]
async fn single_acknowledgement_frames_never_end_the_connection() {
    const MESSAGES: usize = 1_000;
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.outcomes((0..MESSAGES).map(|_| to_queue("jobs", "x")).collect()).await;
    let token = web::access_token(&tenant.client_id, &tenant.secret).await;
    let gateway = crate::harness::SharedStack::get().stack.gateway().grpc_address();
    let connection = Http2::connect(gateway).await;
    let mut call = connection.call("warrengate.v1.Messaging/Subscribe", Some(&token)).await;
    let start = SubscribeRequest { frame: Some(SubscribeFrame::Start(start("jobs"))) };
    call.data(web::framed(&start), false).await;
    let mut delivered = 0;
    while delivered < MESSAGES {
        let response: SubscribeResponse = call.message().await.expect("an open stream");
        if let Some(subscribe_response::Event::Deliveries(deliveries)) = response.event {
            for delivery in deliveries.deliveries {
                assert_eq!(delivery.attempt, 1);
                delivered += 1;
                let ack = pb::Ack { delivery_ids: vec![delivery.delivery_id], ..Default::default() };
                let frame = SubscribeRequest { frame: Some(SubscribeFrame::Ack(ack)) };
                call.data(web::framed(&frame), false).await;
            }
        }
    }
    tenant.has_depth("jobs", 0).await;
    assert!(!connection.is_closed());
}

#[tokio::test]
async fn messages_on_a_connection_that_the_gateway_closes_use_up_no_attempt() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "x").await;
    let token = web::access_token(&tenant.client_id, &tenant.secret).await;
    let gateway = crate::harness::SharedStack::get().stack.gateway().grpc_address();
    let connection = Http2::connect(gateway).await;
    let mut call = connection.call("warrengate.v1.Messaging/Subscribe", Some(&token)).await;
    let start_frame = SubscribeRequest { frame: Some(SubscribeFrame::Start(start("jobs"))) };
    call.data(web::framed(&start_frame), false).await;
    let delivered = loop {
        let response: SubscribeResponse = call.message().await.expect("an open stream");
        if let Some(subscribe_response::Event::Deliveries(deliveries)) = response.event {
            break deliveries;
        }
    };
    assert_eq!(delivered.deliveries[0].attempt, 1);
    connection.flood_with_resets().await;
    let again = RawSubscription::open(&tenant.client, start("jobs")).await.one().await;
    assert_eq!((again.attempt, again.redelivered), (1, true));
}

#[tokio::test]
async fn requests_other_than_grpc_get_an_http_error() {
    let gateway = crate::harness::SharedStack::get().stack.gateway().grpc_address();
    let connection = Http2::connect(gateway).await;
    for (method, kind, status) in
        [("GET", "application/grpc", 405), ("POST", "application/json", 415), ("POST", "application/grpc+json", 415)]
    {
        let request = http::Request::builder().method(method).uri(format!("https://127.0.0.1/{BATCH}"));
        let request = request.header("content-type", kind).body(()).unwrap();
        let mut call = connection.request(request, true).await;
        assert_eq!(call.head().await.status().as_u16(), status, "{method} {kind}");
    }
}

#[tokio::test]
async fn the_deadline_of_a_call_ends_a_stream() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let token = web::access_token(&tenant.client_id, &tenant.secret).await;
    let gateway = crate::harness::SharedStack::get().stack.gateway().grpc_address();
    let connection = Http2::connect(gateway).await;
    let request = http::Request::post("https://127.0.0.1/warrengate.v1.Messaging/Subscribe")
        .header("content-type", "application/grpc")
        .header("authorization", format!("Bearer {token}"))
        .header("grpc-timeout", "1S");
    let mut call = connection.request(request.body(()).unwrap(), false).await;
    let start = SubscribeRequest { frame: Some(SubscribeFrame::Start(start("jobs"))) };
    call.data(web::framed(&start), false).await;
    assert_eq!(call.status().await.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_thousand_streams_of_one_connection_work_and_unary_calls_beside_them() {
    const SUBSCRIPTIONS: usize = 50;
    let tenant = limited(pb::Plan::default()).await;
    tenant.queue("jobs").await;
    tenant.queue("watched").await;
    let token = web::access_token(&tenant.client_id, &tenant.secret).await;
    let gateway = crate::harness::SharedStack::get().stack.gateway().grpc_address();
    let connection = Http2::connect(gateway).await;
    let who_am_i = async || {
        let mut who = connection.call("warrengate.v1.Auth/WhoAmI", Some(&token)).await;
        who.data(web::framed(&pb::WhoAmIRequest {}), true).await;
        assert_eq!(who.status().await.code(), Code::Ok);
    };
    // Until a call has authenticated it, a connection has few calls.
    who_am_i().await;
    let mut streams = Vec::new();
    for number in 0..999 {
        let method = if number < SUBSCRIPTIONS { "Subscribe" } else { "Publish" };
        let mut call = connection.call(&format!("warrengate.v1.Messaging/{method}"), Some(&token)).await;
        if number < SUBSCRIPTIONS {
            let start = SubscribeRequest { frame: Some(SubscribeFrame::Start(start("watched"))) };
            call.data(web::framed(&start), false).await;
        }
        streams.push(call);
    }
    for stream in &mut streams {
        let head = stream.head().await;
        assert!(head.status().is_success() && !head.headers().contains_key("grpc-status"), "{head:?}");
    }
    // There is still a stream for a unary call, such as for a new token.
    who_am_i().await;
    // To a queue without these subscriptions: h2 as a client ends a connection with many small frames that its
    // application does not read.
    for call in &mut streams[SUBSCRIPTIONS..] {
        let frame = publications_frame(vec![to_queue("jobs", "x")]);
        call.data(web::framed(&frame), false).await;
        let Some(response) = call.message::<PublishResponse>().await else { panic!("{:?}", call.status().await) };
        let Some(publish_response::Event::Results(results)) = response.event else { panic!("{response:?}") };
        assert_eq!(results.results[0].outcome(), Outcome::Confirmed);
    }
    assert!(!connection.is_closed());
    tenant.has_depth("jobs", 949).await;
}
