//! A scripted peer for unit tests: it implements `Messaging` and `Auth` over a real socket, so that a test decides
//! exactly when a stream breaks, drains or is refused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::{Client, ClientOptions, Credentials};
use crate::pb::{
    self, auth_server, messaging_server, publish_request, publish_response, subscribe_request, subscribe_response,
};

/// One accepted stream, controlled by the test. Dropping it ends the stream with OK.
pub(super) struct Side<In, Out> {
    pub(super) authorization: String,
    requests: Streaming<In>,
    responses: mpsc::Sender<Result<Out, Status>>,
}

pub(super) type PublishSide = Side<pb::PublishRequest, pb::PublishResponse>;
pub(super) type SubscribeSide = Side<pb::SubscribeRequest, pb::SubscribeResponse>;

/// The peer and the streams that it accepts.
pub(super) struct Peer {
    address: String,
    publishes: mpsc::Receiver<PublishSide>,
    subscribes: mpsc::Receiver<SubscribeSide>,
    tokens: Arc<AtomicUsize>,
    _server: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Script {
    publishes: mpsc::Sender<PublishSide>,
    subscribes: mpsc::Sender<SubscribeSide>,
    tokens: Arc<AtomicUsize>,
}

impl Peer {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let (publishes, publish_sides) = mpsc::channel(8);
        let (subscribes, subscribe_sides) = mpsc::channel(8);
        let tokens = Arc::new(AtomicUsize::new(0));
        let script = Script { publishes, subscribes, tokens: Arc::clone(&tokens) };
        let server = Server::builder()
            .add_service(messaging_server::MessagingServer::new(script.clone()))
            .add_service(auth_server::AuthServer::new(script))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = AbortOnDropHandle::new(tokio::spawn(async move { server.await.expect("a server") }));
        Self { address, publishes: publish_sides, subscribes: subscribe_sides, tokens, _server: server }
    }

    pub(super) async fn client(&self) -> Client {
        self.client_with(Credentials::Secret { client_id: "acme.app".into(), secret: "secret".into() }).await
    }

    pub(super) async fn client_with(&self, credentials: Credentials) -> Client {
        Client::connect(ClientOptions::new(&self.address, credentials)).await.expect("connected")
    }

    pub(super) async fn client_from(&self, change: impl FnOnce(ClientOptions) -> ClientOptions) -> Client {
        let credentials = Credentials::Secret { client_id: "acme.app".into(), secret: "secret".into() };
        Client::connect(change(ClientOptions::new(&self.address, credentials))).await.expect("connected")
    }

    pub(super) fn tokens_issued(&self) -> usize {
        self.tokens.load(Ordering::SeqCst)
    }

    pub(super) async fn publish_stream(&mut self) -> PublishSide {
        self.publishes.recv().await.expect("a publish stream")
    }

    pub(super) async fn subscribe_stream(&mut self) -> SubscribeSide {
        self.subscribes.recv().await.expect("a subscribe stream")
    }
}

impl<In, Out> Side<In, Out> {
    pub(super) async fn request(&mut self) -> Option<In> {
        self.requests.message().await.expect("a request")
    }

    pub(super) async fn respond(&self, response: Result<Out, Status>) {
        self.responses.send(response).await.expect("a client that listens");
    }
}

impl PublishSide {
    pub(super) async fn publications(&mut self) -> Vec<pb::Publication> {
        match self.request().await.and_then(|request| request.frame) {
            Some(publish_request::Frame::Publications(frame)) => frame.publications,
            other => panic!("publications expected, not {other:?}"),
        }
    }

    pub(super) async fn answer(&self, publications: &[pb::Publication], outcome: pb::Outcome) {
        let result = |publication: &pb::Publication| pb::PublishResult {
            sequence: publication.sequence,
            outcome: outcome.into(),
            message_id: publication.message.as_ref().expect("a message").message_id.clone(),
            ..Default::default()
        };
        let results = publications.iter().map(result).collect();
        self.event(publish_response::Event::Results(pb::PublishResults { results })).await;
    }

    pub(super) async fn event(&self, event: publish_response::Event) {
        self.respond(Ok(pb::PublishResponse { event: Some(event) })).await;
    }
}

