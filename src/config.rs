//! The configuration: a TOML file, and environment variables that take precedence over it.
//!
//! An invalid configuration is refused with all its errors at once, each with its key, its value (unless it is a
//! secret) and advice. Reading it opens no connection and no port; of other files, only those that contain a secret are
//! read.

mod console;
mod issuers;
mod metrics;
mod network;
mod read;
mod source;
mod traces;
mod types;

pub(crate) use console::{SIGN_IN_RETURN, TRACE_ID};
pub(crate) use issuers::is_safe;
pub use issuers::{IssuerConfig, KeySource, TenantSource, TokenAlgorithm};
pub use metrics::MetricsConfig;
pub use network::Network;
pub use traces::{OtlpProtocol, TracesConfig};
pub use types::{
    AuditConfig, AuthConfig, BrokerConfig, Config, ConsoleConfig, Endpoint, GrpcConfig, LimitsConfig, LogFormat,
    ManagementConfig, OpsConfig, SignInConfig, StoreConfig, TelemetryConfig,
};

use std::{borrow::Cow, fmt, os::unix::fs::PermissionsExt as _, path::Path};

use crate::error::{Classify, Kind};
use read::NamedFile;
use source::{Finished, Source};

/// One error in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, as in the file: `grpc.listen`.
    pub key: String,
    /// Its value; `None` for a secret, and if it has none.
    pub value: Option<String>,
    /// The problem, and what to do.
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

/// An invalid configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid configuration ({} error{}):{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, lines(.0))]
pub struct Error(Vec<ConfigError>);

fn lines(errors: &[ConfigError]) -> String {
    errors.iter().map(|error| format!("\n  - {error}")).collect()
}

impl Error {
    /// All errors, in the order of the sections.
    pub fn errors(&self) -> &[ConfigError] {
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
    /// Reads a TOML file, if one is given, and the environment, which takes precedence (`WARRENGATE_GRPC__LISTEN` is
    /// `grpc.listen`; `WARRENGATE_DATABASE_URL` is `store.url`).
    ///
    /// # Errors
    /// All errors at once.
    pub fn load(path: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        Self::load_listed(path, env).map(|(config, _)| config)
    }

    /// As [`Self::load`], together with the settings in effect in the form of the file: including defaults, without
    /// secrets.
    ///
    /// # Errors
    /// All errors at once.
    pub fn load_listed(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, String), Error> {
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
        Self::parse_listed(file.as_deref(), env)
    }

    /// As [`Self::load`], with the text of the file.
    ///
    /// # Errors
    /// All errors at once.
    pub fn parse(file: Option<&str>, env: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        Self::parse_listed(file, env).map(|(config, _)| config)
    }

    fn parse_listed(
        file: Option<&str>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, String), Error> {
        let mut source = Source::new(file, env);
        let config = read::config(&mut source);
        let Finished { errors, listing, .. } = source.finish();
        if errors.is_empty() { Ok((config, listing)) } else { Err(Error(errors)) }
    }

    /// Checks that the files named by the settings exist and can be opened; for `--check`.
    ///
    /// # Errors
    /// All errors at once.
    pub fn check_files(&self) -> Result<(), Error> {
        let error = |NamedFile { key, path, .. }: NamedFile| {
            let error = match std::fs::File::open(&path).and_then(|file| file.metadata()) {
                Ok(metadata) if metadata.is_file() => return None,
                Ok(_) => "it is not a file".to_owned(),
                Err(error) => error.kind().to_string(),
            };
            let what = format!("cannot be opened: {error}; make the file readable by the gateway, or set another one");
            Some(ConfigError { key: key.to_owned(), value: Some(path.display().to_string()), what })
        };
        let errors: Vec<_> = self.files().into_iter().filter_map(error).collect();
        if errors.is_empty() { Ok(()) } else { Err(Error(errors)) }
    }

    /// The files with secrets that every user of the machine can read, or that a group can write.
    ///
    /// # Errors
    /// One error for each of these files.
    pub fn check_permissions(&self) -> Result<(), Error> {
        let error = |NamedFile { key, path, .. }: NamedFile| {
            let mode = std::fs::metadata(&path).ok()?.permissions().mode() & 0o777;
            let what = format!(
                "contains a secret and has the mode {mode:04o}: run `chmod 600`, or 640 for a group of its own"
            );
            let value = Some(path.display().to_string());
            (mode & OPEN_TO_OTHERS != 0).then(|| ConfigError { key: key.to_owned(), value, what })
        };
        let errors: Vec<_> = self.files().into_iter().filter(|file| file.is_secret).filter_map(error).collect();
        if errors.is_empty() { Ok(()) } else { Err(Error(errors)) }
    }
}

/// Permissions that a file with a secret should not have: any for other users, and writing for the group.
const OPEN_TO_OTHERS: u32 = 0o027;

#[cfg(test)]
mod tests;
