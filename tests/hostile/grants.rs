//! Grants that are removed at another gateway: from an open subscription, a running redrive, an open publish stream, and an
//! administrator.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use warrengate::{
    client::Client,
    pb::{self, publish_request::Frame as PublishFrame, publish_response::Event, subscribe_request::Frame},
};

use crate::{
    Scale,
    consumer::{RawSubscription, start},
    environment::{Environment, all_grants, reason},
    report::Report,
    wait::within,
};

const LIMIT: Duration = Duration::from_secs(1);

pub async fn removed(environment: &Arc<Environment>, scale: Scale, report: &mut Report) {
    let tenant = environment.tenant().await;
    tenant.queue("jobs", pb::QueueType::Quorum).await;
    tenant.queue("published", pb::QueueType::Quorum).await;
    // Each round redrives one or two.
    dead_letters(environment, &tenant, 3 * scale.rounds + 10).await;
    let mut took: [Vec<Duration>; 4] = Default::default();
    for round in 0..scale.rounds {
        let credentials = environment.client_of(&tenant.id, &format!("reader{round}"), all_grants()).await;
        let client = environment.connect(&credentials).await;
        let mut subscription = RawSubscription::open(&client, start("jobs")).await;
        let selection = pb::DeadLetterSelection { all: true, ..Default::default() };
        let request = pb::RedriveDeadLettersRequest { selection: Some(selection), max_per_second: 1, edit: None };
        let mut redrive = client.topology().redrive_dead_letters(request).await.unwrap().into_inner();
        let mut publishing = Publishing::open(&client).await;
        assert!(publishing.publish().await);
        environment.remove_grants(&credentials.0).await;
        let removed = Instant::now();
        within("a refused message", async {
            while publishing.publish().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        took[3].push(removed.elapsed());
        let status = subscription.failure().await;
        assert_eq!(reason(&status), "SUBSCRIBE_NOT_GRANTED", "{status:?}");
        took[0].push(removed.elapsed());
        within("the end of the redrive", async { while let Ok(Some(_)) = redrive.message().await {} }).await;
        took[1].push(removed.elapsed());

        let grants = pb::Grants { administer: true, ..all_grants() };
        let credentials = environment.client_of(&tenant.id, &format!("administrator{round}"), grants).await;
        let administrator = environment.connect(&credentials).await;
        let list = async || -> Result<(), Status> {
            let request = pb::ListClientsRequest { tenant: tenant.id.clone(), ..Default::default() };
            administrator.admin().list_clients(request).await.map(drop)
        };
        list().await.unwrap();
        environment.remove_grants(&credentials.0).await;
        let removed = Instant::now();
        within("the end of the administrator", async {
            while list().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        took[2].push(removed.elapsed());
    }
    for (what, took) in ["subscription", "redrive", "administrator", "publish stream"].into_iter().zip(took) {
        let attack = format!("grants removed: {what}");
        let in_time = took.iter().filter(|took| **took <= LIMIT).count();
        let longest = took.iter().max().copied().unwrap_or_default();
        let text = format!("{in_time} of {}, {longest:.2?} at most", took.len());
        report.time(&attack, &format!("over within 1 s, {0} of {0}", scale.rounds), text, in_time == scale.rounds);
    }
}

/// An open publish stream.
struct Publishing {
    frames: mpsc::Sender<pb::PublishRequest>,
    responses: tonic::Streaming<pb::PublishResponse>,
}

impl Publishing {
    async fn open(client: &Client) -> Self {
        let (frames, requests) = mpsc::channel(1);
        let responses = client.raw_messaging().publish(ReceiverStream::new(requests)).await.unwrap().into_inner();
        Self { frames, responses }
    }

    /// Publishes to a queue without consumers; returns whether the message was confirmed.
    async fn publish(&mut self) -> bool {
        let message = Some(pb::Message { body: "work".into(), ..Default::default() });
        let publication = pb::Publication { routing_key: "published".into(), message, ..Default::default() };
        let publications = pb::Publications { publications: vec![publication] };
        let frame = Some(PublishFrame::Publications(publications));
        let _ = self.frames.send(pb::PublishRequest { frame }).await;
        while let Ok(Some(response)) = within("an outcome", self.responses.message()).await {
            if let Some(Event::Results(results)) = response.event {
                return results.results[0].outcome() == pb::Outcome::Confirmed;
            }
        }
        false
    }
}

/// Creates dead letters: each message is delivered and rejected.
async fn dead_letters(environment: &Arc<Environment>, tenant: &crate::environment::Tenant, count: usize) {
    tenant.fill("jobs", count, pb::Message { body: "work".into(), ..Default::default() }).await;
    let client = environment.connect(&tenant.credentials).await;
    let mut subscription = RawSubscription::open(&client, start("jobs")).await;
    let delivery_ids = crate::consumer::ids(&subscription.take(count).await);
    let nack = pb::Nack { delivery_ids, action: pb::NackAction::DeadLetter.into(), ..Default::default() };
    subscription.send(Frame::Nack(nack)).await;
    subscription.is_quiet().await;
    subscription.close().await;
}