impl SubscribeSide {
    pub(super) async fn frame(&mut self) -> subscribe_request::Frame {
        self.request().await.and_then(|request| request.frame).expect("a frame")
    }

    /// Takes the first frame and reports that the subscription is established.
    pub(super) async fn start(&mut self) -> pb::SubscribeStart {
        let subscribe_request::Frame::Start(start) = self.frame().await else { panic!("start expected") };
        self.event(subscribe_response::Event::Started(pb::SubscribeStarted::default())).await;
        start
    }

    pub(super) async fn event(&self, event: subscribe_response::Event) {
        self.respond(Ok(pb::SubscribeResponse { event: Some(event) })).await;
    }

    pub(super) async fn deliver(&self, ids: impl IntoIterator<Item = u64>) {
        let delivery = |delivery_id| pb::Delivery {
            delivery_id,
            message: Some(pb::Message { body: format!("message {delivery_id}").into(), ..Default::default() }),
            ..Default::default()
        };
        let deliveries = ids.into_iter().map(delivery).collect();
        self.event(subscribe_response::Event::Deliveries(pb::Deliveries { deliveries })).await;
    }
}

/// A warning that the gateway is going to stop.
pub(super) fn draining() -> pb::Draining {
    pb::Draining { deadline: Some((SystemTime::now() + Duration::from_secs(20)).into()) }
}

/// A warning that the token expires in an hour, as the peer's tokens do.
pub(super) fn auth_expiring() -> pb::AuthExpiring {
    pb::AuthExpiring { expires: Some((SystemTime::now() + Duration::from_secs(3600)).into()) }
}

fn accept<In, Out>(request: Request<Streaming<In>>) -> (Side<In, Out>, ReceiverStream<Result<Out, Status>>) {
    let authorization = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    let authorization = authorization.unwrap_or_default().to_owned();
    let (responses, stream) = mpsc::channel(64);
    (Side { authorization, requests: request.into_inner(), responses }, ReceiverStream::new(stream))
}

#[tonic::async_trait]
impl messaging_server::Messaging for Script {
    type PublishStream = ReceiverStream<Result<pb::PublishResponse, Status>>;
    type SubscribeStream = ReceiverStream<Result<pb::SubscribeResponse, Status>>;

    async fn publish_batch(
        &self,
        _: Request<pb::PublishBatchRequest>,
    ) -> Result<Response<pb::PublishBatchResponse>, Status> {
        Err(Status::unavailable("batches are not implemented by this peer"))
    }

    async fn publish(
        &self,
        request: Request<Streaming<pb::PublishRequest>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        let (side, stream) = accept(request);
        self.publishes.send(side).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(stream))
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (side, stream) = accept(request);
        self.subscribes.send(side).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(stream))
    }

    type ReceiveStream = ReceiverStream<Result<pb::ReceiveResponse, Status>>;

    async fn receive(&self, _: Request<pb::ReceiveRequest>) -> Result<Response<Self::ReceiveStream>, Status> {
        Err(Status::unavailable("the client uses client streaming"))
    }

    async fn settle(&self, _: Request<pb::SettleRequest>) -> Result<Response<pb::SettleResponse>, Status> {
        Err(Status::unavailable("the client uses client streaming"))
    }
}

#[tonic::async_trait]
impl auth_server::Auth for Script {
    async fn issue_token(&self, _: Request<pb::IssueTokenRequest>) -> Result<Response<pb::IssueTokenResponse>, Status> {
        let number = self.tokens.fetch_add(1, Ordering::SeqCst) + 1;
        // Each expires later than the previous one.
        let expires = SystemTime::now() + Duration::from_secs(3600 * number as u64);
        let access_token = format!("token-{number}");
        Ok(Response::new(pb::IssueTokenResponse {
            access_token,
            token_type: "Bearer".into(),
            expires: Some(expires.into()),
        }))
    }

    async fn who_am_i(&self, _: Request<pb::WhoAmIRequest>) -> Result<Response<pb::WhoAmIResponse>, Status> {
        Err(Status::unimplemented("not implemented by this peer"))
    }
}
