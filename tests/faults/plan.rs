//! The schedule of faults, derived from a duration and a seed. Ten minutes contain every kind as often as listed below;
//! other durations are proportional, with each kind at least once.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    BrokerKill,
    BrokerFreeze,
    MemoryAlarm,
    GatewayKill,
    GatewayStop,
    Cut,
    HalfOpen,
    ConsumerKill,
    LeaderKill,
}

/// The name, the number in ten minutes, and the duration in seconds including recovery.
const KINDS: [(Fault, &str, u32, f64); 9] = [
    (Fault::BrokerKill, "kill -9 of the broker", 5, 11.0),
    (Fault::BrokerFreeze, "broker frozen (SIGSTOP)", 3, 0.0),
    (Fault::MemoryAlarm, "memory alarm", 3, 12.0),
    (Fault::GatewayKill, "kill -9 of a gateway", 5, 6.0),
    (Fault::GatewayStop, "SIGTERM of a gateway", 5, 6.0),
    (Fault::Cut, "network cut", 5, 5.0),
    (Fault::HalfOpen, "half-open connections", 5, 18.0),
    (Fault::ConsumerKill, "kill -9 of consumers", 10, 3.0),
    (Fault::LeaderKill, "kill -9 of a cluster's leader", 3, 12.0),
];

impl Fault {
    pub fn all() -> impl Iterator<Item = Self> {
        KINDS.iter().map(|(fault, ..)| *fault)
    }

    fn kind(self) -> (Self, &'static str, u32, f64) {
        KINDS[self as usize]
    }

    pub fn name(self) -> &'static str {
        self.kind().1
    }
}

/// The network that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Between a gateway and the broker.
    Broker,
    /// Between clients and a gateway.
    Clients,
}

/// One fault of the schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub fault: Fault,
    /// When it is injected, unless the previous one takes longer.
    pub at: Duration,
    /// Its duration, where it can be chosen.
    pub duration: Duration,
    /// The affected gateway.
    pub gateway: usize,
    pub network: Network,
    /// Selects the affected consumer process or tenant.
    pub victim: usize,
}

/// How long the broker is frozen: 30 s, or in a short run until every stream must have noticed.
pub fn freeze(minutes: f64) -> Duration {
    Duration::from_secs(if minutes >= 5.0 { 30 } else { 17 })
}

/// Creates the schedule.
pub fn create(minutes: f64, seed: u64) -> Vec<Step> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut faults = Vec::new();
    for (fault, _, times, _) in KINDS {
        let times = (f64::from(times) * minutes / 10.0).round().max(1.0);
        faults.extend(std::iter::repeat_n(fault, times as usize));
    }
    faults.shuffle(&mut random);
    let takes = |fault: Fault| match fault {
        Fault::BrokerFreeze => freeze(minutes).as_secs_f64() + 3.0,
        other => other.kind().3,
    };
    let busy: f64 = faults.iter().map(|fault| takes(*fault)).sum();
    let pauses: Vec<f64> = faults.iter().map(|_| random.random_range(0.2..1.0)).collect();
    let share = (minutes * 60.0 - busy).max(0.0) / pauses.iter().sum::<f64>();
    let (count, mut at, mut half_open) = (faults.len(), 0.0, 0);
    let mut steps = Vec::new();
    for (number, (fault, pause)) in faults.into_iter().zip(pauses).enumerate() {
        at += pause * share;
        // The first gateway is not killed in the second half, so that its memory can be checked.
        let any = random.random_range(0..2);
        let is_killed = matches!(fault, Fault::GatewayKill | Fault::GatewayStop);
        let gateway = if is_killed && number * 2 >= count { 1 } else { any };
        half_open += usize::from(fault == Fault::HalfOpen);
        let clients = random.random_bool(0.5);
        let network = match fault {
            Fault::Cut if clients => Network::Clients,
            Fault::HalfOpen if half_open % 5 == 4 => Network::Clients,
            _ => Network::Broker,
        };
        let duration = match fault {
            Fault::BrokerFreeze => freeze(minutes),
            Fault::HalfOpen => Duration::from_secs(17),
            Fault::MemoryAlarm => Duration::from_millis(random.random_range(3_000..7_000)),
            _ => Duration::from_millis(random.random_range(200..3_000)),
        };
        let victim = random.random_range(0..1_000);
        steps.push(Step { fault, at: Duration::from_secs_f64(at), duration, gateway, network, victim });
        at += takes(fault);
    }
    steps
}

/// Checks the properties of the schedule.
pub fn check() {
    for (minutes, seed) in [(2.0, 1), (2.0, 2), (10.0, 3), (60.0, 4)] {
        let steps = create(minutes, seed);
        assert_eq!(steps, create(minutes, seed));
        for (fault, _, times, _) in KINDS {
            let found = steps.iter().filter(|step| step.fault == fault).count();
            assert!(found >= 1 && found as f64 >= (f64::from(times) * minutes / 10.0).floor(), "{fault:?}: {found}");
        }
        let is_killed =
            |step: &&Step| matches!(step.fault, Fault::GatewayKill | Fault::GatewayStop) && step.gateway == 0;
        assert!(steps[steps.len().div_ceil(2)..].iter().find(is_killed).is_none());
        let order: Vec<_> = KINDS.iter().map(|(fault, ..)| *fault as usize).collect();
        assert_eq!(order, (0..KINDS.len()).collect::<Vec<_>>());
    }
}
