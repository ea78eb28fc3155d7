//! The settings as plain, valid data. `docs/warrengate.example.toml` documents every key with its default.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use secrecy::SecretString;

use super::{IssuerConfig, MetricsConfig, Network, TracesConfig};

/// All settings of a gateway.
#[derive(Debug, Clone)]
pub struct Config {
    /// The gRPC listener for tenants.
    pub grpc: GrpcConfig,
    /// The HTTP listener for operators.
    pub ops: OpsConfig,
    /// The web console.
    pub console: ConsoleConfig,
    /// The broker's data path.
    pub broker: BrokerConfig,
    /// The broker's management API.
    pub management: ManagementConfig,
    /// The database.
    pub store: StoreConfig,
    /// The audit trail.
    pub audit: AuditConfig,
    /// Tokens.
    pub auth: AuthConfig,
    /// Limits on what one peer may use.
    pub limits: LimitsConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}

/// The listener for tenants: gRPC over TLS.
#[derive(Debug, Clone)]
pub struct GrpcConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The server's certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Whether gRPC reflection is served.
    pub reflection: bool,
    /// Origins whose pages may use gRPC-Web; without any, browsers are not allowed.
    pub cors_origins: Vec<String>,
    /// Load balancers whose connections begin with a PROXY protocol header.
    pub trusted_proxies: Vec<Network>,
}

/// The listener for operators: HTTP for metrics, probes, keys and tokens.
#[derive(Debug, Clone)]
pub struct OpsConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The address of metrics and probes, if they are not served on `listen`; the certificate is the same. Probes are
    /// served on both.
    pub metrics_listen: Option<SocketAddr>,
    /// The server's certificate chain, PEM. Always set when `listen` is not a loopback address.
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM. Set if and only if `certificate` is set.
    pub key: Option<PathBuf>,
    /// Load balancers whose connections begin with a PROXY protocol header.
    pub trusted_proxies: Vec<Network>,
}

/// The web console: pages for administrators and tenants.
#[derive(Debug, Clone)]
pub struct ConsoleConfig {
    /// Where to listen; without an address, the console is off.
    pub listen: Option<SocketAddr>,
    /// The server's certificate chain, PEM. Always set when `listen` is not a loopback address.
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM. Set exactly when `certificate` is.
    pub key: Option<PathBuf>,
    /// The origin at which browsers reach the console, if it differs because of a proxy.
    pub origin: Option<String>,
    /// The key that sessions are encrypted with: 32 bytes in base64. Without it, each start generates one.
    pub session_key: Option<SecretString>,
    /// The file that contains the key, if there is one.
    pub session_key_file: Option<PathBuf>,
    /// The address of a trace, with `{trace_id}` in place of the id.
    pub trace_url: Option<String>,
    /// Load balancers whose connections begin with a PROXY protocol header.
    pub trusted_proxies: Vec<Network>,
    /// Sign-in at an external issuer, in addition to client secrets.
    pub sign_in: Option<SignInConfig>,
}

/// Sign-in to the console at an external issuer.
#[derive(Debug, Clone)]
pub struct SignInConfig {
    /// One of the issuers in `auth.issuers`.
    pub issuer: String,
    /// The client id of the console at the issuer.
    pub client_id: String,
    /// Its secret; a public client has none.
    pub client_secret: Option<SecretString>,
    /// The file that contains the secret, if there is one.
    pub client_secret_file: Option<PathBuf>,
    /// The requested scopes.
    pub scopes: Vec<String>,
    /// The address to which the issuer sends the browser back.
    pub redirect: String,
}

/// One broker node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Its name or address, as in its certificate.
    pub host: String,
    /// Its AMQPS port.
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The broker's data path: AMQP over mutual TLS.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// The broker's nodes; at least one.
    pub endpoints: Vec<Endpoint>,
    /// The CA that signed the broker's certificate and signs the tenants', PEM.
    pub ca_certificate: PathBuf,
    /// Its private key, PEM.
    pub ca_key: PathBuf,
    /// AMQP heartbeat, whole seconds.
    pub heartbeat: Duration,
    /// The maximum time for one attempt to connect.
    pub connect_timeout: Duration,
    /// How long a message is retried before its outcome is `UNKNOWN`.
    pub publish_deadline: Duration,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// How long a tenant's certificate is valid.
    pub certificate_lifetime: Duration,
    /// How often every tenant's objects at the broker are reconciled with the store.
    pub reconcile_interval: Duration,
}

/// The broker's management API, for provisioning: HTTPS with a client certificate and a password.
#[derive(Debug, Clone)]
pub struct ManagementConfig {
    /// Base URLs, `https://host:port`; at least one.
    pub endpoints: Vec<String>,
    /// The provisioner's certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The provisioner's user name.
    pub user: String,
    /// Its password at the start of the gateway.
    pub password: SecretString,
    /// The file with the password, which may change. During a change the file has two lines: the new password and the
    /// old one.
    pub password_file: Option<PathBuf>,
}

