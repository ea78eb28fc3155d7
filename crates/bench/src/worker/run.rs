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

/// Warm-up messages of each stream, and of all streams together. More would not all have their outcomes before the
/// gateway's deadline on a busy machine with a thousand streams.
const WARM_UP: usize = 50;
const WARM_UP_OF_ALL: usize = 5_000;
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
    let warm_up = warm_up(publishers.len());
    for publisher in publishers {
        let feed = match job.load {
            Load::Full { seconds } => Feed::full(warm_up, &shared, Duration::from_secs_f64(seconds)),
            Load::Rate { .. } => {
                let (sender, items) = mpsc::unbounded_channel();
                pacers.push(sender);
                Feed::paced(warm_up, &shared, items)
            }
            _ => Feed::nothing(warm_up, &shared),
        };
        publishing.spawn(watched(&tally, publisher(feed, Arc::clone(&tally))));
    }
    let consumes_warm_up = job.mode.publishes() && job.mode.consumes();
    // A consumer without a publisher has a full queue, so it starts with the measured time.
    if job.mode.publishes() {
        consumers.drain(..).for_each(|consumer| drop(tasks.spawn(watched(&tally, consumer(Arc::clone(&tally))))));
        let warm = (publishing.len() * warm_up) as u64;
        let is_warm = |counts: Counts| {
            counts.confirmed + counts.refused >= warm && (!consumes_warm_up || counts.consumed >= counts.confirmed)
        };
        tokio::time::timeout(TIMEOUT, tally.until(is_warm)).await.map_err(|_| Error::TooSlow("warming up"))?;
    }
    let before = tally.counts();
    if let Some(error) = tally.error() {
        return Err(Error::Worker(error));
    }
    check_warm_up(before, consumes_warm_up, tally.refusal())?;
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

/// The number of warm-up messages of each stream.
fn warm_up(streams: usize) -> usize {
    (WARM_UP_OF_ALL / streams.max(1)).clamp(1, WARM_UP)
}

/// Checks that each warm-up message was confirmed and delivered once. Otherwise the deliveries of the measured time could
/// be those of the warm-up, and the counts of a run that lost nothing would not add up.
fn check_warm_up(counts: Counts, consumes: bool, refusal: Option<String>) -> Result<(), Error> {
    let Counts { published, confirmed, consumed, .. } = counts;
    if confirmed < published {
        let reason = refusal.unwrap_or_default();
        let text = format!("{} of {published} warm-up messages were not confirmed: {reason}", published - confirmed);
        return Err(Error::Counts(text.into()));
    }
    if consumes && consumed != confirmed {
        let text = format!("{confirmed} warm-up messages were delivered {consumed} times");
        return Err(Error::Counts(text.into()));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_with_messages_that_were_not_confirmed_or_came_twice_is_an_error() {
        let counts = |confirmed, consumed| Counts { published: 50, confirmed, refused: 50 - confirmed, consumed };
        let check = |counts, consumes| check_warm_up(counts, consumes, Some("PUBLISH_DEADLINE: late".into()));
        assert!(check(counts(50, 50), true).is_ok());
        assert!(check(counts(50, 0), false).is_ok(), "nothing is consumed");
        let error = check(counts(47, 50), true).expect_err("three are unknown, and stored").to_string();
        assert!(error.contains("3 of 50 warm-up messages were not confirmed: PUBLISH_DEADLINE: late"), "{error}");
        let error = check(counts(50, 53), true).expect_err("three came twice").to_string();
        assert!(error.contains("50 warm-up messages were delivered 53 times"), "{error}");
    }

    #[test]
    fn the_warm_up_of_many_streams_is_not_longer() {
        assert_eq!([1, 100, 1_000, 10_000].map(warm_up), [50, 50, 5, 1]);
    }
}
