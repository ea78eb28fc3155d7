//! One run: the world is made, the load begins, faults are injected, everything comes to rest, and the ledger is judged.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use secrecy::ExposeSecret as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    inject,
    ledger::{Direction, Ledger},
    load::{
        consumers::{Medicine, consume},
        processes::{Process, Task},
        publishers::{Work, publish},
    },
    message::{POISON, WORK},
    plan,
    postgres::Postgres,
    reaper::Reaper,
    report::say,
    wait, world,
    world::{Side, Tenant},
};

const TENANTS: usize = 20;
/// Messages a second of each tenant: 240 in all.
const RATE: u32 = 12;
const PROCESSES: usize = 4;

/// A running load.
pub struct Load {
    pub ledger: Arc<Ledger>,
    pub processes: Vec<Process>,
    pub medicine: Medicine,
    publishers: JoinSet<()>,
    consumers: JoinSet<()>,
    stop_publishing: CancellationToken,
    stop_consuming: CancellationToken,
}

pub async fn run(minutes: f64, seed: u64) -> anyhow::Result<bool> {
    say(&format!("seed {seed}, {minutes} minutes: the same with ./scripts/faults --minutes {minutes} --seed {seed}"));
    let folder = world::folder()?;
    let reaper = Arc::new(Reaper::start()?);
    let postgres = Postgres::start(&reaper, &folder.join("postgres.log")).await?;
    say("PostgreSQL is up");
    let mut side = Side::start(&folder, &postgres, &reaper, TENANTS).await?;
    say(&format!("RabbitMQ, two gateways and {TENANTS} tenants are up"));
    let mut load = Load::start(&mut side, &reaper, seed).await?;
    wait::until("every stream to work", Duration::from_secs(60), async || load.ledger.all_work().is_ok()).await?;
    say("every stream works");
    let steps = plan::make(minutes, seed);
    let injected = inject::all(&side, &mut load, &steps, Instant::now()).await?;
    load.stop_publishers().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (sent, done) = load.ledger.fold((0, 0), |sum, _, m| {
        sum.0 += 1;
        sum.1 += usize::from(m.is_done());
    });
    say(&format!("{sent} sent, {done} done, {:?} {:?}", load.ledger.wrong().first(), load.ledger.wrong_tenant()));
    load.stop_consumers().await;
    side.node.stop().await?;
    Ok(true)
}

impl Load {
    /// Publishers and consumers for all tenants of the side.
    async fn start(side: &mut Side, reaper: &Arc<Reaper>, seed: u64) -> anyhow::Result<Self> {
        let mut load = Self {
            ledger: Arc::default(),
            processes: Vec::new(),
            medicine: Medicine::default(),
            publishers: JoinSet::new(),
            consumers: JoinSet::new(),
            stop_publishing: CancellationToken::new(),
            stop_consuming: CancellationToken::new(),
        };
        load.ledger.mark();
        let mut tasks = vec![Vec::new(); PROCESSES];
        for (number, tenant) in side.tenants.clone().into_iter().enumerate() {
            load.consumer(side, &tenant, WORK, true).await?;
            load.consumer(side, &tenant, POISON, false).await?;
            let (road, endpoint) = side.roads.build().await;
            let stream = load.ledger.stream(&tenant.id, "consumer in a process", Direction::Subscribe, road, true);
            tasks[number % PROCESSES].push(Task {
                stream,
                endpoint,
                client_id: tenant.client_id.clone(),
                secret: tenant.secret.expose_secret().to_owned(),
                queue: WORK.to_owned(),
            });
            let (road, endpoint) = side.roads.build().await;
            let stream = load.ledger.stream(&tenant.id, "publisher", Direction::Publish, road, true);
            let client = world::connect(&endpoint, &side.ca, &tenant.client_id, &tenant.secret).await?;
            let work = Work { seed, tenant: tenant.id.clone(), rate: RATE };
            load.publishers.spawn(publish(
                client,
                work,
                Arc::clone(&load.ledger),
                stream,
                load.stop_publishing.clone(),
            ));
        }
        for tasks in tasks {
            load.processes.push(Process::start(side.ca.clone(), tasks, &load.ledger, reaper).await?);
        }
        Ok(load)
    }

    async fn consumer(&mut self, side: &mut Side, tenant: &Tenant, queue: &str, steady: bool) -> anyhow::Result<()> {
        let (road, endpoint) = side.roads.build().await;
        let what = format!("consumer of {queue}");
        let stream = self.ledger.stream(&tenant.id, &what, Direction::Subscribe, road, steady);
        let client = world::connect(&endpoint, &side.ca, &tenant.client_id, &tenant.secret).await?;
        let ledger = Arc::clone(&self.ledger);
        ledger.open(stream, true);
        let say = move |seen| ledger.seen(stream, seen);
        let (medicine, stop) = (self.medicine.clone(), self.stop_consuming.clone());
        self.consumers.spawn(consume(client, queue.to_owned(), medicine, stop, say));
        Ok(())
    }

    /// Nothing more is published; returns when every message has its outcome.
    async fn stop_publishers(&mut self) {
        self.stop_publishing.cancel();
        while self.publishers.join_next().await.is_some() {}
    }

    async fn stop_consumers(&mut self) {
        self.stop_consuming.cancel();
        while self.consumers.join_next().await.is_some() {}
        for process in self.processes.drain(..) {
            process.stop().await;
        }
    }
}
