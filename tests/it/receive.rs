//! `Receive` and `Settle`: subscribing without client streaming, with the promises of `Subscribe`.

use std::time::Duration;

use prost::Message as _;
use secrecy::ExposeSecret as _;
use tonic::{Code, Status, Streaming};
use warrengate::{
    client::Client,
    pb::{
        self, NackAction, ReceiveResponse, SettleRequest, SubscribeStart, settle_request::Frame,
        subscribe_response::Event,
    },
};

use crate::harness::{
    SharedStack, Tenant,
    consumer::{bodies, ids, start},
    raw::reason,
    tenant::all_grants,
    wait::{until, within},
    web,
};

/// A started stream of `Receive`.
struct Receiving {
    client: Client,
    id: String,
    frames: Streaming<ReceiveResponse>,
}

impl Receiving {
    async fn open(client: &Client, queue: &str) -> Self {
        Self::try_open(client, start(queue)).await.unwrap()
    }

    async fn try_open(client: &Client, start: SubscribeStart) -> Result<Self, Status> {
        let request = pb::ReceiveRequest { start: Some(start) };
        let mut frames = client.raw_messaging().receive(request).await?.into_inner();
        let first = within("the first frame", frames.message()).await?.expect("a frame");
        assert!(matches!(first.response.unwrap().event, Some(Event::Started(_))));
        Ok(Self { client: client.clone(), id: first.receive_id, frames })
    }

    /// The next event other than a heartbeat; `None` at an orderly end.
    async fn event(&mut self) -> Result<Option<Event>, Status> {
        loop {
            let Some(frame) = within("a frame", self.frames.message()).await? else { return Ok(None) };
            assert_eq!(frame.receive_id, "", "sent once");
            match frame.response.unwrap().event {
                Some(Event::Heartbeat(_)) => {}
                event => return Ok(event),
            }
        }
    }

    async fn take(&mut self, count: usize) -> Vec<pb::Delivery> {
        let mut taken = Vec::new();
        while taken.len() < count {
            match self.event().await.unwrap() {
                Some(Event::Deliveries(frame)) => taken.extend(frame.deliveries),
                event => panic!("{event:?}"),
            }
        }
        taken
    }

    async fn settle(&self, frame: Frame) {
        settle(&self.client, &self.id, frame).await.unwrap();
    }
}

async fn settle(client: &Client, id: &str, frame: Frame) -> Result<(), Status> {
    let request = SettleRequest { receive_id: id.into(), frame: Some(frame) };
    within("a settlement", client.raw_messaging().settle(request)).await.map(drop)
}

fn ack(ids: Vec<u64>) -> Frame {
    Frame::Ack(pb::Ack { delivery_ids: ids, through: 0 })
}

fn close() -> Frame {
    Frame::Close(pb::CloseReceive {})
}

#[tokio::test]
async fn received_messages_are_settled_by_calls_as_on_a_stream() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    for body in ["done", "again", "dead", "returned"] {
        tenant.publish_to("jobs", body).await;
    }
    let mut receiving = Receiving::open(&tenant.client, "jobs").await;
    let taken = receiving.take(4).await;
    let outstanding = ids(&taken);
    receiving
        .settle(Frame::ExtendLease(pb::ExtendLease { delivery_ids: outstanding.clone(), ack_deadline: None }))
        .await;
    receiving.settle(ack(vec![outstanding[0], 999])).await;
    let Some(Event::Settled(settled)) = receiving.event().await.unwrap() else { panic!("a report expected") };
    assert_eq!(settled.unknown_delivery_ids, [999]);
    let nack = |id: u64, action: NackAction| {
        let delay = (action == NackAction::Retry).then(|| Duration::ZERO.try_into().unwrap());
        Frame::Nack(pb::Nack { delivery_ids: vec![id], action: action.into(), delay, reason: "as tested".into() })
    };
    receiving.settle(nack(outstanding[1], NackAction::Retry)).await;
    let again = receiving.take(1).await.remove(0);
    assert_eq!((again.attempt, &again.message.unwrap().body[..]), (2, &b"again"[..]));
    receiving.settle(ack(vec![again.delivery_id])).await;
    receiving.settle(nack(outstanding[2], NackAction::DeadLetter)).await;
    receiving.settle(close()).await;
    assert_eq!(receiving.event().await.unwrap(), None, "an orderly end");
    assert_eq!(tenant.dead_letter().await.reason, "as tested");
    // Unsettled messages are returned, and an orderly close does not count as an attempt.
    let mut next = Receiving::open(&tenant.client, "jobs").await;
    let left = next.take(1).await;
    assert_eq!((bodies(&left), left[0].attempt), (vec!["returned".to_owned()], 1));
    next.settle(ack(ids(&left))).await;
    next.settle(close()).await;
    assert_eq!(next.event().await.unwrap(), None);
    tenant.has_depth("jobs", 0).await;
}

