//! `warrengate dev`: everything on this machine with nothing to configure. A folder enters; a broker, a gateway, two
//! tenants and the lines to paste next leave. It proves itself before it says that it is ready, and stops with Ctrl-C.

mod identities;
mod jaeger;
mod proof;
mod settings;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use secrecy::SecretString;
use serde_json::json;

use self::{identities::Identities, jaeger::Tracing};
use super::{Error, Output, dev_env, signals::Signals};
use crate::{
    client::{Client, ClientOptions, Credentials},
    config::{LogFormat, MetricsConfig, TelemetryConfig, TracesConfig},
    stack::{Stack, StackOptions},
    telemetry,
};

const AMQPS_PORT: u16 = 5681;
const MANAGEMENT_PORT: u16 = 15681;
const EXAMPLES: &str = "\
Examples:
  warrengate dev                                   until Ctrl-C; messages and tenants are kept in .warrengate/
  warrengate dev --smoke                           start, prove, stop
  warrengate dev --reset                           forget everything in .warrengate/ first

Settings of the gateway are taken from the environment, by the names in docs/warrengate.example.toml:
  WARRENGATE_AUTH__TOKEN_LIFETIME=5m warrengate dev";

/// The flags of `dev`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Stop after the proof, with exit code 0 when it held
    #[arg(long)]
    smoke: bool,
    /// Delete the kept state first: certificates, tenants, messages
    #[arg(long)]
    reset: bool,
    /// Where gRPC listens
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 8443)))]
    grpc: SocketAddr,
    /// Where metrics, keys and tokens are
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)))]
    ops: SocketAddr,
    /// The private broker's AMQPS port
    #[arg(long, value_name = "PORT", default_value_t = AMQPS_PORT)]
    amqps_port: u16,
    /// The private broker's management port
    #[arg(long, value_name = "PORT", default_value_t = MANAGEMENT_PORT)]
    management_port: u16,
    /// A RabbitMQ other than the installed one
    #[arg(long, value_name = "PATH")]
    broker: Option<PathBuf>,
    /// What is logged, like info or warrengate=debug
    #[arg(long, value_name = "FILTER", env = settings::LOG, default_value = "warn")]
    log: String,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    if !args.grpc.ip().is_loopback() || !args.ops.ip().is_loopback() {
        let text =
            "dev listens on this machine only, since its secrets lie in a file; for others use `warrengate serve`";
        return Err(Error::Usage(text.to_owned()));
    }
    let dir = PathBuf::from(".warrengate");
    if args.reset {
        reset(&dir)?;
    }
    let mut signals = Signals::listen()?;
    let _ = telemetry::init(&TelemetryConfig {
        log: args.log.clone(),
        log_format: LogFormat::Auto,
        // The stack's gateway has its own.
        traces: TracesConfig::default(),
        metrics: MetricsConfig::default(),
    })
    .map_err(anyhow::Error::from)?;
    let say: Arc<dyn Fn(&str) + Send + Sync> = {
        let output = output.clone();
        Arc::new(move |line: &str| output.note(line))
    };
    let mut options = StackOptions::new(&dir);
    options.grpc = args.grpc;
    options.ops = args.ops;
    options.amqps_port = Some(args.amqps_port);
    options.management_port = Some(args.management_port);
    options.installation = args.broker;
    options.progress = say;
    let tracing = Tracing::find();
    options.settings.clone_from(&tracing.settings);
    let given = settings::from_environment(std::env::vars());
    if !given.ignored.is_empty() {
        output.note(&format!(
            "dev has its own ways in, broker and store, so it does not use {}",
            given.ignored.join(", ")
        ));
    }
    options.settings.extend(given.taken);

    let mut stack = tokio::select! {
        stack = Box::pin(Stack::start(options)) => stack.map_err(anyhow::Error::from)?,
        // What was started ends with its guard.
        () = signals.next() => return Err(Error::Failed("interrupted while starting".to_owned())),
    };
    let done = tokio::select! {
        done = Box::pin(introduce(&mut stack, &dir, output)) => done,
        () = signals.next() => Err(Error::Failed("interrupted".to_owned())),
    };
    if done.is_ok() && !args.smoke {
        output.note(&tracing.note);
        output.note("Ctrl-C stops all of it.");
        signals.next().await;
        output.note("stopping; once more stops at once");
    }
    tokio::select! {
        stopped = stack.stop() => stopped.map_err(anyhow::Error::from)?,
        () = signals.next() => {}
    }
    done
}

