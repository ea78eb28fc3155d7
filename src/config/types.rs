//! The settings as the other rooms see them: plain valid data, no live objects. `docs/warrengate.example.toml` says the
//! same in prose, with every default.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use secrecy::SecretString;

use super::{IssuerConfig, MetricsConfig, Network, TracesConfig};

/// All settings of a gateway.
#[derive(Debug, Clone)]
pub struct Config {
    /// The tenants' door.
    pub grpc: GrpcConfig,
    /// The operators' door.
    pub ops: OpsConfig,
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
    /// Bounds on what one peer may use.
    pub limits: LimitsConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}

/// The tenants' door: gRPC over TLS.
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
    /// Origins whose pages may call by gRPC-Web; none: no browser may.
    pub cors_origins: Vec<String>,
    /// Load balancers whose connections begin with a PROXY protocol header.
    pub trusted_proxies: Vec<Network>,
}

/// The operators' door: HTTP for metrics, probes, keys and tokens.
#[derive(Debug, Clone)]
pub struct OpsConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where metrics and probes are served instead, with the same certificate; the probes are served on both.
    pub metrics_listen: Option<SocketAddr>,
    /// The server's certificate chain, PEM. Always there when `listen` is not loopback.
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM. There exactly when `certificate` is.
    pub key: Option<PathBuf>,
    /// Load balancers whose connections begin with a PROXY protocol header.
    pub trusted_proxies: Vec<Network>,
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
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How long a publish is tried before its outcome is unknown.
    pub publish_deadline: Duration,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// How long a tenant's certificate is valid.
    pub certificate_lifetime: Duration,
    /// How often all tenants are compared with what they should have at the broker.
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
    /// Its password, as it was when the gateway started.
    pub password: SecretString,
    /// The file that holds it, where it may change; two lines, the next one and the last, while it does.
    pub password_file: Option<PathBuf>,
}

/// The database.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// `sqlite:<path>` or `postgres://...`; may hold a password.
    pub url: SecretString,
    /// What signing keys are sealed with: 32 bytes in base64.
    pub encryption_key: SecretString,
    /// How long known tenants and clients are let in while the database is away.
    pub outage_grace: Duration,
}

/// The audit trail.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// How long events are kept.
    pub retention: Duration,
    /// How many rows of refusals are kept at most, the newest ones; acts are kept for all of `retention`.
    pub max_refusals: u64,
}

/// Tokens.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// The `iss` of tokens, and the base of the discovery document's URLs; no slash at its end.
    pub issuer: String,
    /// The `aud` of tokens.
    pub audience: String,
    /// The longest life of a token, and the usual one.
    pub token_lifetime: Duration,
    /// How far clocks may differ; at most 30 s.
    pub leeway: Duration,
    /// How long before its token ends a stream is warned.
    pub warn_before_expiry: Duration,
    /// How many secrets are checked at the same time (each needs 19 MiB and a core); 0 is half of the machine's cores.
    pub secret_checks_at_once: usize,
    /// Wrong secrets that are looked at in a minute for one client, half of them at once.
    pub wrong_secrets_per_client: u32,
    /// The same for one address (an IPv6 /64).
    pub wrong_secrets_per_address: u32,
    /// Issuers whose tokens are believed beside our own.
    pub issuers: Vec<IssuerConfig>,
}

#[cfg(test)]
impl AuditConfig {
    /// Usual values, for unit tests.
    pub(crate) fn for_test() -> Self {
        Self { retention: Duration::from_secs(3600), max_refusals: 1_000 }
    }
}

#[cfg(test)]
impl AuthConfig {
    /// Usual values, for unit tests.
    pub(crate) fn for_test() -> Self {
        Self {
            issuer: "https://auth.example".to_owned(),
            audience: "warrengate".to_owned(),
            token_lifetime: Duration::from_secs(3600),
            leeway: Duration::from_secs(10),
            warn_before_expiry: Duration::from_secs(60),
            secret_checks_at_once: 2,
            wrong_secrets_per_client: 60,
            wrong_secrets_per_address: 120,
            issuers: Vec::new(),
        }
    }
}

/// Bounds on what one peer may use.
#[derive(Debug, Clone)]
pub struct LimitsConfig {
    /// Bytes of one gRPC message.
    pub max_message_bytes: usize,
    /// Bytes that are buffered for all peers together; 0 is a quarter of the machine's memory.
    pub max_buffered_bytes: usize,
    /// Streams of one HTTP/2 connection.
    pub max_streams_per_connection: u32,
    /// Connections in all, on each side.
    pub max_connections: usize,
    /// Connections of one address (an IPv6 /64), on each side.
    pub max_connections_per_address: usize,
    /// How long a connection is kept on which no call runs.
    pub idle_timeout: Duration,
    /// How long TLS and the HTTP/2 preface may take.
    pub handshake_timeout: Duration,
    /// How long a connection is kept on which no call with a token runs.
    pub unauthenticated_timeout: Duration,
    /// How long a unary request, or one frame of a stream, may take to arrive.
    pub request_timeout: Duration,
    /// How often a silent connection is asked whether it lives.
    pub keepalive_interval: Duration,
    /// How long it may take to answer.
    pub keepalive_timeout: Duration,
    /// How often a silent subscription gets a heartbeat.
    pub heartbeat_interval: Duration,
    /// How long streams may take to end when the gateway stops.
    pub drain_deadline: Duration,
}

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// A JSON object a line.
    Json,
}

impl LogFormat {
    /// As it is written in the configuration.
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
    /// What is logged, as `tracing` filters are written: `info`, `warrengate=debug,info`.
    pub log: String,
    /// How logs look.
    pub log_format: LogFormat,
    /// Where traces go.
    pub traces: TracesConfig,
    /// Where metrics go beside the ops side.
    pub metrics: MetricsConfig,
}
