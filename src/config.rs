//! Settings. A TOML file and environment variables enter; a valid [`Config`] leaves, or every fault at once, each naming its
//! key, its value (unless it is a secret) and what to do. Nothing here connects, listens or keeps a live object; files are
//! read only where a key names one that holds a secret.

mod issuers;
mod metrics;
mod network;
mod read;
mod show;
mod source;
mod traces;
mod types;

pub(crate) use issuers::is_safe;
pub use issuers::{IssuerConfig, KeySource, TenantSource, TokenAlgorithm};
pub use metrics::MetricsConfig;
pub use network::Network;
pub use traces::{OtlpProtocol, TracesConfig};
pub use types::{
    AuditConfig, AuthConfig, BrokerConfig, Config, Endpoint, GrpcConfig, LimitsConfig, LogFormat, ManagementConfig,
    OpsConfig, StoreConfig, TelemetryConfig,
};

use std::{borrow::Cow, fmt, path::Path};

use crate::error::{Classify, Kind};
use source::Source;

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, as the file writes it: `grpc.listen`.
    pub key: String,
    /// What it was given; none for a secret, and when nothing was given.
    pub value: Option<String>,
    /// What is wrong, and what to do.
    pub what: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value:?}")?;
        }
        write!(f, " {}", self.what)
    }
}

/// The settings are not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has {} fault{}:{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, lines(.0))]
pub struct Error(Vec<ConfigError>);

fn lines(faults: &[ConfigError]) -> String {
    faults.iter().map(|fault| format!("\n  - {fault}")).collect()
}

impl Error {
    /// All faults, in the order of the sections.
    pub fn faults(&self) -> &[ConfigError] {
        &self.0
    }
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }

    fn reason(&self) -> &'static str {
        "INVALID_CONFIGURATION"
    }

    fn message(&self) -> Cow<'static, str> {
        self.to_string().into()
    }
}

impl Config {
    /// Reads a TOML file, if one is given, and the environment over it (`WARRENGATE_GRPC__LISTEN` is `grpc.listen`;
    /// `WARRENGATE_DATABASE_URL` is `store.url`).
    ///
    /// # Errors
    /// All faults at once.
    pub fn load(path: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        let file = match path.map(|path| (path, std::fs::read_to_string(path))) {
            None => None,
            Some((_, Ok(text))) => Some(text),
            Some((path, Err(error))) => {
                return Err(Error(vec![ConfigError {
                    key: "the file".to_owned(),
                    value: Some(path.display().to_string()),
                    what: format!(
                        "cannot be read: {}; give the path of a file like docs/warrengate.example.toml",
                        error.kind()
                    ),
                }]));
            }
        };
        Self::parse(file.as_deref(), env)
    }

    /// As [`Self::load`], with the file's text.
    ///
    /// # Errors
    /// All faults at once.
    pub fn parse(file: Option<&str>, env: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        let mut source = Source::new(file, env);
        let config = read::config(&mut source);
        let (_, faults) = source.finish();
        if faults.is_empty() { Ok(config) } else { Err(Error(faults)) }
    }

    /// Looks whether the files that the settings name are there and can be opened; for `--check`.
    ///
    /// # Errors
    /// All faults at once.
    pub fn check_files(&self) -> Result<(), Error> {
        let faults: Vec<_> = self
            .files()
            .into_iter()
            .filter_map(|(key, path)| {
                let error = match std::fs::File::open(&path).and_then(|file| file.metadata()) {
                    Ok(metadata) if metadata.is_file() => return None,
                    Ok(_) => "it is no file".to_owned(),
                    Err(error) => error.kind().to_string(),
                };
                Some(ConfigError {
                    key: key.to_owned(),
                    value: Some(path.display().to_string()),
                    what: format!("cannot be opened: {error}; make the file readable by the gateway, or name another"),
                })
            })
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(Error(faults)) }
    }
}

#[cfg(test)]
mod tests;
