//! The `Messaging` service: it admits the caller and passes the stream on to its state machine in `stream`.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{charged, incoming, outgoing};
use crate::{
    audit::AuditContext,
    auth::Caller,
    broker::Broker,
    error::Failure,
    pb::{
        PublishBatchRequest, PublishBatchResponse, PublishRequest, PublishResponse, ReceiveRequest, ReceiveResponse,
        SettleRequest, SettleResponse, SubscribeRequest, SubscribeResponse, messaging_server::Messaging,
        settle_request, subscribe_request::Frame,
    },
    stream::{
        publish,
        receive::Receives,
        session::{Session, SessionContext},
        subscribe::{self, SubscribeContext},
    },
    telemetry::StreamKind,
    tenant::{Action, Tenants},
};
use std::sync::Arc;

/// The `Messaging` service.
pub struct MessagingService {
    tenants: Arc<Tenants>,
    broker: Broker,
    session: SessionContext,
    subscribe: SubscribeContext,
    receives: Receives,
}

impl MessagingService {
    /// Creates the service of one gateway.
    pub fn new(tenants: Arc<Tenants>, session: SessionContext, subscribe: SubscribeContext) -> Self {
        Self { tenants, broker: subscribe.broker.clone(), session, subscribe, receives: Receives::default() }
    }

    fn open<T>(&self, request: &Request<T>, action: Action, kind: StreamKind) -> Result<Session, Status> {
        let caller = Caller::from_request(request).map_err(Failure::from)?;
        let scope = self.tenants.admit(caller, action).map_err(Failure::from)?;
        let (call, audit_context) = (request.extensions().get(), AuditContext::of_request(request));
        let session = Session::open(&self.session, scope, kind, call, audit_context)?;
        Ok(session.on_connection(request.extensions().get().cloned().unwrap_or_default()))
    }
}

/// The frames of a subscription. The memory that a frame is charged for is released when tonic polls for the next one.
fn unread(
    mut responses: subscribe::Responses,
) -> impl Stream<Item = Result<SubscribeResponse, Status>> + Send + 'static {
    let mut last = None;
    futures_util::stream::poll_fn(move |cx| {
        drop(last.take());
        responses.poll_recv(cx).map_ok(|frame| {
            let (response, unread) = frame.into_parts();
            last = unread;
            response
        })
    })
    .map(|response| response.map_err(Status::from))
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Messaging for MessagingService {
    async fn publish_batch(
        &self,
        request: Request<PublishBatchRequest>,
    ) -> Result<Response<PublishBatchResponse>, Status> {
        let session = self.open(&request, Action::Publish, StreamKind::Publish)?;
        let publisher = self.broker.publisher(session.scope());
        let (results, charge) = publish::run_batch(publisher, session, request.into_inner().publications).await?;
        Ok(charged(PublishBatchResponse { results }, charge))
    }

    type PublishStream = Responses<PublishResponse>;

    async fn publish(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        let session = self.open(&request, Action::Publish, StreamKind::Publish)?;
        let publisher = self.broker.publisher(session.scope());
        let responses = publish::run(publisher, session, incoming(request.into_inner()));
        Ok(Response::new(Box::pin(outgoing(responses))))
    }

    type SubscribeStream = Responses<SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let session = self.open(&request, Action::Subscribe, StreamKind::Subscribe)?;
        let responses = subscribe::run(self.subscribe.clone(), session, incoming(request.into_inner()));
        Ok(Response::new(Box::pin(unread(responses))))
    }

    type ReceiveStream = Responses<ReceiveResponse>;

    async fn receive(&self, request: Request<ReceiveRequest>) -> Result<Response<Self::ReceiveStream>, Status> {
        let session = self.open(&request, Action::Subscribe, StreamKind::Subscribe)?;
        let start = SubscribeRequest { frame: request.into_inner().start.map(Frame::Start) };
        let (slot, frames) = self.receives.open(session.scope().caller().client(), start);
        let responses = subscribe::run(self.subscribe.clone(), session, ReceiverStream::new(frames));
        let mut receive_id = slot.id();
        let named = unread(responses).map(move |response| {
            // The slot is kept as long as the response.
            let _ = &slot;
            response.map(|response| ReceiveResponse {
                receive_id: std::mem::take(&mut receive_id),
                response: Some(response),
            })
        });
        Ok(Response::new(Box::pin(named)))
    }

    async fn settle(&self, request: Request<SettleRequest>) -> Result<Response<SettleResponse>, Status> {
        let caller = Caller::from_request(&request).map_err(Failure::from)?.clone();
        self.tenants.admit(&caller, Action::Subscribe).map_err(Failure::from)?;
        let SettleRequest { receive_id, frame } = request.into_inner();
        let frame = match frame {
            Some(settle_request::Frame::Ack(ack)) => Frame::Ack(ack),
            Some(settle_request::Frame::Nack(nack)) => Frame::Nack(nack),
            Some(settle_request::Frame::ExtendLease(extend)) => Frame::ExtendLease(extend),
            Some(settle_request::Frame::Reauthenticate(newer)) => Frame::Reauthenticate(newer),
            Some(settle_request::Frame::Close(_)) => {
                self.receives.close(caller.client(), &receive_id)?;
                return Ok(Response::new(SettleResponse {}));
            }
            None => return Err(Failure::invalid("frame", "is required").into()),
        };
        self.receives.deliver(caller.client(), &receive_id, SubscribeRequest { frame: Some(frame) }).await?;
        Ok(Response::new(SettleResponse {}))
    }
}
