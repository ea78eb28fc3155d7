//! `grpc.health.v1.Health` as specified: a watch of an unknown service reports that and stays open, and every watch
//! reports the shutdown of the gateway.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server::Health,
};

use super::anonymous::Anonymous;
use crate::{
    auth::Caller,
    error::{Failure, Kind},
};

/// The services whose health can be requested; the empty name means the whole gateway.
const SERVICES: [&str; 5] =
    ["", "warrengate.v1.Messaging", "warrengate.v1.Topology", "warrengate.v1.Auth", "warrengate.v1.Admin"];

/// Answers health checks.
pub(super) struct HealthService {
    is_serving: watch::Receiver<bool>,
    anonymous: Anonymous,
}

impl HealthService {
    pub(super) fn new(is_serving: watch::Receiver<bool>, anonymous: Anonymous) -> Self {
        Self { is_serving, anonymous }
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

fn status(is_serving: bool) -> ServingStatus {
    if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match SERVICES.contains(&request.get_ref().service.as_str()) {
            true => Ok(Response::new(answer(status(*self.is_serving.borrow())))),
            false => Err(Failure::new(Kind::NotFound, "SERVICE_UNKNOWN", "this service does not exist").into()),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let permit = match (request.extensions().get::<Caller>(), request.remote_addr()) {
            (None, Some(peer)) => Some(self.anonymous.watch(peer.ip()).ok_or_else(|| {
                let text = "too many health watches without a token are open; use Check, or send a token";
                Failure::new(Kind::Exhausted, "TOO_MANY_HEALTH_WATCHES", text)
            })?),
            _ => None,
        };
        let is_known = SERVICES.contains(&request.get_ref().service.as_str());
        let statuses = WatchStream::new(self.is_serving.clone()).map(move |is_serving| {
            // The permit is kept as long as the stream.
            let _ = &permit;
            if is_known { status(is_serving) } else { ServingStatus::ServiceUnknown }
        });
        // An unknown service has no change to report when the gateway stops.
        let mut last = None;
        let changes = statuses.filter_map(move |status| {
            let is_new = last.replace(status) != Some(status);
            std::future::ready(is_new.then(|| Ok(answer(status))))
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
