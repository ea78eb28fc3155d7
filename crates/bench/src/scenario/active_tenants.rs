//! Many tenants with a publish and a subscribe stream each: the gateway's threads and its memory for each tenant, and
//! the time until all streams work again after a restart of the broker.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{ScenarioReport, named};
use warrengate::{
    client::{Publisher, PublisherOptions, SubscribeOptions, Subscription, publication},
    pb,
};

use crate::{
    Error,
    figures::{Figure, number},
    job::{Account, Endpoints},
    plan::{Plan, QueueKind, Scenario},
    rig::{Rig, names},
    worker::connect_to_gateway,
};

const MAX_CONCURRENT: usize = 32;
/// The time limit for all streams to work again.
const BACK_WITHIN: Duration = Duration::from_secs(600);

/// The streams of one tenant.
struct Active {
    queue: String,
    publisher: Publisher,
    subscription: Subscription,
}

pub(super) async fn measure(rig: &mut Rig, plan: &Plan) -> Result<ScenarioReport, Error> {
    let count = plan.many_tenants;
    plan.say(&format!("creating {count} tenants"));
    // Classic queues, because a thousand quorum queues would measure the broker's leader elections.
    let names = names("active", count);
    let accounts = rig.accounts_sharing(&names, &plan.tenant_plan, QueueKind::Classic, (1, 1)).await?;
    // A gateway of its own: the tenants' connections with which the queues were created are on the first one.
    let gateway = rig.another_gateway("active", &[]).await?;
    let mut meter = rig.meter(None, Some(&gateway));
    let (before, threads_before) = (meter.read(None), gateway.threads());
    let endpoints = rig.endpoints(&gateway);
    plan.say("opening a publish and a subscribe stream of each");
    let active = stream::iter(0..count).map(|index| open(&endpoints, &accounts[index]));
    let mut active: Vec<Active> = active.buffer_unordered(MAX_CONCURRENT).try_collect().await?;
    let (after, threads) = (meter.read(Some(&before)), gateway.threads());
    plan.say("restarting the broker");
    let stopping = Instant::now();
    rig.node().restart().await?;
    let (away, ready) = (stopping.elapsed(), Instant::now());
    let again = stream::iter(active.iter_mut()).map(Active::round_trip);
    let again = again.buffer_unordered(count).try_collect::<Vec<()>>();
    tokio::time::timeout(BACK_WITHIN, again).await.map_err(|_| Error::TooSlow("the streams did not work again"))??;
    let back = ready.elapsed();
    drop(active);
    gateway.end().await?;
    rig.delete(&accounts).await?;
    let grown = after.memory.gateway.zip(before.memory.gateway).map(|(after, before)| after.saturating_sub(before));
    let each = grown.map(|bytes| number(bytes) / 1024.0 / number(count as u64));
    let figures = named([
        ("threads of the gateway", "", Figure::of(threads.map(number)), "≤ 64"),
        ("threads of the gateway before", "", Figure::of(threads_before.map(number)), ""),
        ("gateway memory each", "KiB", Figure::of(each), "≤ 300"),
        ("all streams work after a restart of the broker", "s", Figure::of([back.as_secs_f64()]), "≤ 60"),
        ("restart of the broker", "s", Figure::of([away.as_secs_f64()]), ""),
    ]);
    let description =
        format!("{count} tenants with a publish and a subscribe stream each, on connections of their own");
    Ok(ScenarioReport { scenario: Scenario::ActiveTenants, description, figures })
}

async fn open(endpoints: &Endpoints, account: &Account) -> Result<Active, Error> {
    let client = connect_to_gateway(endpoints, account).await?;
    let queue = account.queues.first().cloned().unwrap_or_default();
    let subscription = client.subscribe(SubscribeOptions::queue(&queue)).await?;
    let mut active = Active { queue, publisher: client.publisher_with(PublisherOptions::default()), subscription };
    active.round_trip().await?;
    Ok(active)
}

impl Active {
    /// Publishes a message until one is confirmed, and receives one.
    async fn round_trip(&mut self) -> Result<(), Error> {
        loop {
            let message = publication("", &self.queue, "active");
            let result = self.publisher.send(message).await?.await;
            if result.outcome() == pb::Outcome::Confirmed {
                break;
            }
        }
        let delivery = self.subscription.next().await?.ok_or(Error::ConsumerEnded)?;
        self.subscription.settler().ack_through(&delivery)?;
        Ok(())
    }
}
