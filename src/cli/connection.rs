//! Which gateway, and as whom. Flags, environment and the development file enter; a connected client leaves. Invariants: a
//! flag is stronger than the environment, the environment than the file; and the file's credentials and CA are used for
//! the file's own gateway only.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::{
    Error,
    dev_env::{self, DevEnv},
};
use crate::client::{Client, ClientOptions, Credentials};

/// Who commands on a tenant's data are by default, at the development gateway.
pub(super) const DATA: &str = "acme";
/// Who commands on tenants, clients and plans are by default, at the development gateway.
pub(super) const ADMINISTRATION: &str = "admin";

/// The flags that every command that speaks with a gateway has.
#[derive(Clone, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct ConnectionArgs {
    /// The gateway's address, like https://127.0.0.1:8443 [env: WARRENGATE_ENDPOINT]
    #[arg(long, global = true, value_name = "URL")]
    endpoint: Option<String>,
    /// PEM file of the authority that signed the gateway's certificate [env: WARRENGATE_CA]
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The client's id, like acme.worker [env: WARRENGATE_CLIENT_ID]
    #[arg(long, global = true, value_name = "ID", conflicts_with_all = ["token", "identity"])]
    client_id: Option<String>,
    /// The client's secret. Others can see it in the list of processes: better the environment or a file [env:
    /// WARRENGATE_CLIENT_SECRET]
    #[arg(long, global = true, value_name = "SECRET", conflicts_with = "client_secret_file")]
    client_secret: Option<String>,
    /// File that holds the client's secret alone
    #[arg(long, global = true, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// A ready token instead of id and secret; visible like a secret [env: WARRENGATE_TOKEN]
    #[arg(long, global = true, value_name = "JWT", conflicts_with_all = ["client_secret", "client_secret_file", "identity"])]
    token: Option<String>,
    /// An identity of .warrengate/dev.env: acme, globex or admin
    #[arg(long = "as", global = true, value_name = "NAME", id = "identity")]
    identity: Option<String>,
}

impl std::fmt::Debug for ConnectionArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionArgs").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Where the settings come from.
struct Sources<'a> {
    args: &'a ConnectionArgs,
    environment: &'a dyn Fn(&str) -> Option<String>,
    file: Option<DevEnv>,
}

#[derive(Debug)]
struct Settings {
    endpoint: String,
    ca: Option<PathBuf>,
    credentials: Credentials,
}

impl ConnectionArgs {
    /// Connects, as this identity of the development gateway when nothing else is said.
    pub(super) async fn connect(&self, default_identity: &str) -> Result<Client, Error> {
        self.connect_with(default_identity, |options| options).await
    }

    /// As [`Self::connect`], with options that a command wants otherwise.
    pub(super) async fn connect_with(
        &self,
        default_identity: &str,
        change: impl FnOnce(ClientOptions) -> ClientOptions,
    ) -> Result<Client, Error> {
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let file = DevEnv::read(Path::new(dev_env::PATH))?;
        let sources = Sources { args: self, environment: &environment, file };
        let Settings { endpoint, ca, credentials } = sources.settings(default_identity)?;
        let mut options = change(ClientOptions::new(endpoint, credentials));
        if let Some(path) = ca {
            options = options.ca_certificate(read("the CA certificate", &path)?);
        }
        Ok(Client::connect(options).await?)
    }
}

impl Sources<'_> {
    fn settings(&self, default_identity: &str) -> Result<Settings, Error> {
        let of_file = |name| self.file.as_ref().and_then(|file| file.get(name));
        let said = self.args.endpoint.clone().or_else(|| (self.environment)("WARRENGATE_ENDPOINT"));
        let filed = of_file("WARRENGATE_ENDPOINT");
        let endpoint = said.or_else(|| filed.clone()).ok_or_else(|| {
            usage("no gateway is known: run `warrengate dev` in this folder, or give --endpoint or WARRENGATE_ENDPOINT")
        })?;
        // The file speaks for its own gateway.
        let file = self.file.as_ref().filter(|_| filed.as_deref() == Some(endpoint.as_str()));
        let ca = self.args.ca.clone().or_else(|| (self.environment)("WARRENGATE_CA").map(PathBuf::from));
        let ca = ca.or_else(|| file.and_then(|file| file.get("WARRENGATE_CA")).map(PathBuf::from));
        Ok(Settings { endpoint, ca, credentials: self.credentials(file, default_identity)? })
    }

    fn credentials(&self, file: Option<&DevEnv>, default_identity: &str) -> Result<Credentials, Error> {
        let args = self.args;
        if let Some(token) = &args.token {
            return Ok(Credentials::Token(token.as_str().into()));
        }
        if let Some(name) = &args.identity {
            return identity(file, name)?.ok_or_else(|| {
                let known = file.map(DevEnv::identities).unwrap_or_default().join(", ");
                let known = if known.is_empty() { "none".to_owned() } else { known };
                usage(format!("--as {name}: {} has no such identity for this gateway (it has: {known})", dev_env::PATH))
            });
        }
        let secret = match (&args.client_secret, &args.client_secret_file) {
            (Some(secret), _) => Some(secret.clone()),
            (None, Some(path)) => Some(read("the client secret", path)?.trim().to_owned()),
            (None, None) => None,
        };
        if args.client_id.is_none()
            && secret.is_none()
            && let Some(token) = (self.environment)("WARRENGATE_TOKEN")
        {
            return Ok(Credentials::Token(token.into()));
        }
        let client_id = args.client_id.clone().or_else(|| (self.environment)("WARRENGATE_CLIENT_ID"));
        let secret = secret.or_else(|| (self.environment)("WARRENGATE_CLIENT_SECRET"));
        match (client_id, secret) {
            (Some(client_id), Some(secret)) => Ok(Credentials::Secret { client_id, secret: secret.into() }),
            (Some(_), None) => {
                Err(usage("a client id needs its secret: WARRENGATE_CLIENT_SECRET or --client-secret-file"))
            }
            (None, Some(_)) => Err(usage("a client secret needs its id: WARRENGATE_CLIENT_ID or --client-id")),
            (None, None) => identity(file, default_identity)?.ok_or_else(|| {
                usage(
                    "nobody to connect as: give WARRENGATE_CLIENT_ID and WARRENGATE_CLIENT_SECRET, or WARRENGATE_TOKEN",
                )
            }),
        }
    }
}

fn identity(file: Option<&DevEnv>, name: &str) -> Result<Option<Credentials>, Error> {
    let Some(file) = file else { return Ok(None) };
    let prefix = format!("WARRENGATE_{}", name.to_uppercase().replace('-', "_"));
    let value = |suffix| file.get(&format!("{prefix}_{suffix}"));
    match (value("CLIENT_ID"), value("CLIENT_SECRET")) {
        (Some(client_id), Some(secret)) => {
            Ok(Some(Credentials::Secret { client_id, secret: SecretString::from(secret) }))
        }
        (None, None) => Ok(None),
        _ => Err(usage(format!("{} has only half of the identity {name}", dev_env::PATH))),
    }
}

fn read(what: &str, path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(Error::io(format!("cannot read {what} ({})", path.display())))
}

fn usage(text: impl Into<String>) -> Error {
    Error::Usage(text.into())
}

#[cfg(test)]
mod tests;
