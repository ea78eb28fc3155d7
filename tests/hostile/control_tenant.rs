//! A tenant without attacks: how long its calls take, and whether its stream continues.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use warrengate::pb::{self, subscribe_response::Event};

use crate::{
    ATTACKERS, Scale,
    consumer::{RawSubscription, start},
    environment::{Environment, Tenant},
    report::{Report, percentile},
};

/// How long its calls are measured before the attack, at most.
const ALONE: Duration = Duration::from_secs(3);
/// How long its last messages may take.
const LAST_MESSAGES: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// It runs beside the environment, with a higher priority than the attackers.
pub struct ControlTenant {
    environment: Arc<Environment>,
    tenant: Arc<Tenant>,
    alone: f64,
    beside_load: f64,
    stream: JoinHandle<Result<u64, String>>,
    seen: Arc<AtomicU64>,
    published: Arc<AtomicU64>,
    stop: CancellationToken,
    _guard: DropGuard,
}

impl ControlTenant {
    /// Opens its stream, and measures its calls before the attack.
    pub async fn start(environment: &Arc<Environment>, scale: Scale) -> Self {
        let of = Arc::clone(environment);
        let mut control = environment.undisturbed(move || Self::start_undisturbed(of, scale)).await;
        let load = Load::start();
        control.beside_load = control.during(ALONE.min(scale.flood / 5)).await;
        drop(load);
        control
    }

    async fn start_undisturbed(environment: Arc<Environment>, scale: Scale) -> Self {
        let tenant = Arc::new(environment.tenant().await);
        tenant.queue("jobs", pb::QueueType::Quorum).await;
        let stop = CancellationToken::new();
        let subscription = RawSubscription::open(&tenant.client, start("jobs")).await;
        let (published, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let stream = tokio::spawn(follow(subscription, Arc::clone(&seen), stop.clone()));
        tokio::spawn(publish(Arc::clone(&tenant), Arc::clone(&published), stop.clone()));
        let alone = percentile(&latencies(&tenant, ALONE.min(scale.flood / 5)).await, 99.0);
        Self {
            environment,
            tenant,
            alone,
            beside_load: f64::NAN,
            stream,
            seen,
            published,
            _guard: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Measures its calls for this time; returns the 99th percentile in milliseconds, infinite with failures.
    pub async fn during(&self, time: Duration) -> f64 {
        let tenant = Arc::clone(&self.tenant);
        percentile(&self.environment.undisturbed(async move || latencies(&tenant, time).await).await, 99.0)
    }

    /// Whether a new connection of a known client is served.
    pub async fn connects(&self) -> bool {
        let (environment, tenant) = (Arc::clone(&self.environment), Arc::clone(&self.tenant));
        let connecting = async move || {
            let connecting = environment.connect(&tenant.credentials);
            tokio::time::timeout(Duration::from_secs(10), connecting).await.is_ok()
        };
        self.environment.undisturbed(connecting).await
    }

    /// Stops it, and reports the results.
    pub async fn check(self, attack: &str, p99: f64, report: &mut Report) {
        let result = format!("{p99:.1} ms, {:.1} before, {:.1} beside load", self.alone, self.beside_load);
        report.time(attack, "control tenant: p99 at most twice that before", result, p99 <= 2.0 * self.alone);
        let published = self.published.load(Ordering::Relaxed);
        let deadline = Instant::now() + LAST_MESSAGES;
        while self.seen.load(Ordering::Relaxed) < published && !self.stream.is_finished() && Instant::now() < deadline {
            tokio::time::sleep(PAUSE).await;
        }
        self.stop.cancel();
        let seen = self.stream.await.unwrap();
        let (text, is_kept) = match seen {
            Ok(seen) => (format!("{seen} of {published} messages"), seen >= published),
            Err(what) => (what, false),
        };
        report.must(attack, "control tenant: stream not interrupted", text, is_kept);
    }
}

/// As much load as the attackers' threads can be, at their priority, that sends nothing to the gateway: the latency that this
/// alone causes is due to shared processors. Ends when dropped.
struct Load(Arc<AtomicBool>);

impl Load {
    fn start() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        for _ in 0..ATTACKERS {
            let is_over = Arc::clone(&is_over);
            tokio::task::spawn_blocking(move || while !is_over.load(Ordering::Relaxed) {});
        }
        Self(is_over)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn latencies(tenant: &Tenant, time: Duration) -> Vec<f64> {
    let end = Instant::now() + time;
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let began = Instant::now();
        let answer = tenant.client.auth().who_am_i(pb::WhoAmIRequest {}).await;
        latencies.push(if answer.is_ok() { began.elapsed().as_secs_f64() * 1e3 } else { f64::INFINITY });
        tokio::time::sleep(PAUSE).await;
    }
    latencies
}

async fn publish(tenant: Arc<Tenant>, published: Arc<AtomicU64>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let publication = pb::Publication {
            routing_key: "jobs".into(),
            message: Some(pb::Message { body: "work".into(), ..Default::default() }),
            ..Default::default()
        };
        if let Ok(results) = tenant.client.publish_batch(vec![publication]).await
            && results[0].outcome() == pb::Outcome::Confirmed
        {
            published.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(10 * PAUSE).await;
    }
}

/// The number of messages received, or the event that interrupted the stream.
async fn follow(
    mut subscription: RawSubscription,
    counter: Arc<AtomicU64>,
    stop: CancellationToken,
) -> Result<u64, String> {
    let mut seen = 0;
    loop {
        let event = tokio::select! {
            event = subscription.event() => event,
            () = stop.cancelled() => return Ok(seen),
        };
        match event {
            Ok(Some(Event::Deliveries(frame))) => {
                let ids: Vec<_> = frame.deliveries.iter().map(|delivery| delivery.delivery_id).collect();
                seen += ids.len() as u64;
                counter.store(seen, Ordering::Relaxed);
                subscription.ack(&ids).await;
            }
            Ok(Some(other)) => return Err(format!("{other:?}")),
            Ok(None) => return Err("the stream has ended".into()),
            Err(status) => return Err(status.to_string()),
        }
    }
}
