//! `warrengate serve`: runs the gateway until a signal, and then drains it.

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
    /// The settings, as TOML; without it, only the environment is read
    #[arg(long, value_name = "FILE", env = "WARRENGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Check the settings and their files, and exit
    #[arg(long)]
    check: bool,
    /// Print the settings in effect, without secrets, and exit
    #[arg(long)]
    print_config: bool,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let (config, listing) = Config::load_listed(args.config.as_deref(), std::env::vars())
        .map_err(|error| Error::Usage(error.to_string()))?;
    if args.print_config {
        output.line(listing.trim_end())?;
    }
    if args.check {
        config.check_files().map_err(|error| Error::Usage(error.to_string()))?;
        output.note("the settings are valid, and the files exist");
    }
    if args.check || args.print_config {
        return Ok(());
    }
    let mut signals = Signals::listen()?;
    let filter = telemetry::init(&config.telemetry).map_err(anyhow::Error::from)?;
    telemetry::log_panics();
    #[cfg(all(unix, feature = "jemalloc"))]
    if let Err(problem) = warrengate_allocator::check() {
        tracing::warn!("{problem}");
    }
    #[cfg(all(unix, not(feature = "jemalloc"), not(debug_assertions)))]
    tracing::warn!("this program was built without the feature `jemalloc`, so it needs more memory and processor time");
    if let Err(error) = config.check_permissions() {
        for error in error.errors() {
            tracing::warn!(%error, "a file with a secret is open to other users");
        }
    }
    reload_filter_on_hangup(filter, args.config)?;
    let mut gateway = Box::pin(Gateway::start(config)).await.map_err(anyhow::Error::from)?;
    if let Some((id, secret)) = gateway.take_first_administrator() {
        // Shown only once, and on standard output, so that it does not get into the log.
        output.line(&format!(
            "administrator {id}, secret {}: save it now, it cannot be shown again",
            secret.expose_secret()
        ))?;
    }
    tracing::info!(grpc = %gateway.grpc_address(), ops = %gateway.ops_address(), "gateway started");
    if let Some(console) = gateway.console_address() {
        tracing::info!(%console, "console started");
    }
    let failed = tokio::select! {
        () = signals.next() => None,
        task = gateway.failed() => Some(task),
    };
    tracing::info!("draining");
    tokio::select! {
        () = gateway.shutdown() => {
            tracing::info!("stopped");
            match failed {
                None => Ok(()),
                Some(task) => Err(Error::Failed(format!("the background task \"{task}\" failed"))),
            }
        }
        () = signals.next() => {
            tracing::warn!("stopped immediately");
            Err(Error::Failed("a second signal ended the gateway before its drain was complete".into()))
        }
    }
}

/// Reloads the log filter, and nothing else, from the settings on SIGHUP.
fn reload_filter_on_hangup(filter: LogFilter, file: Option<PathBuf>) -> Result<(), Error> {
    let mut hangup = signal(SignalKind::hangup()).map_err(Error::io("cannot listen for signals"))?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let set = Config::load(file.as_deref(), std::env::vars())
                .map_err(|error| error.to_string())
                .and_then(|config| filter.set(&config.telemetry.log).map_err(|error| error.to_string()));
            match set {
                Ok(()) => tracing::info!("log filter reloaded"),
                Err(error) => tracing::warn!(error, "invalid log filter ignored"),
            }
        }
    });
    Ok(())
}
