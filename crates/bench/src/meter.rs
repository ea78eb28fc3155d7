//! Processor time and memory of processes, and the share of the machine that other programs used meanwhile, so that a
//! report can say when its figures are unreliable.

use std::time::Instant;

use serde::Serialize;
use sysinfo::{CpuRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

/// Reads the processor time and memory of processes.
pub(super) struct Meter {
    system: System,
    processes: [Option<Pid>; 3],
}

/// One value for each of the three processes: application, gateway, broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct PerProcess<T> {
    /// The client process.
    pub application: T,
    /// The gateway; `None` on paths that do not use it.
    pub gateway: T,
    /// The broker.
    pub broker: T,
}

impl<T> PerProcess<T> {
    pub(super) fn map<U>(self, change: impl Fn(T) -> U) -> PerProcess<U> {
        PerProcess { application: change(self.application), gateway: change(self.gateway), broker: change(self.broker) }
    }
}

/// One reading of all processes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    at: Instant,
    /// Processor seconds since each process began.
    cpu: PerProcess<Option<f64>>,
    /// Bytes of resident memory.
    pub(super) memory: PerProcess<Option<u64>>,
    /// Busy processor seconds of the machine since the previous reading.
    busy: f64,
}

impl Meter {
    pub(super) fn new(processes: PerProcess<Option<u32>>) -> Self {
        let cpu = CpuRefreshKind::nothing().with_cpu_usage();
        let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(cpu));
        let pid = |id: Option<u32>| id.map(Pid::from_u32);
        Self { system, processes: [pid(processes.application), pid(processes.gateway), pid(processes.broker)] }
    }

    pub(super) fn read(&mut self, before: Option<&Reading>) -> Reading {
        let known: Vec<Pid> = self.processes.iter().flatten().copied().collect();
        // A process's figures include its threads.
        let kind = ProcessRefreshKind::nothing().with_cpu().with_memory().without_tasks();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&known), true, kind);
        self.system.refresh_cpu_usage();
        let at = Instant::now();
        let passed = before.map_or(0.0, |before| (at - before.at).as_secs_f64());
        let cpu = |index: usize| {
            let process = self.system.process(self.processes[index]?)?;
            Some(precise(process.accumulated_cpu_time()))
        };
        let memory = |index: usize| Some(self.system.process(self.processes[index]?)?.memory());
        Reading {
            at,
            cpu: PerProcess { application: cpu(0), gateway: cpu(1), broker: cpu(2) },
            memory: PerProcess { application: memory(0), gateway: memory(1), broker: memory(2) },
            busy: f64::from(self.system.global_cpu_usage()) / 100.0 * passed * processors(),
        }
    }
}

impl Reading {
    /// The processor seconds of each process since `before`.
    pub(super) fn cpu_since(&self, before: &Self) -> PerProcess<Option<f64>> {
        let since = |now: Option<f64>, then: Option<f64>| Some(now? - then?);
        PerProcess {
            application: since(self.cpu.application, before.cpu.application),
            gateway: since(self.cpu.gateway, before.cpu.gateway),
            broker: since(self.cpu.broker, before.cpu.broker),
        }
    }

    /// The share of the machine's processors that other programs used since `before`: 0 to 1.
    pub(super) fn others_since(&self, before: &Self) -> f64 {
        let ours = self.cpu_since(before);
        let ours = [ours.application, ours.gateway, ours.broker].into_iter().flatten().sum::<f64>();
        let whole = (self.at - before.at).as_secs_f64() * processors();
        ((self.busy - ours) / whole.max(f64::EPSILON)).clamp(0.0, 1.0)
    }
}

/// Converts milliseconds to seconds.
fn precise(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

/// The number of processors.
pub(super) fn processors() -> f64 {
    std::thread::available_parallelism().map_or(1, usize::from) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_of_a_busy_process_is_measured() {
        let own = PerProcess { application: Some(std::process::id()), gateway: None, broker: None };
        let mut meter = Meter::new(own);
        let before = meter.read(None);
        let began = Instant::now();
        let mut sum = 0_u64;
        // Processor time is counted in hundredths of a second.
        while began.elapsed().as_millis() < 200 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let after = meter.read(Some(&before));
        let used = after.cpu_since(&before);
        assert!(used.application.is_some_and(|seconds| seconds > 0.0), "{used:?}");
        assert_eq!(used.gateway, None);
        assert!(after.memory.application.is_some_and(|bytes| bytes > 1_000_000));
    }
}
