//! Computations of tens of milliseconds, such as decoding the largest requests: they run beside the workers of the runtime
//! instead of stalling one of them.
//!
//! Invariant: at most half of the processors are busy with them, so that they do not delay everything else together. Those
//! that wait use no thread, and are fair between tenants.

use std::{
    cell::Cell,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::{
    fair::{FairQueue, Limits, Slot},
    pb::LongWorkState,
};

/// The maximum number of computations that wait on a thread of their own, because they cannot be deferred.
const MAX_BLOCKED: usize = 4;

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
}

/// The right to run a long computation now; dropped when it has ended.
#[derive(Debug)]
pub struct Turn {
    _slot: Option<Slot<Lane>>,
}

fn queue() -> &'static FairQueue<Lane> {
    static QUEUE: OnceLock<FairQueue<Lane>> = OnceLock::new();
    QUEUE.get_or_init(|| {
        let running = (std::thread::available_parallelism().map_or(1, usize::from) / 2).max(1);
        // What waits is charged to memory budgets, which bound its number.
        FairQueue::new(Limits { running, waiting_each: usize::MAX, waiting: usize::MAX })
    })
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

/// Runs a long computation. The other tasks of this thread's worker continue on another thread.
pub fn run<T>(turn: Turn, work: impl FnOnce() -> T) -> T {
    match multi_thread() {
        Some(_) => tokio::task::block_in_place(|| {
            let _turn = turn;
            work()
        }),
        None => work(),
    }
}

/// The runtime of this thread, whose workers can be replaced while they are blocked; `None` only in unit tests.
fn multi_thread() -> Option<Handle> {
    Handle::try_current().ok().filter(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// Makes this module decode the requests that take long to decode.
pub fn use_for_decoding() {
    crate::pb::set_long_decoding(decode);
}

/// Allows the decoder, which this thread calls next, to defer a request: when [`was_deferred`] says so, the body waits for
/// a [`turn`], passes it on with [`grant`], and returns an empty frame, so that the decoder is called again.
pub fn allow_deferral() {
    NEXT.set(Next::Deferrable);
}

/// The opposite of [`allow_deferral`].
pub fn forbid_deferral() {
    NEXT.set(Next::Blocking);
}

/// Whether the decoder has deferred a request since the last call of [`allow_deferral`] on this thread.
pub fn was_deferred() -> bool {
    matches!(NEXT.take(), Next::Deferred)
}

/// Passes the turn to the decoder, which this thread calls next.
pub fn grant(turn: Turn) {
    NEXT.set(Next::Granted(turn));
}

fn decode(work: &mut (dyn FnMut() + Send), was_deferred: bool) -> LongWorkState {
    match NEXT.take() {
        Next::Granted(turn) => run(turn, work),
        // The decoder is called whenever its stream is polled, also before it is this request's turn.
        _ if was_deferred => return LongWorkState::Deferred,
        Next::Deferrable => {
            NEXT.set(Next::Deferred);
            return LongWorkState::Deferred;
        }
        Next::Blocking | Next::Deferred => return block(work),
    }
    LongWorkState::Done
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
    use tokio::{
        sync::Mutex,
        time::{Instant, timeout},
    };

    use super::*;

    /// Locked by the tests that take all turns of this process.
    static ALL_TURNS: Mutex<()> = Mutex::const_new(());
    const DEADLINE: Duration = Duration::from_secs(10);

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_go_on_beside_a_long_computation() {
        let (done, is_done) = mpsc::channel();
        let computing = tokio::spawn(async move {
            // Ends only when the other task has run, which needs the only worker.
            run(Turn { _slot: None }, move || is_done.recv_timeout(Duration::from_secs(10)).is_ok())
        });
        tokio::spawn(async move { done.send(()) });
        let began = Instant::now();
        assert!(computing.await.expect("no panic"), "after {:?}", began.elapsed());
    }

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
            assert_eq!(answer.expect("no panic"), LongWorkState::Refused);
        }
        drop(running);
        for computation in blocked {
            let answer = timeout(DEADLINE, computation).await.expect("its turn has come");
            assert_eq!(answer.expect("no panic"), LongWorkState::Done);
        }
        assert_eq!(decode().await.expect("no panic"), LongWorkState::Done);
    }

    #[test]
    fn a_computation_is_deferred_until_its_turn_is_passed_on() {
        let mut count = 0;
        allow_deferral();
        assert_eq!(decode(&mut || count += 1, false), LongWorkState::Deferred);
        assert!(was_deferred());
        assert!(!was_deferred(), "once");
        assert_eq!(decode(&mut || count += 1, true), LongWorkState::Deferred, "it is not its turn yet");
        grant(Turn { _slot: None });
        assert_eq!(decode(&mut || count += 1, true), LongWorkState::Done);
        assert!(!was_deferred());
        allow_deferral();
        forbid_deferral();
        assert_eq!(decode(&mut || count += 1, false), LongWorkState::Done);
        assert_eq!(count, 2);
    }
}
