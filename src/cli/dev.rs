//! `warrengate dev`: a private broker, a gateway and two tenants on this machine, with nothing to configure.
//!
//! It sends one message through the stack before it reports that it is ready, and stops with Ctrl-C. The folder
//! `.warrengate` is locked while it runs.

mod identities;
mod jaeger;
mod proof;
mod recover;
mod settings;

use std::{
    fs::{DirEntry, File, TryLockError},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use secrecy::SecretString;
use serde_json::json;
use tonic::Code;

use self::{identities::Identities, jaeger::Tracing};
use super::{Error, Output, dev_env, signals::Signals};
use crate::{
    client::{self, Client, ClientOptions, Credentials},
    config::{LogFormat, MetricsConfig, TelemetryConfig, TracesConfig},
    stack::{Stack, StackOptions},
    telemetry,
};

const GRPC_PORT: u16 = 8443;
const OPS_PORT: u16 = 8080;
const CONSOLE_PORT: u16 = 8090;
const AMQPS_PORT: u16 = 5681;
const MANAGEMENT_PORT: u16 = 15681;
/// Locked while a `dev` runs in the folder.
const LOCK: &str = "dev.lock";
const EXAMPLES: &str = "\
Examples:
  warrengate dev                                   until Ctrl-C; messages and tenants are kept in .warrengate/
  warrengate dev --open                            and show the console in the browser
  warrengate dev --smoke                           start, send one message, stop
  warrengate dev --reset                           delete everything in .warrengate/ first
  warrengate dev --ports auto --json               on free ports; a line of JSON once it is ready

Settings of the gateway are taken from the environment, by the names in docs/warrengate.example.toml:
  WARRENGATE_AUTH__TOKEN_LIFETIME=5m warrengate dev";

/// The flags of `dev`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Stop after the round trip, with exit code 0 if it succeeded
    #[arg(long)]
    smoke: bool,
    /// Delete the state of earlier runs first: certificates, tenants, messages
    #[arg(long)]
    reset: bool,
    /// The ports that are not given below
    #[arg(long, value_enum, default_value = "default")]
    ports: PortChoice,
    /// The address of gRPC [default: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDRESS")]
    grpc: Option<SocketAddr>,
    /// The address of metrics, keys and tokens [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    ops: Option<SocketAddr>,
    /// The address of the web console [default: 127.0.0.1:8090, or a free port if that one is taken or --grpc is given]
    #[arg(long, value_name = "ADDRESS")]
    console: Option<SocketAddr>,
    /// Show the console in the browser when it is ready
    #[arg(long)]
    open: bool,
    /// The private broker's AMQPS port, 0 for a free one [default: 5681]
    #[arg(long, value_name = "PORT")]
    amqps_port: Option<u16>,
    /// The private broker's management port, 0 for a free one [default: 15681]
    #[arg(long, value_name = "PORT")]
    management_port: Option<u16>,
    /// A RabbitMQ other than the installed one
    #[arg(long, value_name = "PATH")]
    broker: Option<PathBuf>,
    /// The log filter, like info or warrengate=debug
    #[arg(long, value_name = "FILTER", env = settings::LOG, default_value = "warn")]
    log: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PortChoice {
    /// 8443, 8080, 8090, 5681 and 15681
    Default,
    /// Free ports
    Auto,
}

impl Args {
    fn address(&self, given: Option<SocketAddr>, default: u16) -> SocketAddr {
        let port = if self.ports == PortChoice::Auto { 0 } else { default };
        given.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// The console's link is printed, so any port is acceptable.
    fn console_address(&self) -> SocketAddr {
        let default = self.address(None, CONSOLE_PORT);
        let is_free = self.grpc.is_none() && std::net::TcpListener::bind(default).is_ok();
        self.console.unwrap_or(if is_free { default } else { (Ipv4Addr::LOCALHOST, 0).into() })
    }

    /// None for a free port.
    fn broker_port(&self, given: Option<u16>, default: u16) -> Option<u16> {
        let port = if self.ports == PortChoice::Auto { 0 } else { default };
        Some(given.unwrap_or(port)).filter(|port| *port != 0)
    }
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let (grpc, ops) = (args.address(args.grpc, GRPC_PORT), args.address(args.ops, OPS_PORT));
    let console = args.console_address();
    if [grpc, ops, console].iter().any(|address| !address.ip().is_loopback()) {
        let text =
            "dev listens on this machine only, because its secrets are in a file; for others use `warrengate serve`";
        return Err(Error::Usage(text.to_owned()));
    }
    let dir = PathBuf::from(".warrengate");
    let _lock = lock(&dir)?;
    if args.reset {
        reset(&dir)?;
    }
    let mut signals = Signals::listen()?;
    let _ = telemetry::init(&TelemetryConfig {
        log: args.log.clone(),
        log_format: LogFormat::Auto,
        // The gateway of the stack has its own.
        traces: TracesConfig::default(),
        metrics: MetricsConfig::default(),
    })
    .map_err(anyhow::Error::from)?;
    let say: Arc<dyn Fn(&str) + Send + Sync> = {
        let output = output.clone();
        Arc::new(move |line: &str| output.note(line))
    };
    let mut options = StackOptions::new(&dir);
    options.grpc = grpc;
    options.ops = ops;
    options.console = Some(console);
    options.amqps_port = args.broker_port(args.amqps_port, AMQPS_PORT);
    options.management_port = args.broker_port(args.management_port, MANAGEMENT_PORT);
    options.installation = args.broker;
    options.progress = say;
    let tracing = Tracing::find();
    options.settings.clone_from(&tracing.settings);
    let given = settings::from_environment(std::env::vars());
    if !given.ignored.is_empty() {
        output.note(&format!("dev sets its own addresses, broker and store, and ignores {}", given.ignored.join(", ")));
    }
    options.settings.extend(given.taken);

    let mut stack = tokio::select! {
        stack = Box::pin(Stack::start(options)) => stack.map_err(anyhow::Error::from)?,
        // Started processes end with their guard.
        () = signals.next() => return Err(Error::Failed("interrupted while starting".to_owned())),
    };
    let mut done = tokio::select! {
        done = Box::pin(set_up(&mut stack, &dir, output)) => done,
        () = signals.next() => Err(Error::Failed("interrupted".to_owned())),
    };
    if done.is_ok() && !args.smoke {
        if args.open {
            open_console(&stack, output);
        }
        output.note(&tracing.note);
        output.note("Ctrl-C stops everything.");
        tokio::select! {
            () = signals.next() => {}
            task = stack.gateway().failed() => {
                done = Err(Error::Failed(format!("the background task \"{task}\" of the gateway failed")));
            }
        }
        output.note("stopping; Ctrl-C again stops immediately");
    }
    tokio::select! {
        stopped = stack.stop() => stopped.map_err(anyhow::Error::from)?,
        () = signals.next() => {}
    }
    done
}

/// Creates the tenants, tests the round trip and the isolation, and prints the next steps.
async fn set_up(stack: &mut Stack, dir: &Path, output: &Output) -> Result<(), Error> {
    let ca_path = std::path::absolute(stack.gateway_ca()).map_err(Error::io("cannot find the working directory"))?;
    let ca = std::fs::read_to_string(&ca_path).map_err(Error::io("cannot read the gateway's CA"))?;
    let endpoint = stack.endpoint();
    let connect = async |id: &str, secret: &SecretString| {
        let credentials = Credentials::Secret { client_id: id.to_owned(), secret: secret.clone() };
        Client::connect(ClientOptions::new(&endpoint, credentials).ca_certificate(ca.clone())).await
    };
    let file = dir.join(dev_env::NAME);
    let mut identities = Identities::read(&file)?;
    let created = stack.take_first_administrator().map(|(id, secret)| (id.to_string(), secret));
    let known = created.or_else(|| identities.admin());
    identities.set_gateway(&endpoint, &ca_path);
    let keep_admin = |identities: &mut Identities, id: &str, secret: &SecretString| {
        identities.keep("ADMIN", id, secret);
        // Before anything else can fail: the administrator's secret is shown only once.
        identities.write(&file)
    };
    let admin = match known {
        Some((id, secret)) => {
            keep_admin(&mut identities, &id, &secret)?;
            connect(&id, &secret).await
        }
        None => Err(client::Error::from(tonic::Status::unauthenticated("the administrator's secret is lost"))),
    };
    let admin = match admin {
        Err(error) if error.code() == Some(Code::Unauthenticated) => {
            let (id, secret) = recover::administrator(stack.config()).await?;
            keep_admin(&mut identities, &id, &secret)?;
            output.note(&format!("{} had no valid secret of {id}; a new one was added", file.display()));
            recover::connected(|| connect(&id, &secret)).await?
        }
        other => other?,
    };
    for tenant in ["acme", "globex"] {
        let changes = identities.ensure_tenant(&admin, tenant).await?;
        if !changes.is_empty() {
            output.note(&format!("tenant {tenant}: {} changes at the broker", changes.len()));
        }
    }
    identities.write(&file)?;
    let (acme_id, acme_secret) = identities.of("ACME")?;
    let (globex_id, globex_secret) = identities.of("GLOBEX")?;
    let mut clients = Vec::new();
    for (name, id, secret) in [("ACME", acme_id, acme_secret), ("GLOBEX", globex_id, globex_secret)] {
        clients.push(match connect(&id, &secret).await {
            Err(error) if error.code() == Some(Code::Unauthenticated) => {
                let secret = recover::client(&admin, &id).await?;
                identities.keep(name, &id, &secret);
                identities.write(&file)?;
                output.note(&format!("{} had no valid secret of {id}; a new one was added", file.display()));
                recover::connected(|| connect(&id, &secret)).await?
            }
            other => other?,
        });
    }
    let (globex, acme) = (clients.pop(), clients.pop());
    let (Some(acme), Some(globex)) = (acme, globex) else { return Err(Error::Failed("no clients".to_owned())) };
    let proof = proof::prove(&acme, &globex).await?;
    if output.is_json() {
        // One line, for programs that start dev and wait for it.
        let file = std::path::absolute(&file).unwrap_or(file);
        let ready = json!({
            "event": "ready",
            "endpoint": endpoint,
            "ops": format!("http://{}", stack.gateway().ops_address()),
            "console": console_url(stack),
            "ca": ca_path,
            "environment": file,
            "proof": proof.json(),
        });
        return output.line(&ready.to_string());
    }
    output.line(&next_steps(&endpoint, &console_url(stack).unwrap_or_default(), &file, &proof.text()))
}

fn console_url(stack: &Stack) -> Option<String> {
    stack.gateway().console_address().map(|address| format!("http://{address}/"))
}

/// Shows the console with the program that opens addresses on this system.
fn open_console(stack: &Stack, output: &Output) {
    let Some(url) = console_url(stack) else { return };
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let command =
        Command::new(program).arg(&url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if command.is_err() {
        output.note(&format!("{program} is not installed; open {url} yourself"));
    }
}

fn next_steps(endpoint: &str, console: &str, file: &Path, proof: &str) -> String {
    let run = program();
    format!(
        "{proof}\n\nThe gateway is ready at {endpoint}. In another terminal, in this folder:\n\n  \
         {run} queue declare orders\n  \
         {run} publish --queue orders 'my first order'\n  \
         {run} subscribe orders --count 1\n  \
         {run} subscribe orders --as globex        # another tenant has no such queue\n\n\
         The console is at {console}: sign in as admin or acme.app. Identities (acme, globex, admin) are in {}.",
        file.display()
    )
}

/// How to call this program from here, for commands to copy: by name if it is in the PATH, else by its path.
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

/// Creates and locks the folder, so that a second `dev` (with `--reset`, too) cannot destroy the state of a running
/// one.
fn lock(dir: &Path) -> Result<File, Error> {
    let failed = || Error::io(format!("cannot lock {}", dir.display()));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed())?;
    let file = File::create(dir.join(LOCK)).map_err(failed())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Failed(format!(
            "another `warrengate dev` is using {}; stop it first, or run this one in another folder",
            dir.display()
        ))),
        Err(TryLockError::Error(error)) => Err(failed()(error)),
    }
}

/// Deletes everything in the folder but its lock, if it looks like a development state.
fn reset(dir: &Path) -> Result<(), Error> {
    let failed = || Error::io(format!("cannot delete the contents of {}", dir.display()));
    let entries = std::fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(failed())?;
    let entries: Vec<_> = entries.iter().map(DirEntry::path).filter(|path| !path.ends_with(LOCK)).collect();
    let is_ours = ["certs", "broker", "store.key", dev_env::NAME].iter().any(|name| dir.join(name).exists());
    if !is_ours && !entries.is_empty() {
        return Err(Error::Failed(format!("{} does not look like a development state; not deleted", dir.display())));
    }
    for path in entries {
        let deleted = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        deleted.map_err(failed())?;
    }
    Ok(())
}
