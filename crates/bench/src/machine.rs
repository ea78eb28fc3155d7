//! The machine and the build that figures were measured with.

use serde::Serialize;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// The machine and the build.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// The number of processors that this process may use.
    pub processors: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// The operating system.
    pub system: String,
    /// The kernel's version.
    pub kernel: String,
    /// The versions of RabbitMQ and Erlang, from the broker's log.
    pub broker: String,
    /// This program's version.
    pub warrengate: String,
    /// `release` or `debug`.
    pub build: &'static str,
    /// The load average over one minute at the start.
    pub load_average: f64,
}

impl Machine {
    pub(super) fn read(broker: String) -> Self {
        let kind = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(kind);
        Self {
            processor: system.cpus().first().map_or_else(String::new, |cpu| cpu.brand().to_owned()),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory: system.total_memory(),
            system: System::long_os_version().unwrap_or_default(),
            kernel: System::kernel_version().unwrap_or_default(),
            broker,
            warrengate: env!("CARGO_PKG_VERSION").to_owned(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            load_average: System::load_average().one,
        }
    }
}
