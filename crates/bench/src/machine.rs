//! The machine and the build that figures were measured with.

use serde::Serialize;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// This machine and this build.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many of them this process may use.
    pub processors: usize,
    /// Bytes.
    pub memory: u64,
    /// The operating system.
    pub system: String,
    /// Its kernel.
    pub kernel: String,
    /// RabbitMQ and Erlang, as the broker says.
    pub broker: String,
    /// This program's version.
    pub warrengate: String,
    /// `release` or `debug`.
    pub build: &'static str,
    /// Programs that wanted a processor when it began: 1 minute's average.
    pub load_average: f64,
}

impl Machine {
    pub(super) fn look(broker: String) -> Self {
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
