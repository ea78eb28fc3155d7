//! One job from its connections to its outcome. Streams are opened and warmed up first, so the measured time contains
//! no handshakes; it ends when the last message is completed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use super::{
    direct,
    feed::{Feed, FeedContext, bodies, pace},
    gateway, ordinary,
    tally::{Counts, Tally},
};
use crate::{
    Error,
    job::{Job, Load, Outcome, Path},
};

/// Warm-up messages of each stream.
const WARM_UP: usize = 50;
/// The time limit for pending answers and deliveries after the end of the load.
const TIMEOUT: Duration = Duration::from_secs(120);

type Work = BoxFuture<'static, Result<(), Error>>;
type Publisher = Box<dyn FnOnce(Feed, Arc<Tally>) -> Work + Send>;
type Consumer = Box<dyn FnOnce(Arc<Tally>) -> Work + Send>;

/// Streams that are open and idle.
#[derive(Default)]
pub(super) struct Streams {
    publishers: Vec<Publisher>,
    consumers: Vec<Consumer>,
}

impl Streams {
    pub(super) fn publisher<F>(&mut self, run: impl FnOnce(Feed, Arc<Tally>) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.publishers.push(Box::new(|feed, tally| Box::pin(run(feed, tally))));
    }

    pub(super) fn consumer<F>(&mut self, run: impl FnOnce(Arc<Tally>) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.consumers.push(Box::new(|tally| Box::pin(run(tally))));
    }
}

/// Runs a job; the outcome contains the error if it failed.
pub(super) async fn run(job: Job, ready: oneshot::Sender<()>, go: oneshot::Receiver<()>) -> Outcome {
    let outcome = match job.load {
        Load::Idle | Load::Hoard => stay_idle(&job, ready, go).await,
        _ => measure(&job, ready, go).await,
    };
    outcome.unwrap_or_else(|error| Outcome { error: Some(error.to_string()), ..Outcome::default() })
}

async fn stay_idle(job: &Job, ready: oneshot::Sender<()>, go: oneshot::Receiver<()>) -> Result<Outcome, Error> {
    let streams = gateway::open_idle(job).await?;
    // The receiver is gone when the process is about to end.
    let _ = ready.send(());
    let _ = go.await;
    drop(streams);
    Ok(Outcome::default())
}

async fn measure(job: &Job, ready: oneshot::Sender<()>, go: oneshot::Receiver<()>) -> Result<Outcome, Error> {
    let tally = Arc::new(Tally::new(job.backlog()));
    let (publishers, mut consumers) = open(job).await?;
    let (start, started) = watch::channel(None);
    let limits_backlog = job.mode.publishes() && job.mode.consumes();
    let bodies = bodies(if job.sizes.is_empty() { std::slice::from_ref(&job.size) } else { &job.sizes });
    let plain = bodies[0].clone();
    let shared = FeedContext { tally: Arc::clone(&tally), go: started, bodies, limits_backlog };

    let mut tasks = JoinSet::new();
    let watched = |tally: &Arc<Tally>, work: Work| {
        let tally = Arc::clone(tally);
        async move {
            if let Err(error) = work.await {
                tally.fail(error.to_string());
            }
        }
    };
    let mut pacers = Vec::new();
    let mut publishing = JoinSet::new();
    for publisher in publishers {
        let feed = match job.load {
            Load::Full { seconds } => Feed::full(WARM_UP, &shared, Duration::from_secs_f64(seconds)),
            Load::Rate { .. } => {
                let (sender, items) = mpsc::unbounded_channel();
                pacers.push(sender);
                Feed::paced(WARM_UP, &shared, items)
            }
            _ => Feed::nothing(WARM_UP, &shared),
        };
        publishing.spawn(watched(&tally, publisher(feed, Arc::clone(&tally))));
    }
    // A consumer without a publisher has a full queue, so it starts with the measured time.
    if job.mode.publishes() {
        consumers.drain(..).for_each(|consumer| drop(tasks.spawn(watched(&tally, consumer(Arc::clone(&tally))))));
        let warm = (publishing.len() * WARM_UP) as u64;
        let consumes = job.mode.consumes();
        let is_warm = |counts: Counts| {
            counts.confirmed + counts.refused >= warm && (!consumes || counts.consumed >= counts.confirmed)
        };
        tokio::time::timeout(TIMEOUT, tally.until(is_warm)).await.map_err(|_| Error::TooSlow("warming up"))?;
    }
    let before = tally.counts();
    if let Some(error) = tally.error() {
        return Err(Error::Worker(error));
    }
    let _ = ready.send(());
    if go.await.is_err() {
        return Ok(Outcome::default());
    }
    let clock = Instant::now();
    start.send_replace(Some(clock));
    let seconds = match job.load {
        Load::Rate { per_second, seconds } => {
            pace(pacers, plain, tally.epoch(), per_second, Duration::from_secs_f64(seconds))?;
            seconds
        }
        Load::Full { seconds } => seconds,
        _ => 0.0,
    };
    consumers.drain(..).for_each(|consumer| drop(tasks.spawn(watched(&tally, consumer(Arc::clone(&tally))))));
    let all = async {
        while publishing.join_next().await.is_some() {}
        match job.load {
            Load::Drain { messages } => tally.set_target(messages),
            _ if job.mode.consumes() => tally.set_target(tally.counts().confirmed),
            _ => tally.done().cancel(),
        }
        tally.done().cancelled().await;
    };
    let limit = Duration::from_secs_f64(seconds) + TIMEOUT;
    if tokio::time::timeout(limit, all).await.is_err() {
        tally.fail(Error::TooSlow("some messages were not completed").to_string());
    }
    let seconds = clock.elapsed().as_secs_f64();
    let after = tally.counts();
    // The consumers add their latencies when they end.
    let _ = tokio::time::timeout(Duration::from_secs(15), async { while tasks.join_next().await.is_some() {} }).await;
    Ok(Outcome {
        seconds,
        published: after.published - before.published,
        confirmed: after.confirmed - before.confirmed,
        refused: after.refused - before.refused,
        consumed: after.consumed - before.consumed,
        end_to_end: tally.end_to_end(),
        confirm: tally.confirm(),
        error: tally.error(),
    })
}

async fn open(job: &Job) -> Result<(Vec<Publisher>, Vec<Consumer>), Error> {
    let (mut publishers, mut consumers) = (Vec::new(), Vec::new());
    for account in &job.accounts {
        let streams = match job.path {
            Path::Ordinary => ordinary::open(job, account).await,
            Path::Direct => direct::open(job, account).await,
            Path::Gateway => gateway::open(job, account).await,
        }?;
        publishers.extend(streams.publishers);
        consumers.extend(streams.consumers);
    }
    Ok((publishers, consumers))
}
