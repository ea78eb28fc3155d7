//! The gateway and the credentials of a command.
//!
//! A flag has priority over the environment, and the environment over `.warrengate/dev.env`. The file's credentials and
//! CA are used for the file's own gateway only.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use secrecy::SecretString;

use super::{
    Error,
    dev_env::{self, DevEnv},
    token_cache::TokenCache,
};
use crate::{
    client::{Client, ClientOptions, Credentials},
    pb,
};

/// The default identity of commands on a tenant's data, at the development gateway.
pub(super) const DATA: &str = "acme";
/// The default identity of commands on tenants, clients and plans, at the development gateway.
pub(super) const ADMINISTRATION: &str = "admin";

/// The identity that this process last connected as, and the source of its credentials.
static IDENTITY: OnceLock<String> = OnceLock::new();

/// For errors about credentials and grants.
pub(super) fn identity_in_use() -> Option<&'static str> {
    IDENTITY.get().map(String::as_str)
}

/// The flags of every command that calls a gateway.
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
    /// The client's secret. Visible in the list of processes: prefer the environment or a file [env:
    /// WARRENGATE_CLIENT_SECRET]
    #[arg(long, global = true, value_name = "SECRET", conflicts_with = "client_secret_file")]
    client_secret: Option<String>,
    /// File that contains only the client's secret
    #[arg(long, global = true, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// A token instead of id and secret; visible like a secret [env: WARRENGATE_TOKEN]
    #[arg(long, global = true, value_name = "JWT", conflicts_with_all = ["client_secret", "client_secret_file", "identity"])]
    token: Option<String>,
    /// An identity of .warrengate/dev.env: acme, globex or admin
    #[arg(long = "as", global = true, value_name = "NAME", id = "identity")]
    identity: Option<String>,
    /// Get a new token, and do not keep it for later commands [env: WARRENGATE_NO_TOKEN_CACHE]
    #[arg(long, global = true)]
    no_token_cache: bool,
}

impl std::fmt::Debug for ConnectionArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionArgs").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// The sources of the settings.
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
    /// The owner and the source of the credentials, for errors.
    origin: String,
}

impl ConnectionArgs {
    /// Connects, by default as this identity of the development gateway, with a token of an earlier command if there is
    /// one.
    pub(super) async fn connect(&self, default_identity: &str) -> Result<Client, Error> {
        let target = self.target(default_identity)?;
        let Some(cache) = &target.cache else { return target.connect(|options| options).await };
        if let Some((token, expires)) = cache.load() {
            let client = target.connect(|options| options.initial_token(token, expires)).await?;
            // Its client or key may have been revoked.
            if client.auth().who_am_i(pb::WhoAmIRequest {}).await.is_ok() {
                return Ok(client);
            }
            cache.remove();
        }
        let client = target.connect(|options| options).await?;
        if let Some(token) = client.token().await? {
            cache.store(token.secret());
        }
        Ok(client)
    }

    /// [`Self::connect`] with different options, and with a new token.
    pub(super) async fn connect_with(
        &self,
        default_identity: &str,
        change: impl FnOnce(ClientOptions) -> ClientOptions,
    ) -> Result<Client, Error> {
        self.target(default_identity)?.connect(change).await
    }

    /// The gateway's address.
    ///
    /// # Errors
    /// When no gateway is configured.
    pub(super) fn endpoint(&self) -> Result<String, Error> {
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let file = DevEnv::read(Path::new(dev_env::PATH))?;
        Sources { args: self, environment: &environment, file }.endpoint()
    }

    fn target(&self, default_identity: &str) -> Result<Target, Error> {
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let file = DevEnv::read(Path::new(dev_env::PATH))?;
        let sources = Sources { args: self, environment: &environment, file };
        let Settings { endpoint, ca, credentials, origin } = sources.settings(default_identity)?;
        let _ = IDENTITY.set(origin);
        let ca = ca.map(|path| certificate(&path)).transpose()?;
        let cache = match &credentials {
            Credentials::Secret { client_id, secret }
                if !self.no_token_cache && environment("WARRENGATE_NO_TOKEN_CACHE").is_none() =>
            {
                TokenCache::of(&endpoint, ca.as_deref(), client_id, secret)
            }
            _ => None,
        };
        let is_plain = endpoint.starts_with("http://");
        let options = ClientOptions::new(endpoint, credentials).connect_once();
        let options = match ca {
            Some(pem) => options.ca_certificate(pem),
            None => options,
        };
        Ok(Target { options, is_plain, cache })
    }
}

fn certificate(path: &Path) -> Result<String, Error> {
    let pem = read("the CA certificate", path)?;
    if pem.contains("-----BEGIN CERTIFICATE-----") {
        Ok(pem)
    } else {
        Err(usage(format!("{} contains no certificate in PEM form (--ca or WARRENGATE_CA)", path.display())))
    }
}

/// What a command connects to.
struct Target {
    options: ClientOptions,
    /// Whether the address is one without TLS.
    is_plain: bool,
    /// Where the token is kept for later commands.
    cache: Option<TokenCache>,
}

