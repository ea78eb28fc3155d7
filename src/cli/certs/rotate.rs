//! `warrengate certs rotate-ca` and `rotate-password`: replacement of secrets that several components must know at the
//! same time.
//!
//! Old and new are both valid in between, and each step prints what to do before the next one.

use std::path::PathBuf;

use serde_json::json;

use super::{Error, Output, changes};
use crate::{
    config::Config,
    pki::{Account, CertsDir, DEFINITIONS_FILE, Item, PASSWORD_FILE, Step},
    provision::Provisioner,
};

/// The flags of `rotate-ca`.
#[derive(Debug, clap::Args)]
pub(super) struct Authority {
    /// The step
    #[arg(value_enum)]
    step: RotationStep,
    /// The authority
    #[arg(long, value_enum, default_value_t = AuthorityKind::Broker)]
    of: AuthorityKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RotationStep {
    /// Create the next authority; both are trusted from now on
    Prepare,
    /// Sign with the next authority; the old one is still trusted
    Switch,
    /// Stop trusting the old authority
    Finish,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum AuthorityKind {
    /// Signs for the broker, the provisioner and the tenants
    Broker,
    /// Signs for the gateway; applications trust it
    Gateway,
}

/// The flags of `rotate-password`.
#[derive(Debug, clap::Args)]
pub(super) struct Password {
    /// The settings of `serve`, to reach the broker; without it, only the environment is read
    #[arg(long, value_name = "FILE", env = "WARRENGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Only write the new password next to the old one, for gateways and broker nodes that have copies of the files
    #[arg(long)]
    prepare: bool,
}

pub(super) fn authority(certs: &CertsDir, args: &Authority, output: &Output) -> Result<(), Error> {
    let (item, step) = match (args.of, args.step) {
        (AuthorityKind::Broker, RotationStep::Prepare) => (Item::BrokerCa, Step::Prepare),
        (AuthorityKind::Broker, RotationStep::Switch) => (Item::BrokerCa, Step::Switch),
        (AuthorityKind::Broker, RotationStep::Finish) => (Item::BrokerCa, Step::Finish),
        (AuthorityKind::Gateway, RotationStep::Prepare) => (Item::GatewayCa, Step::Prepare),
        (AuthorityKind::Gateway, RotationStep::Switch) => (Item::GatewayCa, Step::Switch),
        (AuthorityKind::Gateway, RotationStep::Finish) => (Item::GatewayCa, Step::Finish),
    };
    let report = certs.rotate(item, step).map_err(anyhow::Error::new)?;
    let next = next_step(args.of, args.step);
    let object = || {
        let mut object = changes(certs, &report);
        object["next"] = json!(next);
        object
    };
    output.result(object, || format!("{}: {report}", certs.path().display()))?;
    output.note(next);
    Ok(())
}

fn next_step(of: AuthorityKind, step: RotationStep) -> &'static str {
    match (of, step) {
        (AuthorityKind::Broker, RotationStep::Prepare) => {
            "next: give broker-ca.pem to every broker node (which loads it within two minutes) and every gateway (5 s); when \
             `warrengate doctor` reports that every node trusts the next authority: `warrengate certs rotate-ca switch`"
        }
        (AuthorityKind::Broker, RotationStep::Switch) => {
            "next: give broker.pem, broker.key and broker-ca.pem to every broker node, and broker-ca.*, provisioner.* to every \
             gateway, which replaces its tenants' connections by itself; when `warrengate doctor` finds every broker node \
             signed by the new authority: `warrengate certs rotate-ca finish`"
        }
        (AuthorityKind::Broker, RotationStep::Finish) => {
            "next: give broker-ca.pem to every broker node and every gateway; then the old authority is no longer trusted"
        }
        (AuthorityKind::Gateway, RotationStep::Prepare) => {
            "next: give gateway-ca.pem to every application; when all have it: `warrengate certs rotate-ca switch --of gateway`"
        }
        (AuthorityKind::Gateway, RotationStep::Switch) => {
            "next: give gateway.* to every gateway, which uses it for new connections; then \
             `warrengate certs rotate-ca finish --of gateway`"
        }
        (AuthorityKind::Gateway, RotationStep::Finish) => "next: give gateway-ca.pem to every application",
    }
}

pub(super) async fn password(certs: &CertsDir, args: Password, output: &Output) -> Result<(), Error> {
    let account = Account::offer(certs.path()).map_err(anyhow::Error::new)?;
    if args.prepare {
        return report(
            certs,
            output,
            "offered",
            &format!(
                "next: give {PASSWORD_FILE} to every gateway and {DEFINITIONS_FILE} to every broker node; then \
                 `warrengate certs rotate-password` without --prepare"
            ),
        );
    }
    let mut config = Config::load(args.config.as_deref(), std::env::vars())
        .map_err(|error| Error::Usage(error.to_string()))?
        .management;
    let authority = certs.certificate(Item::BrokerCa);
    config.password_file = Some(certs.path().join(PASSWORD_FILE));
    let provisioner = Provisioner::new(&config, &authority).map_err(anyhow::Error::new)?;
    let hash = account.hash().map_err(anyhow::Error::new)?;
    provisioner.set_own_password(&hash).await.map_err(anyhow::Error::new)?;
    account.settle().map_err(anyhow::Error::new)?;
    // Checked with the new password only, before it is announced.
    Provisioner::new(&config, &authority).map_err(anyhow::Error::new)?.ready().await.map_err(anyhow::Error::new)?;
    report(
        certs,
        output,
        "changed",
        &format!("if there are copies: give {PASSWORD_FILE} to every gateway again; it contains only the new one now"),
    )
}

fn report(certs: &CertsDir, output: &Output, what: &str, next: &str) -> Result<(), Error> {
    let words = format!("{}: the provisioner's password was {what}", certs.path().display());
    output.result(|| json!({"dir": certs.path(), "password": what, "next": next}), || words)?;
    output.note(next);
    Ok(())
}
