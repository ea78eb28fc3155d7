//! The memory that a client with a token and all grants of its tenant can occupy in the gateway.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message as _;
use tokio::task::JoinSet;
use warrengate::pb::{self, publish_request::Frame as PublishFrame, subscribe_request::Frame};

use crate::{
    Scale,
    consumer::{RawSubscription, ids, start},
    control_tenant::ControlTenant,
    environment::{Environment, Tenant},
    http2::{Call, Http2, framed},
    report::{Report, percentile},
    target::{BUDGET, Peak, SHARE, mebibytes},
};

/// The bound of docs/security.md: the budget counts decoded messages; copies that are being encoded or sent are
/// additional.
const GROWTH: u64 = 2 * SHARE;
/// What HTTP/2 may have received for a stream that waits for memory.
const STREAM: u64 = 256 << 10;
/// In a debug build futures are larger, and copies are not optimised away.
const GROWTH_DEBUG: u64 = 4 * SHARE;
/// Threads that may replace those of the runtime that decode.
const THREADS: u64 = 16;
const STREAMS_OF_A_CONNECTION: usize = 10;
const STREAMS_OF_AN_UNREAD_CONNECTION: usize = 900;

async fn check(
    attack: &str,
    environment: &Arc<Environment>,
    peak: Peak<'_>,
    control: ControlTenant,
    p99: f64,
    received: u64,
    report: &mut Report,
) {
    let (max, which) = match cfg!(debug_assertions) {
        true => (GROWTH_DEBUG, "four times in a debug build"),
        false => (GROWTH, "twice"),
    };
    let grown = peak.growth();
    let max = max + received;
    let bound = format!("memory at most {} more ({which} the share)", mebibytes(max));
    report.must(attack, &bound, mebibytes(grown), grown <= max);
    let (buffered, limit) = environment.target.buffered().await;
    let text = format!("{} of {}", mebibytes(buffered as u64), mebibytes(limit as u64));
    report.must(attack, "the gateway's budget holds", text, limit as u64 == BUDGET && buffered <= limit);
    control.check(attack, p99, report).await;
}

/// A stream of the attacker, which reads no response.
async fn open(connection: &Http2, method: &str, token: &str) -> Option<Call> {
    connection.call(&format!("warrengate.v1.Messaging/{method}"), Some(token)).await
}

fn publications(publications: Vec<pb::Publication>) -> Bytes {
    let frame = Some(PublishFrame::Publications(pb::Publications { publications }));
    framed(&pb::PublishRequest { frame }.encode_to_vec())
}

