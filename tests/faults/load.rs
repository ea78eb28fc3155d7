//! The load: for each tenant a publisher, consumers in this process, and a consumer in a process that can be killed.
//! All of them report to the history.

pub mod consumers;
pub mod processes;
pub mod publishers;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use secrecy::ExposeSecret as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use warrengate::client::Client;

use self::{
    consumers::{PoisonSwitch, consume},
    processes::{Process, Task},
    publishers::{Work, publish},
};
use crate::{
    environment,
    environment::{Environment, Tenant},
    history::{Direction, History},
    message::{Disposition, POISON, WORK},
    reaper::Reaper,
    wait,
};

/// Messages per second of each tenant: 240 for twenty tenants.
const RATE: u32 = 12;
/// Processes of an environment, which share its tenants.
const PROCESSES: usize = 4;
/// The time after which a publisher's client reports an unknown outcome.
const OUTCOMES_WITHIN: Duration = Duration::from_secs(90);
/// The time after which no further progress is expected: RabbitMQ offers a refused message to its queue again after 10
/// s at most (broker-config/advanced.config), and the longest lease and back-off here are shorter.
const IDLE_TIMEOUT: Duration = Duration::from_secs(70);

/// A running load.
pub struct Load {
    pub history: Arc<History>,
    pub processes: Vec<Process>,
    poison_switch: PoisonSwitch,
    seed: u64,
    publishers: JoinSet<()>,
    consumers: JoinSet<()>,
    stop_publishing: CancellationToken,
    stop_consuming: CancellationToken,
}

impl Load {
    pub fn new(seed: u64) -> Self {
        Self {
            history: Arc::default(),
            processes: Vec::new(),
            poison_switch: PoisonSwitch::default(),
            seed,
            publishers: JoinSet::new(),
            consumers: JoinSet::new(),
            stop_publishing: CancellationToken::new(),
            stop_consuming: CancellationToken::new(),
        }
    }

    /// Starts publishers and consumers for all tenants of an environment.
    pub async fn add(&mut self, environment: &mut Environment, reaper: &Arc<Reaper>) -> anyhow::Result<()> {
        let mut tasks = vec![Vec::new(); PROCESSES];
        for (number, tenant) in environment.tenants.clone().into_iter().enumerate() {
            let (route, endpoint) = environment.routes.add().await;
            let client = environment::connect(&endpoint, &environment.ca, &tenant.client_id, &tenant.secret).await?;
            self.consumer(&client, &tenant, WORK, route, true);
            self.consumer(&client, &tenant, POISON, route, false);
            let (route, endpoint) = environment.routes.add().await;
            let stream = self.history.stream(&tenant.id, "consumer in a process", Direction::Subscribe, route, true);
            let (client_id, secret) = (tenant.client_id.clone(), tenant.secret.expose_secret().to_owned());
            let queue = WORK.to_owned();
            tasks[number % PROCESSES].push(Task { stream, route, endpoint, client_id, secret, queue });
            let (route, endpoint) = environment.routes.add().await;
            let stream = self.history.stream(&tenant.id, "publisher", Direction::Publish, route, true);
            let client = environment::connect(&endpoint, &environment.ca, &tenant.client_id, &tenant.secret).await?;
            let work = Work { seed: self.seed, tenant: tenant.id.clone(), rate: RATE };
            let (history, stop) = (Arc::clone(&self.history), self.stop_publishing.clone());
            self.publishers.spawn(publish(client, work, history, stream, stop));
        }
        for tasks in tasks.into_iter().filter(|tasks| !tasks.is_empty()) {
            self.processes.push(Process::start(environment.ca.clone(), tasks, &self.history, reaper).await?);
        }
        Ok(())
    }

    fn consumer(&mut self, client: &Client, tenant: &Tenant, queue: &str, route: usize, steady: bool) {
        let what = format!("consumer of {queue}");
        let stream = self.history.stream(&tenant.id, &what, Direction::Subscribe, route, steady);
        let history = Arc::clone(&self.history);
        history.open(stream, true);
        let report = move |observation| history.observed(stream, observation);
        let (poison_switch, stop) = (self.poison_switch.clone(), self.stop_consuming.clone());
        self.consumers.spawn(consume(client.clone(), queue.to_owned(), poison_switch, stop, report));
    }

    /// Stops publishing. Returns when every message has its outcome and every confirmed one is done, or when there is
    /// no more progress; true if all are done.
    pub async fn finish_publishing(&mut self, violations: &mut Vec<String>) -> bool {
        self.stop_publishing.cancel();
        let ended = async { while self.publishers.join_next().await.is_some() {} };
        if tokio::time::timeout(OUTCOMES_WITHIN, ended).await.is_err() {
            violations.push(format!("publishers did not end within {OUTCOMES_WITHIN:?}"));
        }
        self.wait_until_done(|disposition| disposition != Disposition::Poison).await;
        let undone = self.undone(&|disposition| disposition != Disposition::Poison);
        crate::report::say(&format!("publishing has ended; {undone} confirmed messages are not done"));
        undone == 0
    }

    /// Waits until every confirmed message of these dispositions is done, or there is no more progress.
    pub async fn wait_until_done(&self, counts: impl Fn(Disposition) -> bool) {
        let (mut before, mut changed) = (usize::MAX, Instant::now());
        let _ = wait::until("confirmed messages to be done", IDLE_TIMEOUT * 2, async || {
            let now = self.undone(&counts);
            if now != before {
                (before, changed) = (now, Instant::now());
            }
            now == 0 || changed.elapsed() > IDLE_TIMEOUT
        })
        .await;
    }

    fn undone(&self, counts: &impl Fn(Disposition) -> bool) -> usize {
        self.history.fold(0, |sum, _, message| {
            *sum += usize::from(message.is_confirmed() && counts(message.disposition) && !message.is_done());
        })
    }

    /// From now on poison messages are acknowledged.
    pub fn accept_poison(&self) {
        self.poison_switch.accept();
    }

    pub async fn stop_consumers(&mut self) {
        self.stop_consuming.cancel();
        while self.consumers.join_next().await.is_some() {}
        for process in self.processes.drain(..) {
            process.stop().await;
        }
    }
}
