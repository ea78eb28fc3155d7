//! The `warrengate` command.

use std::{num::NonZero, process::ExitCode};

/// Chosen by measurement: docs/adr/0012.
#[cfg(all(unix, feature = "jemalloc"))]
#[global_allocator]
static ALLOCATOR: warrengate_allocator::Allocator = warrengate_allocator::ALLOCATOR;

fn main() -> ExitCode {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // tokio reads this variable itself.
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        runtime.worker_threads(workers(std::thread::available_parallelism().map_or(1, NonZero::get)));
    }
    match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(warrengate::cli::run()),
        Err(error) => warrengate::cli::not_started(error),
    }
}

/// Three fifths of the processors, because lapin's threads do two fifths of the work. With more threads, more work
/// moves between them (docs/adr/0013).
fn workers(processors: usize) -> usize {
    (processors * 3 / 5).max(1)
}