/// The frames that take longest to decode, on several connections; a worker of the runtime that decodes them cannot answer
/// a request meanwhile.
pub async fn decoding(environment: &Arc<Environment>, scale: Scale, report: &mut Report) {
    const ATTACK: &str = "decoding large frames";
    const STALL: f64 = 20.0;
    let attacker = environment.tenant().await;
    let token = environment.token(&attacker).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/livez", environment.target.ops);
    let longest = async |time: Duration| {
        let (end, mut took) = (Instant::now() + time, Vec::new());
        while Instant::now() < end {
            let began = Instant::now();
            http.get(&url).send().await.unwrap().bytes().await.unwrap();
            took.push(began.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        (percentile(&took, 99.0), percentile(&took, 100.0))
    };
    let time = scale.flood.min(Duration::from_secs(10));
    let before = longest(time / 2).await;
    let headers: HashMap<_, _> = (0..30).map(|number| (format!("h{number}"), boolean())).collect();
    let message = pb::Message { headers, ..Default::default() };
    let publication = pb::Publication { routing_key: "nowhere".into(), message: Some(message), ..Default::default() };
    let frame = publications(vec![publication; 1_000]);
    let (sent, mut floods) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for _ in 0..4 {
        let (address, ca, token, frame) =
            (environment.target.grpc, environment.ca.clone(), token.clone(), frame.clone());
        let sent = Arc::clone(&sent);
        floods.spawn(async move {
            let Some(connection) = Http2::connect(address, &ca).await else { return };
            let Some(mut call) = open(&connection, "Publish", &token).await else { return };
            loop {
                if call.send(frame.clone()).await {
                    sent.fetch_add(1, Ordering::Relaxed);
                } else if let Some(next) = open(&connection, "Publish", &token).await {
                    // The stream has ended, or waits for its unread responses.
                    call = next;
                }
            }
        });
    }
    let (p99, max) = longest(time).await;
    floods.shutdown().await;
    let sent = sent.load(Ordering::Relaxed);
    report.must(ATTACK, "frames are decoded", format!("{sent} of 60,000 elements each"), sent > 0);
    let text = format!("{max:.1} ms at most, {p99:.1} ms at p99; {:.1} and {:.1} before", before.1, before.0);
    report.time(ATTACK, "never stalls the runtime for more than 20 ms", text, max <= STALL);
}

/// Streams of frames: half a million empty publications, and a thousand messages of thirty headers each.
pub async fn element_floods(environment: &Arc<Environment>, scale: Scale, report: &mut Report) {
    let attacker = environment.tenant().await;
    let token = environment.token(&attacker).await;
    let control = ControlTenant::start(environment, scale).await;
    let peak = environment.target.measure().await;
    let headers: HashMap<_, _> = (0..30).map(|number| (format!("h{number}"), boolean())).collect();
    let message = pb::Message { headers, ..Default::default() };
    // No queue is bound to it, so no message is stored.
    let publication = pb::Publication { routing_key: "nowhere".into(), message: Some(message), ..Default::default() };
    let frames = [publications(vec![pb::Publication::default(); 500_000]), publications(vec![publication; 1_000])];
    let end = Instant::now() + scale.flood;
    let mut floods = JoinSet::new();
    for number in 0..scale.streams / STREAMS_OF_A_CONNECTION {
        let (address, ca, token, frames) =
            (environment.target.grpc, environment.ca.clone(), token.clone(), frames.clone());
        floods.spawn(async move {
            let Some(connection) = Http2::connect(address, &ca).await else { return };
            let mut calls = Vec::new();
            for turn in number.. {
                if Instant::now() >= end {
                    return;
                }
                let Some(mut call) = open(&connection, "Publish", &token).await else { return };
                call.send(frames[turn % 2].clone()).await;
                calls.push(call);
                if calls.len() > STREAMS_OF_A_CONNECTION {
                    calls.remove(0);
                }
            }
        });
    }
    let threads = environment.target.threads();
    let (_, most_threads, p99) = environment.target.most_during(control.during(scale.flood)).await;
    floods.shutdown().await;
    let text = format!("{most_threads}, {threads} before");
    report.must("element floods", &format!("at most {THREADS} more threads"), text, most_threads <= threads + THREADS);
    check("element floods", environment, peak, control, p99, scale.streams as u64 * STREAM, report).await;
}

/// Many streams with the largest windows on a stream queue of large messages; half of them read nothing, half settle
/// nothing.
pub async fn large_windows(environment: &Arc<Environment>, scale: Scale, report: &mut Report) {
    let attacker = environment.tenant().await;
    attacker.queue("log", pb::QueueType::Stream).await;
    let message = pb::Message { body: vec![1; 3_900_000].into(), ..Default::default() };
    attacker.fill("log", 12, message).await;
    let token = environment.token(&attacker).await;
    let control = ControlTenant::start(environment, scale).await;
    let peak = environment.target.measure().await;
    let mut unread = Vec::new();
    let position = pb::StreamPosition { position: Some(pb::stream_position::Position::First(Default::default())) };
    let window = pb::SubscribeStart {
        max_outstanding_messages: 10_000,
        max_outstanding_bytes: 256 << 20,
        position: Some(position),
        ..start("log")
    };
    for _ in 0..scale.streams / 2 / STREAMS_OF_A_CONNECTION {
        let Some(connection) = Http2::connect(environment.target.grpc, &environment.ca).await else { continue };
        let mut calls = Vec::new();
        for number in 0..STREAMS_OF_A_CONNECTION {
            let Some(mut call) = open(&connection, "Subscribe", &token).await else { break };
            // Subscriptions with automatic acknowledgement have no window of unsettled messages.
            let start = pb::SubscribeStart { auto_ack: number % 2 == 0, ..window.clone() };
            call.send(framed(&pb::SubscribeRequest { frame: Some(Frame::Start(start)) }.encode_to_vec())).await;
            calls.push(call);
        }
        unread.push((connection, calls));
    }
    let mut readers = JoinSet::new();
    for _ in 0..scale.streams / 2 {
        let Ok(mut subscription) = RawSubscription::try_open(&attacker.client, window.clone()).await else { break };
        // After the last message the subscription stays open.
        readers.spawn(async move { while let Ok(Some(_)) = subscription.any_time_event().await {} });
    }
    let p99 = control.during(scale.flood).await;
    check("large windows, unread", environment, peak, control, p99, 0, report).await;
    drop((readers, unread));
}

/// Calls with large responses of which only the first byte is read: `PeekMessages` and `ListExchanges`.
pub async fn unread_responses(environment: &Arc<Environment>, scale: Scale, report: &mut Report) {
    const ATTACK: &str = "unread responses";
    const BODY: usize = 3_900_000;
    const ANSWERED_WITHIN: Duration = Duration::from_secs(20);
    let attacker = environment.tenant().await;
    attacker.queue("jobs", pb::QueueType::Quorum).await;
    attacker.fill("jobs", 1, pb::Message { body: vec![1; BODY].into(), ..Default::default() }).await;
    for number in 0..95 {
        let (name, kind) = (format!("{number:0>200}"), pb::ExchangeType::Topic);
        let exchange = pb::Exchange { name, r#type: kind.into(), ..Default::default() };
        let request = pb::DeclareExchangeRequest { exchange: Some(exchange), ..Default::default() };
        attacker.client.topology().declare_exchange(request).await.unwrap();
    }
    let token = environment.token(&attacker).await;
    let control = ControlTenant::start(environment, scale).await;
    let peak = environment.target.measure().await;
    let peek = framed(&pb::PeekMessagesRequest { queue: "jobs".into(), ..Default::default() }.encode_to_vec());
    let list = framed(&pb::ListExchangesRequest::default().encode_to_vec());
    let end = Instant::now() + scale.flood;
    let mut floods = JoinSet::new();
    for _ in 0..scale.streams / STREAMS_OF_A_CONNECTION {
        let (address, ca, token, peek, list) =
            (environment.target.grpc, environment.ca.clone(), token.clone(), peek.clone(), list.clone());
        floods.spawn(async move {
            let mut calls = Vec::new();
            let Some(connection) = Http2::connect_unread(address, &ca).await else { return (None, calls) };
            for number in 0..STREAMS_OF_AN_UNREAD_CONNECTION {
                let (method, request) =
                    if number % 2 == 0 { ("PeekMessages", &peek) } else { ("ListExchanges", &list) };
                let method = format!("warrengate.v1.Topology/{method}");
                let Some(mut call) = connection.call(&method, Some(&token)).await else { break };
                let _ = call.body.send_data(request.clone(), true);
                // The next call begins when this one is answered, because few of a tenant are processed at a time.
                calls.push(tokio::time::timeout(ANSWERED_WITHIN, call.response).await);
                if Instant::now() >= end {
                    break;
                }
            }
            (Some(connection), calls)
        });
    }
    // The gateway closes a connection that reads nothing for long, so nothing may be charged at the end.
    let (charged, _, p99) = environment.target.most_during(control.during(scale.flood)).await;
    let mut open = Vec::new();
    while let Ok(Some(flood)) = tokio::time::timeout(ANSWERED_WITHIN, floods.join_next()).await {
        open.push(flood.unwrap());
    }
    floods.shutdown().await;
    let answered = open.iter().flat_map(|(_, calls)| calls).filter(|call| matches!(call, Ok(Ok(_)))).count();
    report.must(ATTACK, "calls are answered", answered.to_string(), answered > 0);
    report.must(ATTACK, "their responses are charged", mebibytes(charged as u64), charged >= BODY as f64);
    check(ATTACK, environment, peak, control, p99, 0, report).await;
    drop(open);
    let began = Instant::now();
    while environment.target.buffered().await.0 > 0.0 && began.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let left = environment.target.buffered().await.0 as u64;
    report.must(ATTACK, "nothing is charged after it", mebibytes(left), left == 0);
}

/// Frames that contain the id of one delivery ten thousand times.
pub async fn lease_flood(environment: &Arc<Environment>, scale: Scale, report: &mut Report) {
    let attacker = environment.tenant().await;
    attacker.queue("jobs", pb::QueueType::Quorum).await;
    attacker.fill("jobs", 1, pb::Message { body: "work".into(), ..Default::default() }).await;
    let mut subscription = RawSubscription::open(&attacker.client, start("jobs")).await;
    let delivery_ids = ids(&subscription.take(1).await).repeat(10_000);
    let control = ControlTenant::start(environment, scale).await;
    let peak = environment.target.measure().await;
    let flood = async {
        let mut lease = 10;
        loop {
            let ack_deadline = Some(Duration::from_secs(lease).try_into().unwrap());
            let extend = pb::ExtendLease { delivery_ids: delivery_ids.clone(), ack_deadline };
            subscription.send(Frame::ExtendLease(extend)).await;
            lease = if lease == 3600 { 10 } else { lease + 1 };
        }
    };
    let (p99, _) = tokio::join!(control.during(scale.flood), tokio::time::timeout(scale.flood, flood));
    check("ExtendLease flood", environment, peak, control, p99, 0, report).await;
}

/// Messages without a body and with 60 kB of small headers, published and delivered.
pub async fn headers_only(environment: &Arc<Environment>, scale: Scale, report: &mut Report) {
    let attacker = environment.tenant().await;
    attacker.queue("jobs", pb::QueueType::Quorum).await;
    let control = ControlTenant::start(environment, scale).await;
    let peak = environment.target.measure().await;
    let headers: HashMap<_, _> = (0..4_000).map(|number| (format!("h{number}"), boolean())).collect();
    let message = pb::Message { headers, ..Default::default() };
    let flood = async {
        let mut consumers = JoinSet::new();
        for _ in 0..scale.streams / 4 {
            let window = pb::SubscribeStart { max_outstanding_messages: 10_000, ..start("jobs") };
            let Ok(mut consumer) = RawSubscription::try_open(&attacker.client, window).await else { break };
            consumers.spawn(async move { while let Ok(Some(_)) = consumer.event().await {} });
        }
        publish_without_end(&attacker, message).await;
    };
    let (p99, _) = tokio::join!(control.during(scale.flood), tokio::time::timeout(scale.flood, flood));
    check("headers without bodies", environment, peak, control, p99, 0, report).await;
}

async fn publish_without_end(tenant: &Tenant, message: pb::Message) {
    let publication = pb::Publication { routing_key: "jobs".into(), message: Some(message), ..Default::default() };
    loop {
        let batch = || tenant.client.publish_batch(vec![publication.clone(); 8]);
        // It does not matter whether they are accepted.
        let _ = futures_util::future::join_all((0..8).map(|_| batch())).await;
    }
}

fn boolean() -> pb::Value {
    pb::Value { kind: Some(pb::value::Kind::BoolValue(true)) }
}
