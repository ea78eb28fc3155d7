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

use super::{cases::Thing, offender::Tally};
use warrengate::{
    client::{self, Client},
    pb,
};

use crate::{
    Error,
    job::{Account, Doors},
    worker::connect_to_broker,
};

/// Unanswered at once: a gateway that is slow to refuse must not meet ever more.
const MAX_UNANSWERED: usize = 100;

/// What came of asking: something to hold, or nothing.
type Answer = Result<Option<Held>, Error>;
type Held = Box<dyn Any + Send>;

/// Asks for one more each time, until an answer is neither a yes nor the no of the limit.
pub(super) async fn run(
    ask: impl Fn(u64) -> BoxFuture<'static, Answer> + Send,
    a_second: u32,
    tally: Arc<Tally>,
) -> Result<(), Error> {
    let (mut asking, mut held) = (JoinSet::new(), Vec::new());
    let mut ticks = interval(Duration::from_secs(1) / a_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut number = 0;
    loop {
        tokio::select! {
            _ = ticks.tick(), if asking.len() < MAX_UNANSWERED => {
                asking.spawn(ask(number));
                number += 1;
            }
            Some(answer) = asking.join_next() => match answer.map_err(|error| Error::Inside(error.to_string()))?? {
                Some(got) => {
                    held.push(got);
                    tally.answered(1, 0);
                }
                None => tally.answered(1, 1),
            },
        }
    }
}

/// A tenant that asks by calls.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) client: Client,
    pub(super) admin: Client,
    pub(super) tenant: String,
    pub(super) queue: String,
}

/// Calls for one more of this thing, of which too many are refused by this reason.
pub(super) fn calls(
    asker: Asker,
    thing: Thing,
    reason: &'static str,
) -> impl Fn(u64) -> BoxFuture<'static, Answer> + Send {
    move |number| {
        let asker = asker.clone();
        Box::pin(async move {
            match asker.ask(thing, format!("more-{number}")).await.map_err(client::Error::from) {
                Ok(got) => Ok(Some(got)),
                Err(error) if error.refusal().is_some_and(|refusal| refusal.reason() == reason) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
    }
}

/// One more connection straight to the broker, with the tenant's own certificate.
pub(super) fn connections(doors: Doors, account: Account) -> impl Fn(u64) -> BoxFuture<'static, Answer> + Send {
    let (doors, account) = (Arc::new(doors), Arc::new(account));
    move |_| {
        let (doors, account) = (Arc::clone(&doors), Arc::clone(&account));
        Box::pin(async move {
            match connect_to_broker(&doors, &account, "bench one more").await {
                Ok(connection) => Ok(Some(Box::new(connection) as Held)),
                Err(Error::Amqp(error)) if is_the_brokers_no(&error) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }
}

fn is_the_brokers_no(error: &lapin::Error) -> bool {
    let lapin::ErrorKind::ProtocolError(error) = error.kind() else { return false };
    *error.kind() == AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)
}

impl Asker {
    async fn ask(&self, thing: Thing, name: String) -> Result<Held, Status> {
        let nothing = || Box::new(()) as Held;
        let mut topology = self.client.topology();
        match thing {
            Thing::Stream => {
                let (frames, outgoing) = mpsc::channel::<pb::PublishRequest>(1);
                let answers = self.client.raw_messaging().publish(ReceiverStream::new(outgoing)).await?;
                Ok(Box::new((frames, answers)))
            }
            Thing::Queue => {
                let queue = Some(pb::Queue { name, ..pb::Queue::default() });
                let request = pb::DeclareQueueRequest { queue, validate_only: false };
                topology.declare_queue(request).await.map(|_| nothing())
            }
            Thing::Exchange => {
                let exchange =
                    Some(pb::Exchange { name, r#type: pb::ExchangeType::Topic.into(), ..pb::Exchange::default() });
                let request = pb::DeclareExchangeRequest { exchange, validate_only: false };
                topology.declare_exchange(request).await.map(|_| nothing())
            }
            Thing::Binding => {
                let binding = Some(pb::Binding {
                    source: "amq.topic".to_owned(),
                    destination: self.queue.clone(),
                    routing_key: name,
                    ..pb::Binding::default()
                });
                topology.bind(pb::BindRequest { binding }).await.map(|_| nothing())
            }
            Thing::Client => {
                let client_id = format!("{}.{name}", self.tenant);
                let client = Some(pb::Client { client_id, ..pb::Client::default() });
                let request = pb::CreateClientRequest { client, ..pb::CreateClientRequest::default() };
                self.admin.admin().create_client(request).await.map(|_| nothing())
            }
        }
    }
}
