//! The expiry of each certificate that a gateway uses.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use super::Finding;
use crate::{
    config::{BrokerConfig, Config, ManagementConfig},
    pki::{Authority, Inspection, inspect_all},
};

/// The remaining lifetime below which a check fails.
const MIN_REMAINING: Duration = Duration::from_secs(7 * 24 * 3600);
const DAY: u64 = 86_400;

pub(super) fn files(config: &Config) -> Vec<Finding> {
    let renew = "`warrengate certs renew`, or a new one of your authority; the gateway loads it within 5 s";
    let mut findings = vec![leaf("gateway certificate", &config.grpc.certificate, renew)];
    findings.extend(config.ops.certificate.iter().map(|path| leaf("ops certificate", path, renew)));
    let renew = "`warrengate certs renew`; the gateway loads it within 5 s";
    findings.push(leaf("provisioner certificate", &config.management.certificate, renew));
    findings.extend(authorities(&config.broker));
    let hours = config.broker.certificate_lifetime.as_secs() / 3600;
    let seen = format!("valid for {hours} hours, renewed by the gateway after two thirds");
    let next = "nothing; to renew one now: `warrengate tenant rotate-credentials ID`";
    findings.push(Finding::new("tenants' certificates", Ok(seen), next));
    findings
}

/// The signing authority, and others that are trusted.
fn authorities(config: &BrokerConfig) -> Vec<Finding> {
    let path = &config.ca_certificate;
    let all = match read(path) {
        Ok(all) => all,
        Err(error) => return vec![Finding::new("broker CA", Err(error), "restore the file")],
    };
    let is_prepared = next_authority(config).is_some();
    let one = |(place, seen): (usize, Inspection)| {
        let (what, next) = match (place, is_prepared) {
            (0, false) => ("broker CA", "`warrengate certs rotate-ca prepare`, the first of three steps"),
            (0, true) => ("broker CA", "its successor exists: `warrengate certs rotate-ca switch`"),
            (_, true) => ("next broker CA", "`warrengate certs rotate-ca switch`, once all nodes trust it"),
            (_, false) => ("also trusted", "`warrengate certs rotate-ca finish`, once no node uses it"),
        };
        let is_due = is_prepared || place > 0;
        in_time(Finding::new(what, Ok(seen.subject().to_owned()), next).expiring(Some(seen.not_after())).due(is_due))
    };
    all.into_iter().enumerate().map(one).collect()
}

/// The next authority of a rotation, if it exists.
pub(super) fn next_authority(config: &BrokerConfig) -> Option<Authority> {
    let beside = |path: &Path| {
        let stem = path.file_stem()?.to_str()?;
        Some(path.with_file_name(format!("{stem}-next")).with_extension(path.extension()?))
    };
    Authority::load(&beside(&config.ca_certificate)?, &beside(&config.ca_key)?).ok()
}

/// Advice about the provisioner's password, which does not expire.
pub(super) fn password(config: &ManagementConfig) -> String {
    let Some(file) = &config.password_file else {
        return "its password is in the environment: use management.password_file to change it without a restart"
            .to_owned();
    };
    match std::fs::read_to_string(file) {
        Ok(text) if text.lines().filter(|line| !line.trim().is_empty()).count() > 1 => {
            "its password is being changed: `warrengate certs rotate-password`".to_owned()
        }
        _ => match std::fs::metadata(file).and_then(|file| file.modified()).map(|when| when.elapsed()) {
            Ok(Ok(age)) => {
                format!("its password is {} days old: `warrengate certs rotate-password`", age.as_secs() / DAY)
            }
            _ => "its password: `warrengate certs rotate-password`".to_owned(),
        },
    }
}

fn leaf(what: &str, path: &Path, next: &str) -> Finding {
    match read(path) {
        Err(error) => Finding::new(what, Err(error), next),
        Ok(chain) if chain[0].not_before() > SystemTime::now() => {
            let seen = format!("{} is not valid yet", path.display());
            Finding::new(what, Err(seen), "check this machine's clock")
        }
        Ok(chain) => {
            in_time(Finding::new(what, Ok(chain[0].subject().to_owned()), next).expiring(Some(chain[0].not_after())))
        }
    }
}

fn read(path: &Path) -> Result<Vec<Inspection>, String> {
    let pem = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    inspect_all(&pem).map_err(|error| format!("{}: {error}", path.display()))
}

/// Adds the remaining time; fails if the certificate has expired or will soon.
pub(super) fn in_time(finding: Finding) -> Finding {
    let Some(ends) = finding.ends.filter(|_| finding.fine) else { return finding };
    let left = ends.duration_since(SystemTime::now()).unwrap_or_default();
    let seen = match left.as_secs() {
        0 => format!("{}, has expired", finding.seen),
        seconds => format!("{}, {} days left", finding.seen, seconds / DAY),
    };
    Finding { fine: left >= MIN_REMAINING, seen, ..finding }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_expires_within_a_week_fails_with_its_next_step() {
        let line = |left: i64| {
            let days = Duration::from_secs(left.unsigned_abs() * DAY + 60);
            let now = SystemTime::now();
            let ends = if left < 0 { now - days } else { now + days };
            in_time(Finding::new("x", Ok("CN=x".to_owned()), "renew it").expiring(Some(ends)))
        };
        let [past, soon, later] = [-1, 6, 8].map(line);
        assert!(!past.fine && past.seen.ends_with("has expired") && past.next == "renew it");
        assert!(!soon.fine && soon.seen.ends_with("6 days left") && later.fine);
    }
}
