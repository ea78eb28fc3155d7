//! `warrengate serve`: the gateway in production. A file and the environment enter; a gateway runs until it is told to
//! stop, and then gives its streams the time to end.

use std::path::PathBuf;

use secrecy::ExposeSecret as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{Error, Output, signals::Signals};
use crate::{
    config::Config,
    gateway::Gateway,
    telemetry::{self, LogFilter},
};

const EXAMPLES: &str = "\
Examples:
  warrengate serve --config /etc/warrengate.toml
  warrengate serve --config /etc/warrengate.toml --check
  warrengate serve --config /etc/warrengate.toml --print-config

docs/warrengate.example.toml documents every setting. Each is also an environment variable: grpc.listen is
WARRENGATE_GRPC__LISTEN.";

/// The flags of `serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The settings, as TOML; without it they come from the environment alone
    #[arg(long, value_name = "FILE", env = "WARRENGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Check the settings and the files they name, and stop
    #[arg(long)]
    check: bool,
    /// Print the settings in force, without secrets, and stop
    #[arg(long)]
    print_config: bool,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let config =
        Config::load(args.config.as_deref(), std::env::vars()).map_err(|error| Error::Usage(error.to_string()))?;
    if args.print_config {
        output.line(config.to_string().trim_end())?;
    }
    if args.check {
        config.check_files().map_err(|error| Error::Usage(error.to_string()))?;
        output.note("the settings are valid, and the files are there");
    }
    if args.check || args.print_config {
        return Ok(());
    }
    let mut signals = Signals::listen()?;
    let filter = telemetry::init(&config.telemetry).map_err(anyhow::Error::from)?;
    follow_filter(filter, args.config)?;
    let mut gateway = Box::pin(Gateway::start(config)).await.map_err(anyhow::Error::from)?;
    if let Some((id, secret)) = gateway.take_first_administrator() {
        // The only time that it is seen; standard output, so that it does not end in the log.
        output
            .line(&format!("administrator {id}, secret {}: keep it, it is not shown again", secret.expose_secret()))?;
    }
    tracing::info!(grpc = %gateway.grpc_address(), ops = %gateway.ops_address(), "gateway is up");
    signals.next().await;
    tracing::info!("draining");
    tokio::select! {
        () = gateway.shutdown() => {
            tracing::info!("stopped");
            Ok(())
        }
        () = signals.next() => {
            tracing::warn!("stopped at once");
            Err(Error::Failed("a second signal ended the gateway before its drain was over".into()))
        }
    }
}

/// SIGHUP: what to log is read again from the settings, and nothing else of them counts. Only who may signal the process can
/// do it.
fn follow_filter(filter: LogFilter, file: Option<PathBuf>) -> Result<(), Error> {
    let mut hangup = signal(SignalKind::hangup()).map_err(Error::io("cannot listen for signals"))?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let set = Config::load(file.as_deref(), std::env::vars())
                .map_err(|error| error.to_string())
                .and_then(|config| filter.set(&config.telemetry.log).map_err(|error| error.to_string()));
            match set {
                Ok(()) => tracing::info!("log filter was read again"),
                Err(error) => tracing::warn!(error, "log filter stays as it was"),
            }
        }
    });
    Ok(())
}
