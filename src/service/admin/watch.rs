//! Watching a tenant: snapshots of its queues' figures at an interval. All watches of a tenant share one poll of the
//! broker, which runs as often as the most frequent of them needs it and ends with the last one.
//!
//! The management API has all figures, if the broker collects statistics. Consumers of queues without statistics, and
//! while the management API cannot be reached also the depths, are read from the queues themselves.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use futures_util::Stream;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, MissedTickBehavior, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    context::AdminContext,
    error::{Error, invalid, named},
    status::sentence,
};
use crate::{
    audit::AuditContext,
    error::{Failure, Kind},
    memory::MemoryPermit,
    names::{ClientId, QueueName, TenantId},
    pb,
    provision::{QueueFigures, TenantFigures},
    stream::session::draining,
    tenant::Observer,
};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
const DEFAULT_QUEUES: usize = 100;
const MAX_QUEUES: usize = 1_000;
/// Open watches of one client.
const MAX_WATCHES: usize = 10;
/// Queues that are read individually in one poll, the deepest ones first.
const MAX_QUEUES_READ: usize = 200;
/// What a queue's figures need: in two snapshots that wait to be sent, and in the encoded form of a third.
const QUEUE_MEMORY: usize = 3 * (size_of::<pb::QueueFigures>() + 256);
/// How long the management API may take. It tries several endpoints.
const POLL_TIMEOUT: Duration = Duration::from_secs(10);

/// The polls of one gateway, by tenant.
#[derive(Debug, Default)]
pub(super) struct Watches(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    tenants: HashMap<TenantId, Arc<Poll>>,
    clients: HashMap<ClientId, usize>,
}

/// The poll of one tenant.
#[derive(Debug)]
struct Poll {
    latest: watch::Sender<Option<Arc<Snapshot>>>,
    watchers: Mutex<HashMap<u64, Watcher>>,
    changed: Notify,
}

#[derive(Debug)]
struct Watcher {
    interval: Duration,
    observer: Observer,
}

/// The figures of a tenant at one moment.
#[derive(Debug, Clone, Default)]
struct Snapshot {
    figures: TenantFigures,
    measured: Option<SystemTime>,
    failure: String,
}

/// A registered watch; dropping it ends it.
struct Registration {
    watches: Weak<AdminContext>,
    poll: Arc<Poll>,
    id: u64,
    client: ClientId,
}

/// The settings of a watch.
struct WatchSettings {
    interval: Duration,
    max_queues: usize,
    queue: Option<QueueName>,
}

impl WatchSettings {
    fn parse(request: &pb::WatchTenantRequest) -> Result<Self, Error> {
        let interval = match request.interval {
            None => DEFAULT_INTERVAL,
            Some(interval) => Duration::try_from(interval)
                .ok()
                .filter(|interval| INTERVALS.contains(interval))
                .ok_or_else(|| invalid("interval", "must be from 1 to 60 s"))?,
        };
        let max_queues = match request.max_queues as usize {
            0 => DEFAULT_QUEUES,
            count if count <= MAX_QUEUES => count,
            _ => return Err(invalid("max_queues", "must be 1 to 1,000, or 0 for 100")),
        };
        let queue = match request.queue.as_str() {
            "" => None,
            name => Some(named("queue", QueueName::parse(name))?),
        };
        Ok(Self { interval, max_queues, queue })
    }
}

/// Opens a watch.
pub(super) fn watch(
    context: &Arc<AdminContext>,
    observer: Observer,
    audit_context: AuditContext,
    request: &pb::WatchTenantRequest,
) -> Result<impl Stream<Item = Result<pb::WatchTenantResponse, Status>> + Send + 'static + use<>, Error> {
    let settings = WatchSettings::parse(request)?;
    if context.gateway.drain.is_begun() {
        return Err(Error::Field(draining()));
    }
    let registration = register(context, &observer, settings.interval)?;
    let payer = observer.caller().tenant().map(TenantId::as_str).unwrap_or_default();
    let charge = context.gateway.memory.of(payer).try_reserve_share(0).map_err(|full| Error::Field(full.into()))?;
    let (snapshots, responses) = mpsc::channel(1);
    tokio::spawn(serve(Arc::clone(context), observer, (registration, charge), settings, audit_context, snapshots));
    Ok(ReceiverStream::new(responses))
}

