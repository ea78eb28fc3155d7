//! The decoding of the largest requests, which takes tens of milliseconds: it runs on low-priority threads beside the
//! workers of the runtime, instead of stalling one of them.
//!
//! Invariant: at most half of the processors are busy with it, so that large requests do not delay everything else together.
//! Those that wait use no thread, and are fair between tenants.

use std::{
    cell::Cell,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::oneshot,
};

use crate::{
    fair::{FairQueue, Limits, Slot},
    pb::LongWorkState,
    workers::Workers,
};

/// The maximum number of computations that wait on a thread of their own, because they cannot be deferred.
const MAX_BLOCKED: usize = 4;

/// How much lower the priority of the threads is: they get a third of a core beside one busy thread.
const NICENESS: i32 = 5;

static BLOCKED: AtomicUsize = AtomicUsize::new(0);

/// On whose behalf a computation waits: a tenant, or a network without a token. `None` for those that block a thread.
type Lane = Option<String>;

thread_local! {
    /// How the request that this thread is about to decode may wait.
    static NEXT: Cell<Next> = const { Cell::new(Next::Blocking) };
}

#[derive(Default)]
enum Next {
    /// It cannot be deferred.
    #[default]
    Blocking,
    Deferrable,
    /// It was deferred just now.
    Deferred,
    Granted(Turn),
    /// Another thread began to decode it just now, and tells when it has ended.
    Started(oneshot::Receiver<()>),
}

/// What a request that was not decoded waits for.
#[derive(Debug)]
pub enum Awaited {
    /// A [`turn`].
    Turn,
    /// The end of its decoding on another thread.
    Decoded(oneshot::Receiver<()>),
}

/// The right to run a long computation now; dropped when it has ended.
#[derive(Debug)]
pub struct Turn {
    _slot: Option<Slot<Lane>>,
}

fn max_running() -> usize {
    (std::thread::available_parallelism().map_or(1, usize::from) / 2).max(1)
}

fn queue() -> &'static FairQueue<Lane> {
    static QUEUE: OnceLock<FairQueue<Lane>> = OnceLock::new();
    // What waits is charged to memory budgets, which bound its number.
    QUEUE.get_or_init(|| {
        FairQueue::new(Limits { running: max_running(), waiting_each: usize::MAX, waiting: usize::MAX })
    })
}

fn workers() -> &'static Workers {
    static WORKERS: OnceLock<Workers> = OnceLock::new();
    WORKERS.get_or_init(|| Workers::start("long-work", max_running(), NICENESS))
}

/// Waits for the turn of a computation on behalf of a tenant.
pub async fn turn(tenant: &str) -> Turn {
    turn_of(Some(tenant.to_owned())).await
}

async fn turn_of(lane: Lane) -> Turn {
    // Only a queue with a limit refuses.
    let Ok(admission) = queue().enter(&lane) else { return Turn { _slot: None } };
    Turn { _slot: admission.slot().await.ok() }
}

