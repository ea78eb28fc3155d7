//! `warrengate doctor`: checks everything that a gateway depends on, reports when it expires, and suggests a fix for
//! each failure.
//!
//! It reads the settings of `serve`, from a file and the environment. The exit code is 1 when a check failed.

mod ends;
mod tenants;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Error, Output, dev_env, output::table};
use crate::{
    auth,
    broker::diagnose::reachability::check_reachability,
    config::Config,
    pki::{Authority, inspect_der},
    provision::Provisioner,
    store::{EncryptionKey, KeyRow, KeyState, Store},
};

const EXAMPLES: &str = "\
Examples:
  warrengate doctor --config /etc/warrengate.toml
  warrengate doctor --config /etc/warrengate.toml --json

Not checked: `consumer_timeout` of RabbitMQ, which no API reports. If it is shorter than a lease, the broker interrupts
subscriptions with unsettled messages; broker-config/rabbitmq.conf sets it to a day.";

/// The flags of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The settings of `serve`; without it, only the environment is read
    #[arg(long, value_name = "FILE", env = "WARRENGATE_CONFIG")]
    config: Option<PathBuf>,
}

/// The result of one check.
struct Finding {
    what: String,
    fine: bool,
    seen: String,
    /// When it expires.
    ends: Option<SystemTime>,
    /// The fix for a failure, or what may be done.
    next: String,
    /// Whether the next step is due although nothing failed.
    is_due: bool,
}

impl Finding {
    fn new(what: impl Into<String>, seen: Result<String, String>, next: impl Into<String>) -> Self {
        let (fine, seen) = match seen {
            Ok(seen) => (true, seen),
            Err(seen) => (false, seen),
        };
        Self { what: what.into(), fine, seen, ends: None, next: next.into(), is_due: false }
    }

    fn due(self, is_due: bool) -> Self {
        Self { is_due, ..self }
    }

    fn expiring(self, ends: Option<SystemTime>) -> Self {
        Self { ends, ..self }
    }
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    // The settings of `dev` are not in a file: checking without any reports one error for each that `serve` requires.
    let has_settings =
        args.config.is_some() || std::env::vars().any(|(name, _)| name.starts_with("WARRENGATE_BROKER__"));
    if !has_settings && Path::new(dev_env::PATH).exists() {
        return Err(Error::Usage(
            "this folder has a development stack, which `warrengate dev` checks at every start; for a gateway of \
             `warrengate serve` give --config FILE"
                .to_owned(),
        ));
    }
    let findings = match Config::load(args.config.as_deref(), std::env::vars()) {
        Err(error) => vec![Finding::new("configuration", Err(error.to_string()), "correct each line, and check again")],
        Ok(config) => examine(&config).await,
    };
    let failed = findings.iter().filter(|finding| !finding.fine).count();
    let word = |finding: &Finding| if finding.fine { "ok" } else { "FAILED" };
    let ends = |finding: &Finding| {
        finding.ends.and_then(|ends| OffsetDateTime::from(ends).format(&Rfc3339).ok()).unwrap_or_default()
    };
    output.result(
        || {
            let one = |finding: &Finding| {
                json!({
                    "check": finding.what,
                    "ok": finding.fine,
                    "seen": finding.seen,
                    "ends": Some(ends(finding)).filter(|ends| !ends.is_empty()),
                    "next": finding.next,
                    "due": !finding.fine || finding.is_due,
                })
            };
            json!({ "ok": failed == 0, "checks": findings.iter().map(one).collect::<Vec<_>>() })
        },
        || {
            let rows = findings.iter().map(|finding| {
                [
                    finding.what.clone(),
                    word(finding).to_owned(),
                    output.safe(&finding.seen).into_owned(),
                    ends(finding).chars().take(10).collect(),
                    if finding.fine && !finding.is_due { String::new() } else { finding.next.clone() },
                ]
            });
            table(["check", "", "seen", "expires", "next"], rows)
        },
    )?;
    match failed {
        0 => Ok(()),
        1 => Err(Error::Failed("one check failed".to_owned())),
        many => Err(Error::Failed(format!("{many} checks failed"))),
    }
}

