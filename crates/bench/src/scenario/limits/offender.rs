//! The tenant that exceeds a limit: it creates the plan and the tenant, and tries without end.
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
    asking::{self, Asker},
    cases::{Case, Tries},
    publishing,
};
use warrengate::{client, pb};

use crate::{Error, plan::QueueKind, rig::Rig, worker::connect_to_gateway};

/// So many are over the limit before it counts as reached.
const REACHED: u64 = 10;
/// What is stored is measured every few seconds only.
const REACHED_WITHIN: Duration = Duration::from_secs(60);

/// What came of the tries. What has no answer yet is not counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) answered: u64,
    pub(super) refused: u64,
    pub(super) at: Instant,
}

/// Counts of what is going on.
#[derive(Default)]
pub(super) struct Tally {
    answered: AtomicU64,
    refused: AtomicU64,
    moved: Notify,
}

impl Tally {
    /// So many answers, of which so many tell of the limit.
    pub(super) fn answered(&self, count: u64, refused: u64) {
        self.answered.fetch_add(count, Relaxed);
        self.refused.fetch_add(refused, Relaxed);
        self.moved.notify_one();
    }

    async fn reached(&self) {
        while self.refused.load(Relaxed) < REACHED {
            self.moved.notified().await;
        }
    }
}

/// A tenant that tries ten times what its plan allows, until it is ended or dropped.
pub(super) struct Offender {
    limit: &'static str,
    name: String,
    tally: Arc<Tally>,
    /// One task, which ends only by an error.
    work: JoinSet<Result<(), Error>>,
}

impl Offender {
    /// Makes a plan and a tenant of this name, and lets it try until its limit is reached.
    pub(super) async fn start(rig: &mut Rig, case: &Case, name: &str) -> Result<Self, Error> {
        let plan = pb::Plan { name: name.to_owned(), ..case.plan.clone() };
        let request = pb::CreatePlanRequest { plan: Some(plan), ..pb::CreatePlanRequest::default() };
        rig.admin().admin().create_plan(request).await.map_err(client::Error::from)?;
        let accounts = rig.accounts(&[name.to_owned()], name, QueueKind::Quorum, 1).await?;
        let account = accounts.into_iter().next().ok_or_else(|| Error::Inside("no tenant was made".to_owned()))?;
        let doors = rig.doors(rig.gateway());
        let client = connect_to_gateway(&doors, &account).await?;
        let queue = account.queues.first().cloned().unwrap_or_default();
        let (tally, mut work) = (Arc::new(Tally::default()), JoinSet::new());
        let counted = Arc::clone(&tally);
        match case.tries {
            Tries::Messages { frames_a_second, messages_a_frame, bytes, over } => {
                let load = publishing::Load { queue, frames_a_second, messages_a_frame, bytes, over };
                work.spawn(publishing::run(client, load, counted));
            }
            Tries::Asking { a_second, thing, over } => {
                let asker = Asker { client, admin: rig.admin().clone(), tenant: name.to_owned(), queue };
                work.spawn(asking::run(asking::calls(asker, thing, over), a_second, counted));
            }
            Tries::Connecting { a_second } => {
                work.spawn(asking::run(asking::connections(doors, account), a_second, counted));
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

    /// Ends it, and takes its tenant and plan away.
    ///
    /// # Errors
    /// Also when it had ended before, so that it was not there all the time.
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
        Error::Inside(format!("the tenant over {} gave up: {why}", self.limit))
    }
}