/// The runtime of this thread, whose workers can be replaced while they are blocked; `None` only in unit tests.
fn multi_thread() -> Option<Handle> {
    Handle::try_current().ok().filter(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// Makes this module decode the requests that take long to decode.
pub fn use_for_decoding() {
    crate::pb::set_long_decoding(decode);
}

/// Allows the decoder, which this thread calls next, to defer a request: the body then waits for what [`take_awaited`] says,
/// passes on its turn with [`grant`], and returns an empty frame, so that the decoder is called again.
pub fn allow_deferral() {
    NEXT.set(Next::Deferrable);
}

/// The opposite of [`allow_deferral`].
pub fn forbid_deferral() {
    NEXT.set(Next::Blocking);
}

/// What the request waits for that the decoder has deferred since the last call of [`allow_deferral`] or [`grant`] on this
/// thread.
pub fn take_awaited() -> Option<Awaited> {
    match NEXT.take() {
        Next::Deferred => Some(Awaited::Turn),
        Next::Started(is_decoded) => Some(Awaited::Decoded(is_decoded)),
        Next::Blocking | Next::Deferrable | Next::Granted(_) => None,
    }
}

/// Passes the turn to the decoder, which this thread calls next.
pub fn grant(turn: Turn) {
    NEXT.set(Next::Granted(turn));
}

fn decode(work: &mut (dyn FnMut() + Send), was_deferred: bool) -> LongWorkState {
    match NEXT.take() {
        Next::Granted(turn) => LongWorkState::Elsewhere(Box::new(|decoding| start(turn, decoding))),
        // The decoder is called whenever its stream is polled, also before it is this request's turn.
        _ if was_deferred => LongWorkState::Deferred,
        Next::Deferrable => {
            NEXT.set(Next::Deferred);
            LongWorkState::Deferred
        }
        Next::Blocking | Next::Deferred | Next::Started(_) => block(work),
    }
}

/// Runs the decoding on another thread.
fn start(turn: Turn, decoding: Box<dyn FnOnce() + Send>) {
    let (ended, is_decoded) = oneshot::channel();
    workers().submit(Box::new(move || {
        // Dropped last, also by a panic.
        let _ended: oneshot::Sender<()> = ended;
        let _turn = turn;
        decoding();
    }));
    NEXT.set(Next::Started(is_decoded));
}

/// Blocks a thread until the turn of the computation.
fn block(work: &mut (dyn FnMut() + Send)) -> LongWorkState {
    let Some(runtime) = multi_thread() else {
        work();
        return LongWorkState::Done;
    };
    let blocked = BLOCKED.fetch_add(1, Ordering::Relaxed);
    let is_admitted = blocked < MAX_BLOCKED;
    if is_admitted {
        tokio::task::block_in_place(|| {
            let _turn = runtime.block_on(turn_of(None));
            work();
        });
    }
    BLOCKED.fetch_sub(1, Ordering::Relaxed);
    if is_admitted { LongWorkState::Done } else { LongWorkState::Refused }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use futures_util::FutureExt as _;
    use tokio::{sync::Mutex, time::timeout};

    use super::*;

    /// Locked by the tests that take all turns of this process.
    static ALL_TURNS: Mutex<()> = Mutex::const_new(());
    const DEADLINE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn no_more_run_at_the_same_time_than_there_are_turns_and_each_tenant_waits_for_its_own() {
        let _alone = ALL_TURNS.lock().await;
        let mut running = Vec::new();
        while let Some(turn) = turn("busy").now_or_never() {
            running.push(turn);
        }
        assert!(!running.is_empty());
        let mut of_busy: Vec<_> = (0..3).map(|_| Box::pin(turn("busy"))).collect();
        assert!(of_busy.iter_mut().all(|turn| turn.now_or_never().is_none()));
        let mut of_other = Box::pin(turn("other"));
        assert!((&mut of_other).now_or_never().is_none());
        running.pop();
        running.push((&mut of_busy[0]).now_or_never().expect("the first that waits"));
        running.pop();
        (&mut of_other).now_or_never().expect("before the others of the busy tenant");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn at_most_four_computations_block_a_thread_and_others_are_refused_meanwhile() {
        let _alone = ALL_TURNS.lock().await;
        let mut running = Vec::new();
        while let Some(turn) = turn("busy").now_or_never() {
            running.push(turn);
        }
        let decode = || tokio::spawn(async { decode(&mut || (), false) });
        let blocked: Vec<_> = (0..4).map(|_| decode()).collect();
        let all_blocked = async {
            while BLOCKED.load(Ordering::Relaxed) < blocked.len() {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, all_blocked).await.expect("four wait");
        for _ in 0..3 {
            let answer = timeout(DEADLINE, decode()).await.expect("it does not wait");
            assert!(matches!(answer, Ok(LongWorkState::Refused)));
        }
        drop(running);
        for computation in blocked {
            let answer = timeout(DEADLINE, computation).await.expect("its turn has come");
            assert!(matches!(answer, Ok(LongWorkState::Done)));
        }
        assert!(matches!(decode().await, Ok(LongWorkState::Done)));
    }

    #[tokio::test]
    async fn a_computation_is_deferred_until_its_turn_and_then_runs_on_another_thread() {
        let is_deferred = |was_deferred| {
            let mut work = || panic!("it is to be deferred");
            matches!(decode(&mut work, was_deferred), LongWorkState::Deferred)
        };
        allow_deferral();
        assert!(is_deferred(false));
        assert!(matches!(take_awaited(), Some(Awaited::Turn)));
        assert!(take_awaited().is_none(), "once");
        assert!(is_deferred(true), "it is not its turn yet");
        grant(Turn { _slot: None });
        let LongWorkState::Elsewhere(start) = decode(&mut || panic!("not on this thread"), true) else {
            panic!("it is its turn")
        };
        let (sender, thread) = mpsc::channel();
        start(Box::new(move || drop(sender.send(std::thread::current().name().map(str::to_owned)))));
        let Some(Awaited::Decoded(is_decoded)) = take_awaited() else { panic!("it runs") };
        // Only the end of the computation is reported.
        is_decoded.await.expect_err("nothing is sent");
        assert_eq!(thread.try_recv().expect("it has run").as_deref(), Some("long-work"));
    }

    #[test]
    fn a_computation_that_cannot_be_deferred_runs_at_once() {
        let mut count = 0;
        allow_deferral();
        forbid_deferral();
        assert!(matches!(decode(&mut || count += 1, false), LongWorkState::Done));
        assert_eq!(count, 1);
    }
}
