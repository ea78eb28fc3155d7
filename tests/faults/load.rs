//! The load: for each tenant a publisher, consumers in this process, and a consumer in a process that can be killed.
//! All of them report to the ledger.

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
    consumers::{Medicine, consume},
    processes::{Process, Task},
    publishers::{Work, publish},
};
use crate::{
    ledger::{Direction, Ledger},
    message::{Fate, POISON, WORK},
    reaper::Reaper,
    wait, world,
    world::{Side, Tenant},
};

/// Messages a second of each tenant: 240 of twenty.
const RATE: u32 = 12;
/// Processes of a side, which share its tenants.
const PROCESSES: usize = 4;
/// By then a publisher's client has given up what has no answer.
const OUTCOMES_WITHIN: Duration = Duration::from_secs(90);
/// When nothing has moved for so long, nothing will: RabbitMQ offers what a queue did not take when its delay was over again
/// after 10 s at most (broker-config/advanced.config), and the longest lease and back-off here are shorter.
const STILL: Duration = Duration::from_secs(70);

/// A running load.
pub struct Load {
    pub ledger: Arc<Ledger>,
    pub processes: Vec<Process>,
    medicine: Medicine,
    seed: u64,
    publishers: JoinSet<()>,
    consumers: JoinSet<()>,
    stop_publishing: CancellationToken,
    stop_consuming: CancellationToken,
}

impl Load {
    pub fn new(seed: u64) -> Self {
        Self {
            ledger: Arc::default(),
            processes: Vec::new(),
            medicine: Medicine::default(),
            seed,
            publishers: JoinSet::new(),
            consumers: JoinSet::new(),
            stop_publishing: CancellationToken::new(),
            stop_consuming: CancellationToken::new(),
        }
    }

    /// Publishers and consumers for all tenants of a side.
    pub async fn add(&mut self, side: &mut Side, reaper: &Arc<Reaper>) -> anyhow::Result<()> {
        let mut tasks = vec![Vec::new(); PROCESSES];
        for (number, tenant) in side.tenants.clone().into_iter().enumerate() {
            let (road, endpoint) = side.roads.build().await;
            let client = world::connect(&endpoint, &side.ca, &tenant.client_id, &tenant.secret).await?;
            self.consumer(&client, &tenant, WORK, road, true);
            self.consumer(&client, &tenant, POISON, road, false);
            let (road, endpoint) = side.roads.build().await;
            let stream = self.ledger.stream(&tenant.id, "consumer in a process", Direction::Subscribe, road, true);
            let (client_id, secret) = (tenant.client_id.clone(), tenant.secret.expose_secret().to_owned());
            let queue = WORK.to_owned();
            tasks[number % PROCESSES].push(Task { stream, road, endpoint, client_id, secret, queue });
            let (road, endpoint) = side.roads.build().await;
            let stream = self.ledger.stream(&tenant.id, "publisher", Direction::Publish, road, true);
            let client = world::connect(&endpoint, &side.ca, &tenant.client_id, &tenant.secret).await?;
            let work = Work { seed: self.seed, tenant: tenant.id.clone(), rate: RATE };
            let (ledger, stop) = (Arc::clone(&self.ledger), self.stop_publishing.clone());
            self.publishers.spawn(publish(client, work, ledger, stream, stop));
        }
        for tasks in tasks.into_iter().filter(|tasks| !tasks.is_empty()) {
            self.processes.push(Process::start(side.ca.clone(), tasks, &self.ledger, reaper).await?);
        }
        Ok(())
    }

    fn consumer(&mut self, client: &Client, tenant: &Tenant, queue: &str, road: usize, steady: bool) {
        let what = format!("consumer of {queue}");
        let stream = self.ledger.stream(&tenant.id, &what, Direction::Subscribe, road, steady);
        let ledger = Arc::clone(&self.ledger);
        ledger.open(stream, true);
        let say = move |seen| ledger.seen(stream, seen);
        let (medicine, stop) = (self.medicine.clone(), self.stop_consuming.clone());
        self.consumers.spawn(consume(client.clone(), queue.to_owned(), medicine, stop, say));
    }

    /// Nothing more is published. Returns when every message has its outcome, and what is confirmed is done, or when
    /// nothing has moved for long; whether all is done.
    pub async fn come_to_rest(&mut self, broken: &mut Vec<String>) -> bool {
        self.stop_publishing.cancel();
        let ended = async { while self.publishers.join_next().await.is_some() {} };
        if tokio::time::timeout(OUTCOMES_WITHIN, ended).await.is_err() {
            broken.push(format!("publishers that were told to stop have no end after {OUTCOMES_WITHIN:?}"));
        }
        self.until_quiet(|fate| fate != Fate::Poison).await;
        let undone = self.undone(&|fate| fate != Fate::Poison);
        crate::report::say(&format!("nothing is published any more; {undone} confirmed messages are not done"));
        undone == 0
    }

    /// Until what is confirmed and has such a fate is done, or nothing moves any more.
    pub async fn until_quiet(&self, counts: impl Fn(Fate) -> bool) {
        let (mut before, mut moved) = (usize::MAX, Instant::now());
        let _ = wait::until("what is confirmed to be done", STILL * 2, async || {
            let now = self.undone(&counts);
            if now != before {
                (before, moved) = (now, Instant::now());
            }
            now == 0 || moved.elapsed() > STILL
        })
        .await;
    }

    fn undone(&self, counts: &impl Fn(Fate) -> bool) -> usize {
        self.ledger.fold(0, |sum, _, message| {
            *sum += usize::from(message.is_confirmed() && counts(message.fate) && !message.is_done());
        })
    }

    /// From now on poison is acknowledged.
    pub fn cure(&self) {
        self.medicine.take();
    }

    pub async fn stop_consumers(&mut self) {
        self.stop_consuming.cancel();
        while self.consumers.join_next().await.is_some() {}
        for process in self.processes.drain(..) {
            process.stop().await;
        }
    }
}