/// Makes the tenants, proves the round trip and the wall, and says what to do next.
async fn introduce(stack: &mut Stack, dir: &Path, output: &Output) -> Result<(), Error> {
    let ca_path = std::path::absolute(stack.gateway_ca()).map_err(Error::io("cannot find the working directory"))?;
    let ca = std::fs::read_to_string(&ca_path).map_err(Error::io("cannot read the gateway's CA"))?;
    let endpoint = stack.endpoint();
    let connect = async |id: &str, secret: &SecretString| {
        let credentials = Credentials::Secret { client_id: id.to_owned(), secret: secret.clone() };
        Client::connect(ClientOptions::new(&endpoint, credentials).ca_certificate(ca.clone())).await
    };
    let file = dir.join(dev_env::NAME);
    let mut identities = Identities::read(&file)?;
    let made = stack.take_first_administrator().map(|(id, secret)| (id.to_string(), secret));
    let known = made.or_else(|| identities.admin());
    let Some((admin_id, admin_secret)) = known else {
        return Err(Error::Failed(format!(
            "{} has lost the administrator's secret; start anew with `warrengate dev --reset`",
            file.display()
        )));
    };
    identities.keep("ADMIN", &admin_id, &admin_secret);
    identities.set_gateway(&endpoint, &ca_path);
    // Before anything else can fail: the administrator's secret is shown only once.
    identities.write(&file)?;
    let admin = connect(&admin_id, &admin_secret).await?;
    for tenant in ["acme", "globex"] {
        let changes = identities.ensure_tenant(&admin, tenant).await?;
        if !changes.is_empty() {
            output.note(&format!("tenant {tenant}: {} changes at the broker", changes.len()));
        }
    }
    identities.write(&file)?;
    let (acme_id, acme_secret) = identities.of("ACME")?;
    let (globex_id, globex_secret) = identities.of("GLOBEX")?;
    let acme = connect(&acme_id, &acme_secret).await?;
    let globex = connect(&globex_id, &globex_secret).await?;
    let proof = proof::prove(&acme, &globex).await?;
    output.result(
        || json!({ "endpoint": endpoint, "ca": ca_path, "environment": file, "proof": proof.json() }),
        || next_steps(&endpoint, &file, &proof.text()),
    )
}

fn next_steps(endpoint: &str, file: &Path, proof: &str) -> String {
    let run = program();
    format!(
        "{proof}\n\nThe gateway is ready at {endpoint}. In another terminal, in this folder:\n\n  \
         {run} queue declare orders\n  \
         {run} publish --queue orders 'my first order'\n  \
         {run} subscribe orders --count 1\n  \
         {run} subscribe orders --as globex        # another tenant: there is no such queue\n\n\
         Identities (acme, globex, admin) are in {}.",
        file.display()
    )
}

/// How this program is called from here, so that what is printed can be pasted: by name when the PATH leads to it, else by
/// its place.
fn program() -> String {
    let name = env!("CARGO_PKG_NAME");
    let Ok(own) = std::env::current_exe().and_then(std::fs::canonicalize) else { return name.to_owned() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let first = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|found| found.is_file());
    if first.and_then(|found| std::fs::canonicalize(found).ok()).as_ref() == Some(&own) {
        return name.to_owned();
    }
    let here = std::env::current_dir().and_then(std::fs::canonicalize).unwrap_or_default();
    own.strip_prefix(here).unwrap_or(&own).display().to_string()
}

/// Deletes only what looks like ours.
fn reset(dir: &Path) -> Result<(), Error> {
    if !dir.exists() {
        return Ok(());
    }
    let ours = ["certs", "broker", "store.key", dev_env::NAME].iter().any(|name| dir.join(name).exists());
    let empty = std::fs::read_dir(dir).map_err(Error::io("cannot read .warrengate"))?.next().is_none();
    if !ours && !empty {
        return Err(Error::Failed(format!("{} does not look like a development state; not deleted", dir.display())));
    }
    std::fs::remove_dir_all(dir).map_err(Error::io(format!("cannot delete {}", dir.display())))
}
