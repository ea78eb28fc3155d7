//! `warrengate certs`: creates, renews, rotates and shows the certificates in a folder.
//!
//! It works on files; only the provisioner's password is changed at a running broker.

mod rotate;

use std::{path::PathBuf, time::SystemTime};

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Error, Output, output::table};
use crate::pki::{Account, CertsDir, DEFINITIONS_FILE, Entry, PASSWORD_FILE, Report, Sans};

const EXAMPLES: &str = "\
Examples:
  warrengate certs create --san broker.example.com  create missing files, keep valid ones
  warrengate certs show                             whose each is, for what, until when
  warrengate certs renew                            new keys, same authorities
  warrengate certs rotate-ca prepare                the first of three steps to another authority
  warrengate certs rotate-password                  a new password for the provisioner, without interruption";

/// The flags of `certs`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The certificate folder
    #[arg(long, global = true, value_name = "DIR", default_value = ".warrengate/certs", env = "WARRENGATE_CERTS_DIR")]
    dir: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create missing files, keep valid ones: authorities, certificates, and the provisioner's account
    ///
    /// Certificates are renewed after two thirds of their lifetime, or when they lack a name.
    Create {
        /// A further DNS name or IP address of the servers, in addition to this machine's. Repeatable
        #[arg(long, value_name = "NAME")]
        san: Vec<String>,
    },
    /// Replace every certificate, with a new key, signed by the same authorities
    ///
    /// Applications and brokers that trust the authorities need no change.
    Renew {
        /// A further DNS name or IP address of the servers, in addition to the present ones. Repeatable
        #[arg(long, value_name = "NAME")]
        san: Vec<String>,
    },
    /// Replace an authority, in three steps, without interruption
    ///
    /// Between the steps, brokers and gateways need time to reload their files: see docs/operations.md.
    RotateCa(rotate::Authority),
    /// Change the provisioner's password, in its file and at the broker, without interruption
    RotatePassword(rotate::Password),
    /// Show the subject, names and expiry of each certificate
    Show,
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let certs = CertsDir::new(&args.dir);
    match args.action {
        Action::Create { san } => {
            let report = certs.ensure(&Sans::with(&san)).map_err(anyhow::Error::new)?;
            Account::ensure(certs.path()).map_err(anyhow::Error::new)?;
            done(&certs, &report, output)
        }
        Action::Renew { san } => done(&certs, &certs.renew(&Sans::with(&san)).map_err(anyhow::Error::new)?, output),
        Action::RotateCa(args) => rotate::authority(&certs, &args, output),
        Action::RotatePassword(args) => rotate::password(&certs, args, output).await,
        Action::Show => show(&certs, output),
    }
}

fn done(certs: &CertsDir, report: &Report, output: &Output) -> Result<(), Error> {
    output.result(|| changes(certs, report), || format!("{}: {report}", certs.path().display()))?;
    if report.changes().next().is_some() {
        output.note(&format!(
            "applications trust gateway-ca.pem; the provisioner's password is in {PASSWORD_FILE}, its hash for the broker \
             in {DEFINITIONS_FILE}; a running broker loads new files within two minutes"
        ));
    }
    Ok(())
}

fn changes(certs: &CertsDir, report: &Report) -> Value {
    let items = report.all().iter().map(|change| json!({"name": change.item.name(), "what": change.what.word()}));
    json!({"dir": certs.path(), "certificates": items.collect::<Vec<_>>()})
}

fn show(certs: &CertsDir, output: &Output) -> Result<(), Error> {
    let entries = certs.show().map_err(anyhow::Error::new)?;
    if entries.is_empty() && !output.is_json() {
        let dir = certs.path().display();
        return Err(Error::Failed(format!(
            "there are no certificates in {dir}; create them with `warrengate certs create`"
        )));
    }
    let rows = || {
        entries.iter().map(|entry| {
            let seen = &entry.inspection;
            let ends = moment(seen.not_after());
            [
                if entry.is_beside {
                    format!("{}, also trusted", entry.item.name())
                } else {
                    entry.item.name().to_owned()
                },
                seen.common_name().unwrap_or_default().to_owned(),
                seen.sans().join(", "),
                format!("{} ({})", ends.get(..10).unwrap_or(&ends), remaining(seen.not_after())),
                state(entry).to_owned(),
            ]
        })
    };
    output.result(
        || entries.iter().map(object).collect(),
        || table(["certificate", "subject", "names", "expires", "state"], rows()),
    )
}

fn object(entry: &Entry) -> Value {
    let seen = &entry.inspection;
    json!({
        "name": entry.item.name(),
        "beside": entry.is_beside,
        "file": entry.path,
        "subject": seen.subject(),
        "issuer": seen.issuer(),
        "names": seen.sans(),
        "serial": seen.serial(),
        "not_before": moment(seen.not_before()),
        "not_after": moment(seen.not_after()),
        "renew_after": moment(seen.renew_after()),
        "state": state(entry),
    })
}

/// Its first problem.
fn state(entry: &Entry) -> &'static str {
    let now = SystemTime::now();
    if entry.inspection.not_after() <= now {
        "expired"
    } else if !entry.trusted {
        "not signed by this folder's authority"
    } else if entry.key_exposed {
        "its key can be read by others"
    } else if entry.inspection.renew_after() <= now {
        "should be renewed"
    } else {
        "good"
    }
}

fn remaining(end: SystemTime) -> String {
    match end.duration_since(SystemTime::now()) {
        Ok(remaining) if remaining.as_secs() >= 2 * 86_400 => format!("in {} days", remaining.as_secs() / 86_400),
        Ok(remaining) => format!("in {} hours", remaining.as_secs() / 3600),
        Err(_) => "expired".to_owned(),
    }
}

/// RFC 3339, in UTC.
fn moment(time: SystemTime) -> String {
    // Fails only for years beyond 9999, which means that the certificate does not expire.
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_else(|_| "never".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_created_folder_is_shown_as_valid_and_contains_the_account() {
        let folder = tempfile::tempdir().expect("folder");
        let dir = folder.path().join("certs");
        let output = Output::new(true);
        let create = Action::Create { san: vec!["broker.test".into()] };
        run(Args { dir: dir.clone(), action: create }, &output).await.expect("created");
        assert!(dir.join(PASSWORD_FILE).exists() && dir.join(DEFINITIONS_FILE).exists());
        let entries = CertsDir::new(&dir).show().expect("shown");
        assert!(entries.iter().all(|entry| state(entry) == "good"));
        let broker = object(&entries[1]);
        assert_eq!(broker["name"], "broker");
        assert!(broker["names"].as_array().is_some_and(|names| names.contains(&"broker.test".into())));
        run(Args { dir, action: Action::Show }, &Output::new(false)).await.expect("printed");
    }
}
