//! The tenant that exceeds a limit: it creates the plan and the tenant, and attempts without end.
//!
//! It is returned only after its limit was reached, and an unexpected answer ends it with an error.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{sync::Notify, task::JoinSet};

use super::{
    cases::{Attempts, Case},
    publishing,
    requests::{self, Requester},
};
use warrengate::{client, pb};

use crate::{Error, plan::QueueKind, rig::Rig, worker::connect_to_gateway};

/// The number of refusals after which the limit counts as reached.
const REACHED: u64 = 10;
/// Stored messages and bytes are measured only every few seconds.
const REACHED_WITHIN: Duration = Duration::from_secs(60);

/// Counts of the attempts that were answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) answered: u64,
    pub(super) refused: u64,
    pub(super) at: Instant,
}

/// Running counts of the attempts.
#[derive(Default)]
pub(super) struct Tally {
    answered: AtomicU64,
    refused: AtomicU64,
    changed: Notify,
}

impl Tally {
    /// Adds answers, of which `refused` were over the limit.
    pub(super) fn answered(&self, count: u64, refused: u64) {
        self.answered.fetch_add(count, Relaxed);
        self.refused.fetch_add(refused, Relaxed);
        self.changed.notify_one();
    }

    async fn reached(&self) {
        while self.refused.load(Relaxed) < REACHED {
            self.changed.notified().await;
        }
    }
}

/// A tenant that exceeds a limit of its plan tenfold, until it is ended or dropped.
pub(super) struct Offender {
    limit: &'static str,
    name: String,
    tally: Arc<Tally>,
    /// One task, which ends only with an error.
    work: JoinSet<Result<(), Error>>,
}

impl Offender {
    /// Creates a plan and a tenant of this name, and returns when its limit is reached.
    pub(super) async fn start(rig: &mut Rig, case: &Case, name: &str) -> Result<Self, Error> {
        let plan = pb::Plan { name: name.to_owned(), ..case.plan.clone() };
        let request = pb::CreatePlanRequest { plan: Some(plan), ..pb::CreatePlanRequest::default() };
        rig.admin().admin().create_plan(request).await.map_err(client::Error::from)?;
        let accounts = rig.accounts(&[name.to_owned()], name, QueueKind::Quorum, 1).await?;
        let account = accounts.into_iter().next().ok_or_else(|| Error::Scenario("no tenant was created".to_owned()))?;
        let endpoints = rig.endpoints(rig.gateway());
        let client = connect_to_gateway(&endpoints, &account).await?;
        let queue = account.queues.first().cloned().unwrap_or_default();
        let (tally, mut work) = (Arc::new(Tally::default()), JoinSet::new());
        let counted = Arc::clone(&tally);
        match case.attempts {
            Attempts::Messages { frames_per_second, messages_per_frame, bytes, over } => {
                let load = publishing::Load { queue, frames_per_second, messages_per_frame, bytes, over };
                work.spawn(publishing::run(client, load, counted));
            }
            Attempts::Requests { per_second, resource, over } => {
                let requester = Requester { client, admin: rig.admin().clone(), tenant: name.to_owned(), queue };
                work.spawn(requests::run(requests::calls(requester, resource, over), per_second, counted));
            }
            Attempts::Connecting { per_second } => {
                work.spawn(requests::run(requests::connections(endpoints, account), per_second, counted));
            }
        }
        let mut offender = Self { limit: case.limit, name: name.to_owned(), tally, work };
        offender.until_reached().await?;
        Ok(offender)
    }

    async fn until_reached(&mut self) -> Result<(), Error> {
        let tally = Arc::clone(&self.tally);
        let reached = tokio::select! {
            reached = tokio::time::timeout(REACHED_WITHIN, tally.reached()) => reached,
            ended = self.work.join_next() => return Err(self.ended(ended)),
        };
        let Counts { answered, refused, .. } = self.counts();
        reached.map_err(|_| Error::NotReached { limit: self.limit, answered, refused })
    }

    pub(super) fn counts(&self) -> Counts {
        let (answered, refused) = (self.tally.answered.load(Relaxed), self.tally.refused.load(Relaxed));
        Counts { answered, refused, at: Instant::now() }
    }

    /// Ends it, and deletes its tenant and plan.
    ///
    /// # Errors
    /// Also when it ended before, because then the limit was not exceeded all the time.
    pub(super) async fn end(mut self, rig: &mut Rig) -> Result<(), Error> {
        if let Some(ended) = self.work.try_join_next() {
            return Err(self.ended(Some(ended)));
        }
        self.work.shutdown().await;
        rig.remove(&self.name).await?;
        let request = pb::DeletePlanRequest { name: self.name };
        rig.admin().admin().delete_plan(request).await.map_err(client::Error::from)?;
        Ok(())
    }

    fn ended(&self, ended: Option<Result<Result<(), Error>, tokio::task::JoinError>>) -> Error {
        let why = match ended {
            Some(Ok(Err(error))) => error.to_string(),
            Some(Err(error)) => error.to_string(),
            Some(Ok(Ok(()))) | None => "no reason".to_owned(),
        };
        Error::Scenario(format!("the tenant over {} stopped: {why}", self.limit))
    }
}