impl Target {
    async fn connect(&self, change: impl FnOnce(ClientOptions) -> ClientOptions) -> Result<Client, Error> {
        match Client::connect(change(self.options.clone())).await {
            Err(error) if self.is_plain && error.is_disconnect() => {
                let text = "no gateway answers without TLS at this address; write https:// if it uses TLS";
                Err(Error::Advised(text.to_owned(), error))
            }
            connected => Ok(connected?),
        }
    }
}

impl Sources<'_> {
    fn endpoint(&self) -> Result<String, Error> {
        let given = self.args.endpoint.clone().or_else(|| (self.environment)("WARRENGATE_ENDPOINT"));
        given.or_else(|| self.file.as_ref()?.get("WARRENGATE_ENDPOINT")).ok_or_else(|| {
            usage("no gateway: run `warrengate dev` in this folder, or set --endpoint or WARRENGATE_ENDPOINT")
        })
    }

    fn settings(&self, default_identity: &str) -> Result<Settings, Error> {
        let endpoint = self.endpoint()?;
        let file = self.file.as_ref().filter(|file| file.get("WARRENGATE_ENDPOINT").as_ref() == Some(&endpoint));
        let ca = self.args.ca.clone().or_else(|| (self.environment)("WARRENGATE_CA").map(PathBuf::from));
        let ca = ca.or_else(|| file.and_then(|file| file.get("WARRENGATE_CA")).map(PathBuf::from));
        let (credentials, origin) = self.credentials(file, default_identity)?;
        Ok(Settings { endpoint, ca, credentials, origin })
    }

    fn credentials(&self, file: Option<&DevEnv>, default_identity: &str) -> Result<(Credentials, String), Error> {
        let args = self.args;
        if let Some(token) = &args.token {
            return Ok((
                Credentials::Token(token.as_str().into()),
                "the client of the token given by --token".to_owned(),
            ));
        }
        if let Some(name) = &args.identity {
            return identity(file, name)?.ok_or_else(|| {
                let known = file.map(DevEnv::identities).unwrap_or_default().join(", ");
                let known = if known.is_empty() { "none".to_owned() } else { known };
                usage(format!("--as {name}: {} has no such identity for this gateway (it has: {known})", dev_env::PATH))
            });
        }
        // A stale variable of another session is a common mistake.
        let over_file = match file {
            Some(_) => format!(" (which has priority over {})", dev_env::PATH),
            None => String::new(),
        };
        let secret = match (&args.client_secret, &args.client_secret_file) {
            (Some(secret), _) => Some(secret.clone()),
            (None, Some(path)) => Some(read("the client secret", path)?.trim().to_owned()),
            (None, None) => None,
        };
        if args.client_id.is_none()
            && secret.is_none()
            && let Some(token) = (self.environment)("WARRENGATE_TOKEN")
        {
            let origin = format!("the client of the token in WARRENGATE_TOKEN{over_file}");
            return Ok((Credentials::Token(token.into()), origin));
        }
        let id_origin = if args.client_id.is_some() { "--client-id" } else { "WARRENGATE_CLIENT_ID" };
        let secret_origin = match (&args.client_secret, &args.client_secret_file) {
            (Some(_), _) => "--client-secret".to_owned(),
            (None, Some(path)) => path.display().to_string(),
            (None, None) => "WARRENGATE_CLIENT_SECRET".to_owned(),
        };
        let client_id = args.client_id.clone().or_else(|| (self.environment)("WARRENGATE_CLIENT_ID"));
        let secret = secret.or_else(|| (self.environment)("WARRENGATE_CLIENT_SECRET"));
        match (client_id, secret) {
            (Some(client_id), Some(secret)) => {
                let over_file = if id_origin.starts_with("--") { "" } else { over_file.as_str() };
                let origin =
                    format!("{client_id}: the id from {id_origin}, the secret from {secret_origin}{over_file}");
                Ok((Credentials::Secret { client_id, secret: secret.into() }, origin))
            }
            (Some(_), None) => {
                Err(usage("a client id needs its secret: WARRENGATE_CLIENT_SECRET or --client-secret-file"))
            }
            (None, Some(_)) => Err(usage("a client secret needs its id: WARRENGATE_CLIENT_ID or --client-id")),
            (None, None) => identity(file, default_identity)?.ok_or_else(|| {
                usage("no credentials: set WARRENGATE_CLIENT_ID and WARRENGATE_CLIENT_SECRET, or WARRENGATE_TOKEN")
            }),
        }
    }
}

fn identity(file: Option<&DevEnv>, name: &str) -> Result<Option<(Credentials, String)>, Error> {
    let Some(file) = file else { return Ok(None) };
    let prefix = format!("WARRENGATE_{}", name.to_uppercase().replace('-', "_"));
    let value = |suffix| file.get(&format!("{prefix}_{suffix}"));
    match (value("CLIENT_ID"), value("CLIENT_SECRET")) {
        (Some(client_id), Some(secret)) => {
            let origin = format!("{client_id}, from {} (--as chooses another identity)", dev_env::PATH);
            Ok(Some((Credentials::Secret { client_id, secret: SecretString::from(secret) }, origin)))
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
