//! `warrengate doctor`: looks at everything that a gateway stands on, and says how to mend what is wrong. The settings of
//! `serve` enter, from a file and the environment; a line a check leaves, and exit code 1 when one failed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::json;

use super::{Error, Output, output::table};
use crate::{
    broker::probe,
    config::Config,
    pki::{Authority, inspect},
    provision::Provisioner,
    store::{EncryptionKey, Store},
};

/// A certificate that ends sooner is worth a word.
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);

const EXAMPLES: &str = "\
Examples:
  warrengate doctor --config /etc/warrengate.toml
  warrengate doctor --config /etc/warrengate.toml --json";

/// The flags of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The settings of `serve`; without it they come from the environment alone
    #[arg(long, value_name = "FILE", env = "WARRENGATE_CONFIG")]
    config: Option<PathBuf>,
}

struct Finding {
    what: String,
    fine: bool,
    seen: String,
}

impl Finding {
    fn new(what: impl Into<String>, seen: Result<String, String>) -> Self {
        let (fine, seen) = match seen {
            Ok(seen) => (true, seen),
            Err(seen) => (false, seen),
        };
        Self { what: what.into(), fine, seen }
    }
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let findings = match Config::load(args.config.as_deref(), std::env::vars()) {
        Err(error) => vec![Finding::new("configuration", Err(error.to_string()))],
        Ok(config) => examine(&config).await,
    };
    let failed = findings.iter().filter(|finding| !finding.fine).count();
    let word = |finding: &Finding| if finding.fine { "ok" } else { "FAILED" };
    output.result(
        || {
            let one = |finding: &Finding| json!({ "check": finding.what, "ok": finding.fine, "seen": finding.seen });
            json!({ "ok": failed == 0, "checks": findings.iter().map(one).collect::<Vec<_>>() })
        },
        || {
            let rows = findings.iter().map(|finding| {
                [finding.what.clone(), word(finding).to_owned(), output.safe(&finding.seen).into_owned()]
            });
            table(["check", "", "seen"], rows)
        },
    )?;
    match failed {
        0 => Ok(()),
        1 => Err(Error::Failed("one check failed".to_owned())),
        many => Err(Error::Failed(format!("{many} checks failed"))),
    }
}

async fn examine(config: &Config) -> Vec<Finding> {
    let files = config.check_files().map(|()| "valid, and the files are there".to_owned());
    let mut findings = vec![Finding::new("configuration", files.map_err(|error| error.to_string()))];
    let certificates = [
        ("gateway certificate", &config.grpc.certificate),
        ("broker CA", &config.broker.ca_certificate),
        ("provisioner certificate", &config.management.certificate),
    ];
    findings.extend(certificates.map(|(what, path)| Finding::new(what, certificate(path))));
    findings.push(Finding::new("store", store(config).await));
    let authority = match Authority::load(&config.broker.ca_certificate, &config.broker.ca_key) {
        Ok(authority) => Arc::new(authority),
        Err(error) => {
            findings.push(Finding::new("broker CA key", Err(error.to_string())));
            return findings;
        }
    };
    for (endpoint, answer) in probe::reach(&config.broker, &authority).await {
        let mend = |why: String| format!("{why}; check broker.endpoints, the broker's log and its ssl_options");
        findings.push(Finding::new(format!("broker {endpoint}"), answer.map_err(mend)));
    }
    findings.push(Finding::new("broker's management API", management(config, &authority).await));
    findings
}

fn certificate(path: &Path) -> Result<String, String> {
    let pem = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let seen = inspect(&pem).map_err(|error| format!("{}: {error}", path.display()))?;
    let now = SystemTime::now();
    if seen.not_before() > now {
        return Err(format!("{} is not valid yet: is this machine's clock right?", path.display()));
    }
    let Ok(left) = seen.not_after().duration_since(now) else {
        return Err(format!("{} has expired: run `warrengate certs renew`", path.display()));
    };
    let days = left.as_secs() / 86_400;
    if left < SOON {
        return Err(format!("{} ends in {days} days: run `warrengate certs renew`", path.display()));
    }
    Ok(format!("{}, {days} days left", seen.subject()))
}

async fn store(config: &Config) -> Result<String, String> {
    let key = EncryptionKey::parse(&config.store.encryption_key).map_err(|error| error.to_string())?;
    let store = Store::open(&config.store.url, key).await.map_err(|error| error.to_string())?;
    store.ready().await.map_err(|error| error.to_string())?;
    let keys = store.signing_keys().await.map_err(|error| format!("the encryption key does not fit: {error}"))?;
    Ok(format!("{}, {} signing keys", config.store.location(), keys.len()))
}

async fn management(config: &Config, authority: &Authority) -> Result<String, String> {
    let provisioner =
        Provisioner::new(&config.management, authority.certificate_pem()).map_err(|error| error.to_string())?;
    provisioner
        .ready()
        .await
        .map(|()| "answers, and lets the provisioner in".to_owned())
        .map_err(|error| error.to_string())
}