/// Sends snapshots until the caller cancels or is no longer allowed to watch. A snapshot for which the caller's tenant
/// has no memory is left out.
async fn serve(
    context: Arc<AdminContext>,
    observer: Observer,
    (registration, mut charge): (Registration, MemoryPermit),
    settings: WatchSettings,
    audit_context: AuditContext,
    snapshots: mpsc::Sender<Result<pb::WatchTenantResponse, Status>>,
) {
    let mut latest = registration.poll.latest.subscribe();
    let sending = async {
        // The first snapshot is sent as soon as there is one.
        if latest.wait_for(Option::is_some).await.is_err() {
            return None;
        }
        let mut ticks = tokio::time::interval(settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !context.tenants.knows(observer.tenant()) {
                return Some(Failure::from(Error::NotFound("tenant")));
            }
            let snapshot = latest.borrow_and_update().clone();
            let queues = snapshot.as_ref().map_or(0, |snapshot| snapshot.figures.queues.len()).min(settings.max_queues);
            // Kept until the watch ends, because the client may not read.
            if charge.try_grow((queues * QUEUE_MEMORY).saturating_sub(charge.bytes())).is_err() {
                continue;
            }
            let snapshot = snapshot.map(|snapshot| response(&snapshot, &settings)).unwrap_or_default();
            if snapshots.send(Ok(snapshot)).await.is_err() {
                return None;
            }
        }
    };
    let failure = tokio::select! {
        biased;
        () = snapshots.closed() => None,
        failure = ended(&context, &observer) => Some(failure),
        failure = sending => failure,
    };
    drop(registration);
    if let Some(failure) = failure {
        audit_context.record_end(failure.kind, failure.reason);
        // Required for a caller that reads nothing: it still sees the end of the stream.
        let _ = snapshots.try_send(Err(failure.into()));
    }
}

/// Waits until the caller is no longer allowed to watch, its token expires, or the gateway stops.
async fn ended(context: &AdminContext, observer: &Observer) -> Failure {
    let left = observer.caller().expires().duration_since(SystemTime::now()).unwrap_or_default();
    tokio::select! {
        biased;
        why = observer.ended() => why.into(),
        () = context.gateway.drain.begun() => draining(),
        () = tokio::time::sleep(left) => Failure::new(
            Kind::Unauthenticated,
            "TOKEN_EXPIRED",
            "the token has expired; fetch a new one and watch again",
        ),
    }
}

/// Registers a watch, and starts the poll of its tenant if it is the first one.
fn register(context: &Arc<AdminContext>, observer: &Observer, interval: Duration) -> Result<Registration, Error> {
    let client = observer.caller().client().clone();
    let mut inner = context.watches.inner();
    let open = inner.clients.entry(client.clone()).or_default();
    if *open >= MAX_WATCHES {
        return Err(Error::TooManyWatches);
    }
    *open += 1;
    let watcher = Watcher { interval, observer: observer.clone() };
    let id = next_id();
    let poll = match inner.tenants.get(observer.tenant()) {
        Some(poll) => {
            poll.watchers().insert(id, watcher);
            poll.changed.notify_one();
            Arc::clone(poll)
        }
        None => {
            let poll = Arc::new(Poll {
                latest: watch::Sender::new(None),
                watchers: Mutex::new(HashMap::from([(id, watcher)])),
                changed: Notify::new(),
            });
            inner.tenants.insert(observer.tenant().clone(), Arc::clone(&poll));
            tokio::spawn(run(Arc::clone(context), observer.tenant().clone(), Arc::clone(&poll)));
            poll
        }
    };
    Ok(Registration { watches: Arc::downgrade(context), poll, id, client })
}

/// An id that no other watch has.
fn next_id() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.poll.watchers().remove(&self.id);
        self.poll.changed.notify_one();
        let Some(context) = self.watches.upgrade() else { return };
        let mut inner = context.watches.inner();
        if let Some(open) = inner.clients.get_mut(&self.client) {
            *open -= 1;
            if *open == 0 {
                inner.clients.remove(&self.client);
            }
        }
    }
}

impl Watches {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a poll without watches. It holds the lock under which watches are added, so that none is lost.
    fn end(&self, tenant: &TenantId, poll: &Poll) -> bool {
        let mut inner = self.inner();
        let is_unused = poll.watchers().is_empty();
        if is_unused {
            inner.tenants.remove(tenant);
        }
        is_unused
    }
}

