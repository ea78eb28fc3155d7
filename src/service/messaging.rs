//! `Messaging`: a caller is admitted and its stream handed to the machine that keeps it.

use std::pin::Pin;

use futures_util::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{incoming, outgoing};
use crate::{
    audit::Witness,
    auth::Caller,
    broker::Broker,
    pb::{
        PublishBatchRequest, PublishBatchResponse, PublishRequest, PublishResponse, SubscribeRequest,
        SubscribeResponse, messaging_server::Messaging,
    },
    stream::{
        publish,
        session::{Session, SessionContext},
        subscribe::{self, SubscribeContext},
    },
    telemetry::StreamKind,
    tenant::{Action, Tenants},
};
use std::sync::Arc;

/// The data plane.
pub struct MessagingService {
    tenants: Arc<Tenants>,
    broker: Broker,
    session: SessionContext,
    subscribe: SubscribeContext,
}

impl MessagingService {
    /// The data plane of one gateway.
    pub fn new(tenants: Arc<Tenants>, session: SessionContext, subscribe: SubscribeContext) -> Self {
        Self { tenants, broker: subscribe.broker.clone(), session, subscribe }
    }

    fn open<T>(&self, request: &Request<T>, action: Action, kind: StreamKind) -> Result<Session, Status> {
        let caller = Caller::from_request(request).map_err(crate::error::Failure::from)?;
        let scope = self.tenants.admit(caller, action).map_err(crate::error::Failure::from)?;
        let (call, witness) = (request.extensions().get(), Witness::of_request(request));
        Ok(Session::open(&self.session, scope, kind, call, witness)?)
    }
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
        let results = publish::run_batch(publisher, session, request.into_inner().publications).await?;
        Ok(Response::new(PublishBatchResponse { results }))
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
        Ok(Response::new(Box::pin(outgoing(responses))))
    }
}
