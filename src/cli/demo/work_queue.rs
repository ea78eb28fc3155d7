//! A work queue: workers of different speed share one queue; each takes a new job only when it has settled the last.

use std::time::Duration;

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    super::Error,
    Observations,
    context::{Context, check, text},
};
use crate::client::Subscription;

const JOBS: usize = 40;
const WORKERS: [(&str, Duration); 3] =
    [("quick", Duration::from_millis(80)), ("usual", Duration::from_millis(240)), ("slow", Duration::from_millis(800))];

pub(super) async fn run(demo: &Context<'_>) -> Result<Observations, Error> {
    demo.queue("jobs").await?;
    demo.publish((1..=JOBS).map(|n| demo.to_queue("jobs", format!("job {n}"))).collect()).await?;
    demo.say(&format!("{JOBS} jobs are confirmed: they wait in the queue, without any worker yet."))?;
    demo.say("Three workers start. Each asks for one job at a time (a window of 1):\n")?;

    let (report, mut reports) = mpsc::channel(JOBS);
    let stop = CancellationToken::new();
    let mut workers = JoinSet::new();
    for (worker, (_, pace)) in WORKERS.into_iter().enumerate() {
        let subscription = demo.subscribe_with("jobs", |options| options.max_outstanding_messages(1)).await?;
        workers.spawn(work(worker, pace, subscription, report.clone(), stop.clone()));
    }
    drop(report);
    let (mut done, mut all) = ([0_usize; WORKERS.len()], Vec::new());
    while all.len() < JOBS {
        let Some((worker, job)) = reports.recv().await else { break };
        if all.len() < 6 {
            demo.say(&format!("  {:5} worker did {job}", WORKERS[worker].0))?;
        }
        done[worker] += 1;
        all.push(job);
    }
    stop.cancel();
    while let Some(ended) = workers.join_next().await {
        ended.map_err(anyhow::Error::from)??;
    }
    demo.say("  ...\n")?;
    for ((name, pace), done) in WORKERS.iter().zip(done) {
        demo.say(&format!("  {name:5} ({:3} ms a job)  {:2}  {}", pace.as_millis(), done, "#".repeat(done)))?;
    }
    let total = all.len();
    all.sort_unstable();
    all.dedup();
    check(total == JOBS && all.len() == JOBS, || format!("{} of {JOBS} jobs were done, {total} times", all.len()))?;
    check(done[0] > done[2] && done[2] > 0, || format!("the quick worker did not do more: {done:?}"))?;
    Ok(vec![
        format!("Every one of the {JOBS} jobs was done, and no job was done twice."),
        "Nobody assigned the work: a worker that is done receives the next job, so the quick one did most.".to_owned(),
        "Acknowledge after the work: if a worker crashes, its job goes to another.".to_owned(),
    ])
}

async fn work(
    worker: usize,
    pace: Duration,
    mut subscription: Subscription,
    report: mpsc::Sender<(usize, String)>,
    stop: CancellationToken,
) -> Result<(), Error> {
    while let Some(delivery) = tokio::select! {
        delivery = subscription.next() => delivery?,
        () = stop.cancelled() => None,
    } {
        tokio::time::sleep(pace).await;
        subscription.ack(&delivery)?;
        if report.send((worker, text(&delivery))).await.is_err() {
            break;
        }
    }
    Ok(subscription.close().await?)
}