/// The database.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// `sqlite:<path>` or `postgres://...`; may contain a password.
    pub url: SecretString,
    /// The key that signing keys are encrypted with: 32 bytes in base64.
    pub encryption_key: SecretString,
    /// The file with the key, if there is one.
    pub encryption_key_file: Option<PathBuf>,
    /// How long known tenants and clients are admitted while the database is unreachable.
    pub outage_grace: Duration,
}

/// The audit trail.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// How long events are kept.
    pub retention: Duration,
    /// The maximum number of refusals to keep. Administrative operations are kept for the whole `retention`.
    pub max_refusals: u64,
}

/// Tokens.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// The `iss` of tokens, and the base of the discovery document's URLs, without a slash at its end.
    pub issuer: String,
    /// The `aud` of tokens.
    pub audience: String,
    /// The lifetime of a token.
    pub token_lifetime: Duration,
    /// The tolerated difference between clocks; at most 30 s.
    pub leeway: Duration,
    /// How long before its token expires a stream is warned.
    pub warn_before_expiry: Duration,
    /// How many secrets are checked at the same time (each needs 19 MiB and a core); 0 is half of the machine's cores.
    pub max_concurrent_secret_checks: usize,
    /// The number of failed logins per minute after which a client's secrets are checked one at a time; half of them
    /// may occur in one burst.
    pub failed_logins_per_minute_per_client: u32,
    /// The same for one address (an IPv6 /64).
    pub failed_logins_per_minute_per_address: u32,
    /// Tokens that one client may fetch per second from one gateway; the burst after a pause is ten times as large.
    pub tokens_per_second_per_client: u32,
    /// Trusted external issuers.
    pub issuers: Vec<IssuerConfig>,
}

#[cfg(test)]
impl AuditConfig {
    /// Values for unit tests.
    pub(crate) fn for_test() -> Self {
        Self { retention: Duration::from_secs(3600), max_refusals: 1_000 }
    }
}

#[cfg(test)]
impl AuthConfig {
    /// Values for unit tests.
    pub(crate) fn for_test() -> Self {
        Self {
            issuer: "https://auth.example".to_owned(),
            audience: "warrengate".to_owned(),
            token_lifetime: Duration::from_secs(3600),
            leeway: Duration::from_secs(10),
            warn_before_expiry: Duration::from_secs(60),
            max_concurrent_secret_checks: 2,
            failed_logins_per_minute_per_client: 60,
            failed_logins_per_minute_per_address: 120,
            tokens_per_second_per_client: 20,
            issuers: Vec::new(),
        }
    }
}

/// Limits on what one peer may use.
#[derive(Debug, Clone)]
pub struct LimitsConfig {
    /// The largest gRPC message in bytes.
    pub max_message_bytes: usize,
    /// The maximum number of bytes that are buffered for all peers together; 0 is a quarter of the machine's memory.
    pub max_buffered_bytes: usize,
    /// The maximum number of streams on one HTTP/2 connection.
    pub max_streams_per_connection: u32,
    /// The maximum number of connections of each listener.
    pub max_connections: usize,
    /// The maximum number of connections from one address (an IPv6 /64) of each listener.
    pub max_connections_per_address: usize,
    /// The maximum number of connections from one address without an authenticated client.
    pub max_unauthenticated_connections_per_address: usize,
    /// Administrative calls of the clients of one tenant per second at one gateway; the burst after a pause is ten
    /// times as large.
    pub admin_calls_per_second_per_tenant: u32,
    /// How long a connection without a call is kept.
    pub idle_timeout: Duration,
    /// The maximum time for TLS and the HTTP/2 preface.
    pub handshake_timeout: Duration,
    /// How long a connection is kept until a client has authenticated on it.
    pub unauthenticated_timeout: Duration,
    /// The maximum time in which a unary request, or one frame of a stream, must arrive.
    pub request_timeout: Duration,
    /// How often a silent connection is sent a ping.
    pub keepalive_interval: Duration,
    /// The maximum time for the response.
    pub keepalive_timeout: Duration,
    /// How often a silent subscription is sent a heartbeat.
    pub heartbeat_interval: Duration,
    /// The maximum time for streams to end when the gateway stops.
    pub drain_deadline: Duration,
}

/// The format of logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `Human` on a terminal, `Json` otherwise.
    Auto,
    /// Text for people.
    Human,
    /// One JSON object per line.
    Json,
}

impl std::fmt::Display for LogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl LogFormat {
    /// The name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Human => "human",
            Self::Json => "json",
        }
    }
}

/// Logs and traces.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// The filter, as for `tracing`: `info`, `warrengate=debug,info`.
    pub log: String,
    /// The format of logs.
    pub log_format: LogFormat,
    /// The export of traces.
    pub traces: TracesConfig,
    /// The export of metrics.
    pub metrics: MetricsConfig,
}