impl Poll {
    fn watchers(&self) -> MutexGuard<'_, HashMap<u64, Watcher>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shortest interval of all watches, and one of the callers.
    fn shortest_interval(&self) -> Option<(Duration, Observer)> {
        let watchers = self.watchers();
        let most_frequent = watchers.values().min_by_key(|watcher| watcher.interval)?;
        Some((most_frequent.interval, most_frequent.observer.clone()))
    }
}

/// Polls the broker until there are no watches.
async fn run(context: Arc<AdminContext>, tenant: TenantId, poll: Arc<Poll>) {
    loop {
        let Some((_, observer)) = poll.shortest_interval() else {
            if context.watches.end(&tenant, &poll) {
                return;
            }
            continue;
        };
        let began = Instant::now();
        let before = poll.latest.borrow().clone();
        let before = before.map(|before| Snapshot::clone(&before)).unwrap_or_default();
        let snapshot = measure(Arc::clone(&context), observer, before).await;
        poll.latest.send_replace(Some(Arc::new(snapshot)));
        while let Some((interval, _)) = poll.shortest_interval() {
            let mut changed = pin!(poll.changed.notified());
            tokio::select! {
                () = sleep_until(began + interval) => break,
                // The shortest interval may have changed.
                () = &mut changed => {}
            }
        }
    }
}

async fn measure(context: Arc<AdminContext>, observer: Observer, before: Snapshot) -> Snapshot {
    let found = tokio::time::timeout(POLL_TIMEOUT, context.provisioner.figures(observer.tenant())).await;
    let failure = match found {
        Ok(Ok(mut figures)) => {
            sort(&mut figures.queues);
            if figures.queues.iter().any(|queue| queue.consumers.is_none()) {
                figures.queues = ask_consumers(&context, &observer, figures.queues).await;
            }
            return Snapshot { figures, measured: Some(SystemTime::now()), failure: String::new() };
        }
        Ok(Err(error)) => sentence(&error),
        Err(_) => "BROKER_ADMIN_UNAVAILABLE: the broker's management API did not answer within 10 s".to_owned(),
    };
    match ask_depths(&context, &observer, before.figures.clone()).await {
        Some(figures) => Snapshot { figures, measured: Some(SystemTime::now()), failure },
        None => Snapshot { failure, ..before },
    }
}

/// Reads the consumers of queues without statistics from the queues themselves. Their depths are also newer.
async fn ask_consumers(
    context: &AdminContext,
    observer: &Observer,
    mut queues: Vec<QueueFigures>,
) -> Vec<QueueFigures> {
    let names =
        queues.iter().filter(|queue| queue.consumers.is_none()).filter_map(name).take(MAX_QUEUES_READ).collect();
    let Ok(states) = context.broker.observed_queues(observer, names).await else { return queues };
    for queue in queues.iter_mut().filter(|queue| queue.consumers.is_none()) {
        if let Some(state) = states.get(&queue.name) {
            (queue.ready, queue.consumers) = (state.messages.into(), Some(state.consumers));
            // The figures of the management API may be older than the messages.
            queue.oldest = queue.oldest.filter(|_| state.messages == 0);
        }
    }
    queues
}

/// The depths and consumers of the queues that were known before, as they report them themselves. `None` when no queue
/// can be read.
async fn ask_depths(context: &AdminContext, observer: &Observer, known: TenantFigures) -> Option<TenantFigures> {
    let names: Vec<_> = known.queues.iter().filter_map(name).take(MAX_QUEUES_READ).collect();
    if names.is_empty() {
        return None;
    }
    let states = context.broker.observed_queues(observer, names).await.ok()?;
    let queues = known.queues.iter().filter_map(|queue| {
        let state = states.get(&queue.name)?;
        Some(QueueFigures {
            name: queue.name.clone(),
            queue_type: queue.queue_type.clone(),
            ready: state.messages.into(),
            unsettled: None,
            consumers: Some(state.consumers),
            publish_rate: None,
            deliver_rate: None,
            oldest: None,
        })
    });
    let mut queues: Vec<_> = queues.collect();
    sort(&mut queues);
    Some(TenantFigures { queues, ..known })
}

fn name(queue: &QueueFigures) -> Option<QueueName> {
    QueueName::parse(&queue.name).ok()
}

/// The deepest first, then by name.
fn sort(queues: &mut [QueueFigures]) {
    let depth = |queue: &QueueFigures| queue.ready.saturating_add(queue.unsettled.unwrap_or_default());
    queues.sort_by(|a, b| depth(b).cmp(&depth(a)).then_with(|| a.name.cmp(&b.name)));
}

