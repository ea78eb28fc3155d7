//! One run: the world is made, the load begins, faults are injected, everything comes to rest, and the ledger is judged.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use secrecy::ExposeSecret as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use warrengate::client::Client;

use crate::{
    inject,
    ledger::{Direction, Ledger},
    load::{
        consumers::{Medicine, consume},
        processes::{Process, Task},
        publishers::{Work, publish},
    },
    management::{Management, Open},
    memory::Memory,
    message::{Fate, POISON, WORK},
    plan,
    postgres::Postgres,
    reaper::Reaper,
    report::{self, say},
    verdict::{self, Evidence},
    wait, world,
    world::{Side, Tenant},
};

const TENANTS: usize = 20;
/// Messages a second of each tenant: 240 in all.
const RATE: u32 = 12;
const PROCESSES: usize = 4;
/// By then a publisher's client has given up what has no answer.
const OUTCOMES_WITHIN: Duration = Duration::from_secs(90);
/// When nothing has moved for so long, nothing will.
const QUIET: Duration = Duration::from_secs(30);

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
    let management = Management::new(&side.node, &side.certs)?;
    let mut load = Load::start(&mut side, &reaper, seed).await?;
    wait::until("every stream to work", Duration::from_secs(60), async || load.ledger.all_work().is_ok()).await?;
    say("every stream works");
    let memory = Memory::follow(side.gateways[0].gauge());
    let began = Instant::now();
    let steps = plan::make(minutes, seed);
    let injected = inject::all(&side, &mut load, &steps, began).await?;
    tokio::time::sleep_until((began + Duration::from_secs_f64(minutes * 60.0)).into()).await;
    let memory = memory.judge(began, Instant::now());
    let mut broken = Vec::new();
    load.come_to_rest(&mut broken).await;
    leftovers(&management, &mut load, &mut broken).await?;
    let verdict = verdict::judge(Evidence { ledger: &load.ledger, injected: &injected, memory, broken });
    side.stop().await?;
    report::print(&verdict.table);
    for line in &verdict.broken {
        report::print(&format!("not kept: {line}\n"));
    }
    if !verdict.broken.is_empty() {
        report::print(&format!("what the processes said: {}\n", folder.display()));
    }
    report::print(&format!("{}\n", verdict.last_line));
    Ok(verdict.broken.is_empty())
}

/// Consumers and channels that the broker has and nobody uses: first beside open streams, then without any.
async fn leftovers(management: &Management, load: &mut Load, broken: &mut Vec<String>) -> anyhow::Result<()> {
    let streams = load.ledger.open_streams(|stream| stream.direction == Direction::Subscribe).len();
    // A channel to consume by, and perhaps one to send back what is to be tried again.
    let fits = |open: Open| open.consumers == streams && open.channels <= 2 * streams;
    let open = management.until(fits).await?;
    say(&format!("the broker has {open} for {streams} subscriptions"));
    if !fits(open) {
        broken.push(format!("the broker has {open} for {streams} open subscriptions"));
    }
    load.stop_consumers().await;
    let open = management.until(Open::is_nothing).await?;
    say(&format!("the broker has {open} for none"));
    if !open.is_nothing() {
        broken.push(format!("the broker has {open} when no stream is open"));
    }
    Ok(())
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
            let (road, endpoint) = side.roads.build().await;
            let client = world::connect(&endpoint, &side.ca, &tenant.client_id, &tenant.secret).await?;
            load.consumer(&client, &tenant, WORK, road, true);
            load.consumer(&client, &tenant, POISON, road, false);
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
    /// nothing has moved for long.
    async fn come_to_rest(&mut self, broken: &mut Vec<String>) {
        self.stop_publishing.cancel();
        let ended = async { while self.publishers.join_next().await.is_some() {} };
        if tokio::time::timeout(OUTCOMES_WITHIN, ended).await.is_err() {
            broken.push(format!("publishers that were told to stop have no end after {OUTCOMES_WITHIN:?}"));
        }
        let undone = || {
            self.ledger.fold(0, |sum, _, message| {
                *sum += u32::from(message.is_confirmed() && message.fate != Fate::Poison && !message.is_done());
            })
        };
        let (mut before, mut moved) = (u32::MAX, Instant::now());
        let _ = wait::until("what is confirmed to be done", Duration::from_secs(300), async || {
            let now = undone();
            if now != before {
                (before, moved) = (now, Instant::now());
            }
            now == 0 || moved.elapsed() > QUIET
        })
        .await;
        say(&format!("nothing is published any more; {} confirmed messages are not done", undone()));
    }

    async fn stop_consumers(&mut self) {
        self.stop_consuming.cancel();
        while self.consumers.join_next().await.is_some() {}
        for process in self.processes.drain(..) {
            process.stop().await;
        }
    }
}