async fn examine(config: &Config) -> Vec<Finding> {
    let files = config.check_files().map(|()| "valid, and the files exist".to_owned());
    let mut findings = vec![Finding::new(
        "configuration",
        files.map_err(|error| error.to_string()),
        "`warrengate serve --check` reports the same",
    )];
    let permissions = config.check_permissions().map(|()| "not open to other users".to_owned());
    let permissions = permissions.map_err(|error| error.to_string());
    findings.push(Finding::new("files with secrets", permissions, "run the commands given, for the gateway's user"));
    findings.extend(ends::files(config));
    findings.extend(store(config).await);
    for issuer in &config.auth.issuers {
        let keys = auth::check_issuer(issuer).await;
        let seen = keys.and_then(|keys| match keys {
            0 => Err("no usable key: its tokens are refused".to_owned()),
            keys => Ok(format!("{keys} usable keys")),
        });
        let next = "check its address and certificate; meanwhile the gateway uses its current keys";
        findings.push(Finding::new(format!("issuer {}", issuer.issuer), seen, next));
    }
    let authority = match Authority::load(&config.broker.ca_certificate, &config.broker.ca_key) {
        Ok(authority) => Arc::new(authority),
        Err(error) => {
            let next = "restore the matching file, or continue with `warrengate certs rotate-ca`";
            findings.push(Finding::new("broker CA key", Err(error.to_string()), next));
            return findings;
        }
    };
    findings.extend(brokers(config, &authority).await);
    let password = ends::password(&config.management);
    findings.push(Finding::new(
        "broker's management API",
        management(config).await,
        format!("check management.endpoints and the broker's log; {password}"),
    ));
    findings.extend(tenants::at_broker(config).await);
    findings
}

/// The certificate of each broker node, and whether it accepts certificates of the gateway's authority.
async fn brokers(config: &Config, authority: &Authority) -> Vec<Finding> {
    let mut findings = Vec::new();
    for reached in check_reachability(&config.broker, authority, authority).await {
        let seen = reached.certificate.and_then(|der| inspect_der(&der).map_err(|error| error.to_string()));
        let ends = seen.as_ref().ok().map(|seen| seen.not_after());
        let signed = seen.map(|seen| match seen.signed_by(authority.inspection()) {
            true => format!("{}, of the authority that signs", seen.subject()),
            false => format!("{}, of another trusted authority", seen.subject()),
        });
        // Without a connection the certificate is not at fault.
        let next = match &signed {
            Err(error) if !error.to_lowercase().contains("certificate") => {
                "start the broker, or correct broker.endpoints or the firewall"
            }
            _ => "`warrengate certs renew`, give it broker.pem and broker.key; it loads them within two minutes",
        };
        let certificate = Finding::new(format!("certificate of {}", reached.endpoint), signed, next).expiring(ends);
        findings.push(ends::in_time(certificate));
        let listens = reached.accepts_clients.map(|()| "accepts AMQP over mutual TLS".to_owned());
        let next = "check broker.endpoints, the broker's log and its ssl_options";
        findings.push(Finding::new(format!("broker {}", reached.endpoint), listens, next));
    }
    let Some(next) = ends::next_authority(&config.broker) else { return findings };
    for reached in check_reachability(&config.broker, authority, &next).await {
        let listens = reached.accepts_clients.map(|()| "trusts the next authority".to_owned());
        let step = "if it fails: give it broker-ca.pem and wait two minutes; when all nodes do: `warrengate certs rotate-ca switch`";
        findings.push(Finding::new(format!("rotation at {}", reached.endpoint), listens, step).due(true));
    }
    findings
}

async fn store(config: &Config) -> Vec<Finding> {
    let opened = async {
        let key = EncryptionKey::parse(&config.store.encryption_key).map_err(|error| error.to_string())?;
        let store = Store::open(&config.store.url, key).await.map_err(|error| error.to_string())?;
        store.ready().await.map_err(|error| error.to_string())?;
        let keys = store.signing_keys().await.map_err(|error| format!("the encryption key does not match: {error}"))?;
        Ok::<_, String>((format!("{}, {} signing keys", config.store.location(), keys.len()), keys))
    };
    let next = "back it up, and its encryption key separately";
    match opened.await {
        Err(error) => vec![Finding::new("store", Err(error), "start the database, or restore the matching key")],
        Ok((seen, keys)) => {
            std::iter::once(Finding::new("store", Ok(seen), next)).chain(keys.iter().map(signing_key)).collect()
        }
    }
}

fn signing_key(key: &KeyRow) -> Finding {
    let days = key.created.elapsed().unwrap_or_default().as_secs() / 86_400;
    let (seen, next) = match key.state {
        KeyState::Active => (format!("signs, created {days} days ago"), "`warrengate key rotate`"),
        KeyState::Retiring => ("retired; its tokens remain valid until it expires".to_owned(), "nothing"),
    };
    Finding::new(format!("signing key {}", key.kid), Ok(seen), next).expiring(key.retire_after)
}

async fn management(config: &Config) -> Result<String, String> {
    let provisioner = Provisioner::new(&config.management, &config.broker.ca_certificate).map_err(|e| e.to_string())?;
    provisioner.ready().await.map_err(|error| error.to_string())?;
    let has_statistics = provisioner.has_statistics().await.map_err(|error| error.to_string())?;
    Ok(match has_statistics {
        true => "answers, and accepts the provisioner".to_owned(),
        false => {
            "answers, and accepts the provisioner; it collects no statistics, so consumers, rates and stored bytes are 0"
                .to_owned()
        }
    })
}
