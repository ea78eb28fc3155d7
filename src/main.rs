//! The `warrengate` command.

use std::process::ExitCode;

/// Chosen by measurement: docs/adr/0012.
#[cfg(unix)]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    warrengate::cli::run().await
}
