//! The gateway's settings that `dev` takes from the environment, as `warrengate serve` would read them.
//!
//! Settings that `dev` chooses itself are ignored and reported.

/// The log filter, which is also a flag.
pub(super) const LOG: &str = "WARRENGATE_TELEMETRY__LOG";

/// Prefixes of addresses, certificates and secrets, which `dev` chooses itself.
const OWN: &[&str] = &[
    "DATABASE_URL",
    "GRPC__LISTEN",
    "GRPC__CERTIFICATE",
    "GRPC__KEY",
    "OPS__",
    "CONSOLE__LISTEN",
    "CONSOLE__CERTIFICATE",
    "CONSOLE__KEY",
    "BROKER__ENDPOINTS",
    "BROKER__CA_",
    "MANAGEMENT__",
    "STORE__URL",
    "STORE__ENCRYPTION_KEY",
];

/// The environment, sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct EnvironmentSettings {
    /// For the gateway.
    pub(super) taken: Vec<(String, String)>,
    /// Names of settings that `dev` chooses itself.
    pub(super) ignored: Vec<String>,
}

pub(super) fn from_environment(environment: impl Iterator<Item = (String, String)>) -> EnvironmentSettings {
    let mut given = EnvironmentSettings::default();
    for (name, value) in environment.filter(|(_, value)| !value.is_empty()) {
        let Some(rest) = name.strip_prefix("WARRENGATE_") else { continue };
        if OWN.iter().any(|own| rest.starts_with(own)) {
            given.ignored.push(name);
        } else if rest.contains("__") {
            given.taken.push((name, value));
        }
    }
    given.ignored.sort();
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_accepted_and_those_that_dev_overrides_are_reported() {
        let environment = [
            ("WARRENGATE_AUTH__TOKEN_LIFETIME", "1m"),
            ("WARRENGATE_STORE__URL", "postgres://elsewhere"),
            ("WARRENGATE_DATABASE_URL", "postgres://elsewhere"),
            ("WARRENGATE_MANAGEMENT__PASSWORD_FILE", "/a"),
            ("WARRENGATE_STORE__OUTAGE_GRACE", "1m"),
            ("WARRENGATE_LIMITS__DRAIN_DEADLINE", ""),
            // This is a setting of the command line, not of the gateway.
            ("WARRENGATE_ENDPOINT", "https://127.0.0.1:1"),
            ("PATH", "/bin"),
        ];
        let given = from_environment(environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter());
        let taken: Vec<_> = given.taken.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(taken, ["WARRENGATE_AUTH__TOKEN_LIFETIME", "WARRENGATE_STORE__OUTAGE_GRACE"]);
        let ignored = ["WARRENGATE_DATABASE_URL", "WARRENGATE_MANAGEMENT__PASSWORD_FILE", "WARRENGATE_STORE__URL"];
        assert_eq!(given.ignored, ignored);
    }
}