fn response(snapshot: &Snapshot, settings: &WatchSettings) -> pb::WatchTenantResponse {
    let Snapshot { figures, measured, failure } = snapshot;
    let is_selected = |queue: &&QueueFigures| settings.queue.as_ref().is_none_or(|name| name.as_str() == queue.name);
    let rate = |of: fn(&QueueFigures) -> Option<f64>| {
        let known: Vec<_> = figures.queues.iter().filter_map(of).collect();
        (known.len() == figures.queues.len()).then(|| known.iter().sum())
    };
    pb::WatchTenantResponse {
        time: Some(SystemTime::now().into()),
        measured: measured.map(Into::into),
        queues: figures.queues.iter().filter(is_selected).take(settings.max_queues).map(to_proto).collect(),
        totals: Some(pb::TenantFigures {
            queues: u32::try_from(figures.queues.len()).unwrap_or(u32::MAX),
            messages_ready: figures.sum(|queue| Some(queue.ready)),
            messages_unsettled: figures.sum(|queue| queue.unsettled),
            consumers: u32::try_from(figures.sum(|queue| queue.consumers.map(u64::from))).unwrap_or(u32::MAX),
            publish_rate: rate(|queue| queue.publish_rate),
            deliver_rate: rate(|queue| queue.deliver_rate),
            oldest_message_age: figures.oldest().and_then(|age| age.try_into().ok()),
            dead_letters: figures.dead_letters,
            messages_delayed: figures.delayed,
        }),
        failure: failure.clone(),
    }
}

fn to_proto(queue: &QueueFigures) -> pb::QueueFigures {
    let kind = match queue.queue_type.as_str() {
        "quorum" => pb::QueueType::Quorum,
        "stream" => pb::QueueType::Stream,
        _ => pb::QueueType::Classic,
    };
    pb::QueueFigures {
        queue: queue.name.clone(),
        r#type: kind.into(),
        messages_ready: queue.ready,
        messages_unsettled: queue.unsettled,
        consumers: queue.consumers,
        publish_rate: queue.publish_rate,
        deliver_rate: queue.deliver_rate,
        oldest_message_age: queue.oldest.and_then(|age| age.try_into().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str, ready: u64, unsettled: u64) -> QueueFigures {
        QueueFigures {
            name: name.into(),
            queue_type: "quorum".into(),
            ready,
            unsettled: Some(unsettled),
            consumers: Some(1),
            publish_rate: Some(1.5),
            deliver_rate: None,
            oldest: Some(Duration::from_secs(ready)),
        }
    }

    #[test]
    fn a_snapshot_has_the_deepest_queues_and_totals_of_all() {
        let mut queues = vec![queue("b", 1, 0), queue("a", 1, 0), queue("deep", 2, 7)];
        sort(&mut queues);
        let figures = TenantFigures { queues, dead_letters: 3, delayed: 4 };
        let snapshot = Snapshot { figures, measured: Some(SystemTime::now()), failure: String::new() };
        let settings = WatchSettings { interval: DEFAULT_INTERVAL, max_queues: 2, queue: None };
        let answer = response(&snapshot, &settings);
        let names: Vec<_> = answer.queues.iter().map(|queue| queue.queue.as_str()).collect();
        assert_eq!(names, ["deep", "a"]);
        let totals = answer.totals.expect("totals");
        assert_eq!((totals.queues, totals.messages_ready, totals.messages_unsettled, totals.consumers), (3, 4, 7, 3));
        assert_eq!((totals.publish_rate, totals.deliver_rate), (Some(4.5), None));
        assert_eq!(totals.oldest_message_age.expect("known").seconds, 2);
        let settings = WatchSettings { queue: QueueName::parse("b").ok(), ..settings };
        assert_eq!(response(&snapshot, &settings).queues.len(), 1);
    }

    #[test]
    fn an_interval_or_a_number_of_queues_out_of_range_is_refused() {
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        for (interval, max_queues) in [(seconds(0), 1), (seconds(61), 1), (seconds(-1), 1), (None, 1_001)] {
            let request = pb::WatchTenantRequest { interval, max_queues, ..Default::default() };
            assert!(WatchSettings::parse(&request).is_err(), "{request:?}");
        }
        let settings = WatchSettings::parse(&pb::WatchTenantRequest::default()).map_err(|error| error.to_string());
        let settings = settings.expect("the defaults");
        assert_eq!((settings.interval, settings.max_queues), (DEFAULT_INTERVAL, DEFAULT_QUEUES));
    }
}
