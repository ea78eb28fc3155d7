//! The `warrengate` command.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    warrengate::cli::run().await
}