#[tokio::test]
async fn a_stream_is_settled_only_by_its_own_client_and_only_while_it_is_open() {
    let (shared, tenant, other) = (SharedStack::get(), Tenant::fresh().await, Tenant::fresh().await);
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "mine").await;
    let (id, secret) = Tenant::add_client(&shared.admin().await, &tenant.id, "other", all_grants()).await;
    let colleague = shared.client(&id, &secret).await;
    let mut receiving = Receiving::open(&tenant.client, "jobs").await;
    let outstanding = ids(&receiving.take(1).await);
    let guess = uuid::Uuid::new_v4().simple().to_string();
    for (who, client, id) in [
        ("a colleague", &colleague, receiving.id.clone()),
        ("another tenant", &other.client, receiving.id.clone()),
        ("a guess", &tenant.client, guess),
        ("nonsense", &tenant.client, "../../etc".to_owned()),
    ] {
        for frame in [ack(outstanding.clone()), close()] {
            let status = settle(client, &id, frame).await.expect_err(who);
            assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "RECEIVE_NOT_FOUND"), "{who}");
        }
    }
    // None of the refused settlements had an effect.
    receiving.settle(ack(outstanding)).await;
    receiving.settle(close()).await;
    assert_eq!(receiving.event().await.unwrap(), None);
    let status = settle(&tenant.client, &receiving.id, close()).await.expect_err("it has ended");
    assert_eq!(reason(&status), "RECEIVE_NOT_FOUND");
    tenant.has_depth("jobs", 0).await;
}

#[tokio::test]
async fn a_settlement_at_another_gateway_is_refused_with_the_reason() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let other = web::gateway(|_| {}).await;
    let credentials =
        warrengate::client::Credentials::Secret { client_id: tenant.client_id.clone(), secret: tenant.secret.clone() };
    let elsewhere = SharedStack::get().client_at(&other.endpoint(), credentials).await;
    let receiving = Receiving::open(&tenant.client, "jobs").await;
    let status = settle(&elsewhere, &receiving.id, close()).await.expect_err("another gateway");
    assert_eq!(reason(&status), "RECEIVE_NOT_FOUND");
    receiving.settle(close()).await;
    other.running.shutdown().await;
}

#[tokio::test]
async fn cancelling_the_call_counts_as_a_client_disconnect() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "outstanding").await;
    let mut receiving = Receiving::open(&tenant.client, "jobs").await;
    receiving.take(1).await;
    let id = receiving.id.clone();
    drop(receiving);
    // The call is cancelled without a `Close`.
    until("the stream to be closed", async || settle(&tenant.client, &id, ack(Vec::new())).await.err()).await;
    let mut next = Receiving::open(&tenant.client, "jobs").await;
    assert_eq!(next.take(1).await[0].attempt, 2);
    next.settle(close()).await;
}

#[tokio::test]
async fn receiving_requires_the_grant_a_start_and_a_token_of_the_same_client() {
    let (shared, tenant, other) = (SharedStack::get(), Tenant::fresh().await, Tenant::fresh().await);
    tenant.queue("jobs").await;
    let grants = pb::Grants { subscribe: vec!["mine.#".into()], ..pb::Grants::default() };
    let (id, secret) = Tenant::add_client(&shared.admin().await, &tenant.id, "narrow", grants).await;
    let narrow = shared.client(&id, &secret).await;
    let status = Receiving::try_open(&narrow, start("jobs")).await.err().expect("not granted");
    assert_eq!(reason(&status), "SUBSCRIBE_NOT_GRANTED");
    let mut frames =
        tenant.client.raw_messaging().receive(pb::ReceiveRequest { start: None }).await.unwrap().into_inner();
    let status = within("a refusal", frames.message()).await.expect_err("no start");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");

    let mut receiving = Receiving::open(&tenant.client, "jobs").await;
    let mut messaging = tenant.client.raw_messaging();
    let nothing = messaging.settle(SettleRequest { receive_id: receiving.id.clone(), frame: None });
    assert_eq!(within("a refusal", nothing).await.expect_err("no frame").code(), Code::InvalidArgument);
    let newer = async |client: &Client| {
        let token = client.token().await.unwrap().unwrap();
        Frame::Reauthenticate(pb::Reauthenticate { access_token: token.secret().expose_secret().to_owned() })
    };
    receiving.settle(newer(&tenant.client).await).await;
    tenant.publish_to("jobs", "still here").await;
    assert_eq!(bodies(&receiving.take(1).await), ["still here"]);
    receiving.settle(newer(&other.client).await).await;
    let status = receiving.event().await.expect_err("a token of another client");
    assert_eq!(reason(&status), "REAUTHENTICATED_AS_ANOTHER");
}

