//! Requests for more of something than the plan allows, repeated at an even pace. What is granted is kept until the
//! end; refusals are counted.
//!
//! Only the expected refusal counts; any other error ends the requests.

use std::{any::Any, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{cases::Resource, offender::Tally};
use warrengate::{
    client::{self, Client},
    pb,
};

use crate::{
    Error,
    job::{Account, Endpoints},
    worker::connect_to_broker,
};

/// Limits the unanswered requests, so that they do not accumulate when the gateway is slow to refuse.
const MAX_UNANSWERED: usize = 100;

/// The result of a request: the granted resource, or `None` when the limit refused it.
type Answer = Result<Option<Granted>, Error>;
type Granted = Box<dyn Any + Send>;

/// Repeats the request until an answer is neither a success nor the refusal of the limit.
pub(super) async fn run(
    request_one: impl Fn(u64) -> BoxFuture<'static, Answer> + Send,
    per_second: u32,
    tally: Arc<Tally>,
) -> Result<(), Error> {
    let (mut pending, mut granted) = (JoinSet::new(), Vec::new());
    let mut ticks = interval(Duration::from_secs(1) / per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut number = 0;
    loop {
        tokio::select! {
            _ = ticks.tick(), if pending.len() < MAX_UNANSWERED => {
                pending.spawn(request_one(number));
                number += 1;
            }
            Some(answer) = pending.join_next() => match answer.map_err(|error| Error::Scenario(error.to_string()))?? {
                Some(got) => {
                    granted.push(got);
                    tally.answered(1, 0);
                }
                None => tally.answered(1, 1),
            },
        }
    }
}

/// The clients that make the requests.
#[derive(Clone)]
pub(super) struct Requester {
    pub(super) client: Client,
    pub(super) admin: Client,
    pub(super) tenant: String,
    pub(super) queue: String,
}

/// The refusal of a request that would hash a secret while too many are being hashed.
const TOO_MANY_SECRET_CHECKS: &str = "TOO_MANY_SECRET_CHECKS";

/// Requests one more of this kind; `reason` is the expected refusal. New clients have secrets, so on a slow machine
/// they may also be refused because too many secrets are being hashed.
pub(super) fn calls(
    requester: Requester,
    resource: Resource,
    reason: &'static str,
) -> impl Fn(u64) -> BoxFuture<'static, Answer> + Send {
    move |number| {
        let requester = requester.clone();
        let is_expected = move |refusal: &str| refusal == reason || refusal == TOO_MANY_SECRET_CHECKS;
        Box::pin(async move {
            match requester.request_one(resource, format!("more-{number}")).await.map_err(client::Error::from) {
                Ok(got) => Ok(Some(got)),
                Err(error) if error.refusal().is_some_and(|refusal| is_expected(refusal.reason())) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
    }
}

/// Opens another direct connection to the broker, with the tenant's own certificate.
pub(super) fn connections(endpoints: Endpoints, account: Account) -> impl Fn(u64) -> BoxFuture<'static, Answer> + Send {
    let (endpoints, account) = (Arc::new(endpoints), Arc::new(account));
    move |_| {
        let (endpoints, account) = (Arc::clone(&endpoints), Arc::clone(&account));
        Box::pin(async move {
            match connect_to_broker(&endpoints, &account, "bench over limit").await {
                Ok(connection) => Ok(Some(Box::new(connection) as Granted)),
                Err(Error::Amqp(error)) if is_refusal_by_broker(&error) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }
}

fn is_refusal_by_broker(error: &lapin::Error) -> bool {
    let lapin::ErrorKind::ProtocolError(error) = error.kind() else { return false };
    *error.kind() == AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)
}

impl Requester {
    async fn request_one(&self, resource: Resource, name: String) -> Result<Granted, Status> {
        let nothing = || Box::new(()) as Granted;
        let mut topology = self.client.topology();
        match resource {
            Resource::Stream => {
                let (frames, outgoing) = mpsc::channel::<pb::PublishRequest>(1);
                let answers = self.client.raw_messaging().publish(ReceiverStream::new(outgoing)).await?;
                Ok(Box::new((frames, answers)))
            }
            Resource::Queue => {
                let queue = Some(pb::Queue { name, ..pb::Queue::default() });
                let request = pb::DeclareQueueRequest { queue, validate_only: false };
                topology.declare_queue(request).await.map(|_| nothing())
            }
            Resource::Exchange => {
                let exchange =
                    Some(pb::Exchange { name, r#type: pb::ExchangeType::Topic.into(), ..pb::Exchange::default() });
                let request = pb::DeclareExchangeRequest { exchange, validate_only: false };
                topology.declare_exchange(request).await.map(|_| nothing())
            }
            Resource::Binding => {
                let binding = Some(pb::Binding {
                    source: "amq.topic".to_owned(),
                    destination: self.queue.clone(),
                    routing_key: name,
                    ..pb::Binding::default()
                });
                topology.bind(pb::BindRequest { binding }).await.map(|_| nothing())
            }
            Resource::Client => {
                let client_id = format!("{}.{name}", self.tenant);
                let client = Some(pb::Client { client_id, ..pb::Client::default() });
                let request = pb::CreateClientRequest { client, ..pb::CreateClientRequest::default() };
                self.admin.admin().create_client(request).await.map(|_| nothing())
            }
        }
    }
}