#[tokio::test]
async fn grpc_web_receives_and_settles_over_http_1() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let token = tenant.client.token().await.unwrap().unwrap();
    let authorization = format!("Bearer {}", token.secret().expose_secret());
    let post = |method: &str, body: Vec<u8>| {
        let url = format!("{}/warrengate.v1.Messaging/{method}", SharedStack::get().stack.endpoint());
        let request = web::http().post(url).header("content-type", "application/grpc-web+proto");
        request.header("x-grpc-web", "1").header("authorization", &authorization).body(body).send()
    };
    let asked = pb::ReceiveRequest { start: Some(start("jobs")) };
    let mut answer = within("an answer", post("Receive", web::framed(&asked))).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_11));
    let mut unread = Vec::new();
    let mut next = async || loop {
        if let [flags, a, b, c, d, rest @ ..] = &unread[..] {
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            if rest.len() >= length {
                let (flags, frame) = (*flags, rest[..length].to_vec());
                unread.drain(..5 + length);
                return (flags, frame);
            }
        }
        unread.extend(within("a chunk", answer.chunk()).await.unwrap().expect("the answer continues"));
    };
    let (_, first) = next().await;
    let receive_id = ReceiveResponse::decode(&first[..]).unwrap().receive_id;
    assert!(!receive_id.is_empty());
    tenant.publish_to("jobs", "to a browser").await;
    let deliveries = loop {
        let (_, frame) = next().await;
        match ReceiveResponse::decode(&frame[..]).unwrap().response.unwrap().event {
            Some(Event::Deliveries(deliveries)) => break deliveries,
            Some(Event::Heartbeat(_)) => {}
            event => panic!("{event:?}"),
        }
    };
    assert_eq!(bodies(&deliveries.deliveries), ["to a browser"]);
    for frame in [ack(ids(&deliveries.deliveries)), close()] {
        let request = SettleRequest { receive_id: receive_id.clone(), frame: Some(frame) };
        let settled = within("a settlement", post("Settle", web::framed(&request))).await.unwrap();
        let bytes = settled.bytes().await.unwrap();
        assert!(String::from_utf8_lossy(&bytes).contains("grpc-status:0"), "{bytes:?}");
    }
    let trailers = loop {
        // A heartbeat may precede them.
        if let (0x80, trailers) = next().await {
            break trailers;
        }
    };
    assert!(String::from_utf8_lossy(&trailers).contains("grpc-status:0"), "{trailers:?}");
    tenant.has_depth("jobs", 0).await;
}

#[tokio::test]
async fn only_pages_of_configured_origins_may_call() {
    let own = web::gateway(|config| config.grpc.cors_origins = vec!["https://app.example".into()]).await;
    let shared = SharedStack::get().stack.endpoint();
    let preflight = async |endpoint: &str, origin: &str| {
        let url = format!("{endpoint}/warrengate.v1.Messaging/Receive");
        let request = web::http().request(reqwest::Method::OPTIONS, url).header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        let request = request.header("access-control-request-headers", "authorization,content-type,x-grpc-web");
        within("a preflight", request.send()).await.unwrap().headers().clone()
    };
    let allowed = preflight(&own.endpoint(), "https://app.example").await;
    assert_eq!(allowed["access-control-allow-origin"], "https://app.example");
    let headers = allowed["access-control-allow-headers"].to_str().unwrap();
    for header in ["authorization", "content-type", "x-grpc-web"] {
        assert!(headers.contains(header), "{headers}");
    }
    for (endpoint, origin) in [(own.endpoint(), "https://evil.example"), (shared, "https://app.example")] {
        let refused = preflight(&endpoint, origin).await;
        assert!(!refused.contains_key("access-control-allow-origin"), "{refused:?}");
    }
    own.running.shutdown().await;
}
