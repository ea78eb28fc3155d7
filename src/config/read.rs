//! The table of all settings: every key with its default and its bounds, section by section. `types.rs` documents the
//! values, `docs/warrengate.example.toml` the keys.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{
    AuditConfig, AuthConfig, BrokerConfig, Config, Endpoint, GrpcConfig, LimitsConfig, LogFormat, ManagementConfig,
    Network, OpsConfig, StoreConfig, TelemetryConfig, console, issuers, metrics, source::Source, traces,
};
use crate::{memory, units::format_size};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn config(source: &mut Source) -> Config {
    let grpc = grpc(source);
    let ops = ops(source);
    let auth = auth(source, &ops);
    let console = console::read(source, &auth.issuers);
    Config {
        broker: broker(source),
        management: management(source),
        store: store(source),
        audit: audit(source),
        auth,
        limits: limits(source),
        telemetry: telemetry(source),
        grpc,
        ops,
        console,
    }
}

fn listen(source: &mut Source, key: &'static str, port: u16) -> SocketAddr {
    source.parsed(key, (Ipv4Addr::LOCALHOST, port).into(), |text| {
        text.parse()
            .map_err(|_| format!("must be an address and a port, for example \"127.0.0.1:{port}\" or \"[::]:{port}\""))
    })
}

fn grpc(source: &mut Source) -> GrpcConfig {
    let cors_origins = source.list("grpc.cors_origins");
    for origin in &cors_origins {
        let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        if host.is_none_or(|host| host.is_empty() || host.contains('/')) {
            source.error(
                "grpc.cors_origins",
                Some(origin.clone()),
                "must be origins such as \"https://app.example\", without a path; \"*\" is not supported",
            );
        }
    }
    GrpcConfig {
        listen: listen(source, "grpc.listen", 8443),
        certificate: source.required_path(
            "grpc.certificate",
            "the gateway's certificate chain (PEM); `warrengate certs create` creates one",
        ),
        key: source.required_path("grpc.key", "the private key of grpc.certificate (PEM)"),
        reflection: source.boolean("grpc.reflection", true),
        cors_origins,
        trusted_proxies: networks(source, "grpc.trusted_proxies"),
    }
}

pub(super) fn networks(source: &mut Source, key: &'static str) -> Vec<Network> {
    let mut networks = Vec::new();
    for text in source.list(key) {
        match text.parse() {
            Ok(network) => networks.push(network),
            Err(()) => source.error(key, Some(text), "must be addresses or networks, for example \"10.0.0.0/8\""),
        }
    }
    networks
}

fn ops(source: &mut Source) -> OpsConfig {
    let ops = OpsConfig {
        listen: listen(source, "ops.listen", 8080),
        metrics_listen: metrics_listen(source),
        certificate: source.path("ops.certificate"),
        key: source.path("ops.key"),
        trusted_proxies: networks(source, "ops.trusted_proxies"),
    };
    if ops.certificate.is_some() != ops.key.is_some() {
        source.error("ops.certificate", None, "and ops.key must be set together");
    } else if ops.certificate.is_none() {
        let addresses = [("listen", Some(ops.listen)), ("metrics_listen", ops.metrics_listen)];
        for (name, address) in addresses {
            if let Some(address) = address.filter(|address| !address.ip().is_loopback()) {
                source.error(
                    "ops.certificate",
                    None,
                    format!(
                        "is required (with ops.key), because ops.{name} = {address} can be reached from outside and secrets \
                         are sent to it"
                    ),
                );
            }
        }
    }
    ops
}

fn metrics_listen(source: &mut Source) -> Option<SocketAddr> {
    const KEY: &str = "ops.metrics_listen";
    let text = source.text_or(KEY, "");
    if text.is_empty() {
        return None;
    }
    let address = text.parse().ok();
    if address.is_none() {
        let what = "must be an address and a port, for example \"127.0.0.1:9090\", or empty for none";
        source.error(KEY, Some(text), what);
    }
    address
}

fn endpoints(source: &mut Source) -> Vec<Endpoint> {
    const KEY: &str = "broker.endpoints";
    let texts = source.list(KEY);
    if texts.is_empty() && !source.is_given(KEY) {
        source.error(KEY, None, "is required: the broker's nodes, for example [\"rabbit-1.internal:5671\"]");
    }
    let mut endpoints = Vec::new();
    for text in texts {
        match endpoint(&text) {
            Some(endpoint) => endpoints.push(endpoint),
            None => source.error(KEY, Some(text), "must be \"host:port\", for example \"rabbit-1.internal:5671\""),
        }
    }
    endpoints
}

fn endpoint(text: &str) -> Option<Endpoint> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').filter(|address| address.contains(':'))?,
        None => host,
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let plain = !host.is_empty() && host.chars().all(is_name) && (text.starts_with('[') || !host.contains(':'));
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    plain.then(|| Endpoint { host: host.to_owned(), port })
}

fn broker(source: &mut Source) -> BrokerConfig {
    BrokerConfig {
        endpoints: endpoints(source),
        ca_certificate: source.required_path(
            "broker.ca_certificate",
            "the CA that signed the broker's certificate and signs the tenants' (PEM)",
        ),
        ca_key: source.required_path("broker.ca_key", "the private key of broker.ca_certificate (PEM)"),
        heartbeat: Duration::from_secs(source.duration("broker.heartbeat", 5 * SECOND, SECOND, 5 * MINUTE).as_secs()),
        connect_timeout: source.duration("broker.connect_timeout", 5 * SECOND, SECOND / 10, MINUTE),
        publish_deadline: source.duration("broker.publish_deadline", 30 * SECOND, SECOND, 10 * MINUTE),
        idle_timeout: source.duration("broker.idle_timeout", MINUTE, SECOND, 24 * HOUR),
        certificate_lifetime: source.duration("broker.certificate_lifetime", 24 * HOUR, 5 * MINUTE, 365 * 24 * HOUR),
        reconcile_interval: source.duration("broker.reconcile_interval", 10 * MINUTE, SECOND, 30 * 24 * HOUR),
    }
}

fn management(source: &mut Source) -> ManagementConfig {
    const KEY: &str = "management.endpoints";
    let endpoints = source.list(KEY);
    if endpoints.is_empty() && !source.is_given(KEY) {
        source.error(
            KEY,
            None,
            "is required: the management API's addresses, for example [\"https://rabbit-1.internal:15671\"]",
        );
    }
    for url in &endpoints {
        let rest = url.strip_prefix("https://").unwrap_or_default().trim_end_matches('/');
        if endpoint(rest).is_none() {
            source.error(KEY, Some(url.clone()), "must be \"https://host:port\"; plain http is not supported");
        }
    }
    ManagementConfig {
        endpoints: endpoints.into_iter().map(|url| url.trim_end_matches('/').to_owned()).collect(),
        certificate: source.required_path("management.certificate", "the provisioner's client certificate (PEM)"),
        key: source.required_path("management.key", "the private key of management.certificate (PEM)"),
        user: source.text_or("management.user", "wg-provisioner"),
        password: source.secret_or_file("management.password", "management.password_file"),
        password_file: source.path("management.password_file"),
    }
}

fn store(source: &mut Source) -> StoreConfig {
    use secrecy::ExposeSecret as _;
    let url = source.secret_or("store.url", "sqlite:warrengate.db", location);
    if !["sqlite:", "postgres://", "postgresql://"].iter().any(|scheme| url.expose_secret().starts_with(scheme)) {
        source.error("store.url", None, "must be \"sqlite:<path>\" or \"postgres://user:password@host/database\"");
    }
    StoreConfig {
        url,
        encryption_key: source.secret_or_file("store.encryption_key", "store.encryption_key_file"),
        encryption_key_file: source.path("store.encryption_key_file"),
        outage_grace: source.duration("store.outage_grace", 15 * MINUTE, SECOND, 24 * HOUR),
    }
}

fn audit(source: &mut Source) -> AuditConfig {
    AuditConfig {
        retention: source.duration("audit.retention", 90 * 24 * HOUR, HOUR, 3650 * 24 * HOUR),
        max_refusals: source.number("audit.max_refusals", 500_000, 1_000, 1_000_000_000),
    }
}

fn auth(source: &mut Source, ops: &OpsConfig) -> AuthConfig {
    let scheme = if ops.certificate.is_some() { "https" } else { "http" };
    let issuer = if ops.listen.ip().is_loopback() {
        // Correct only for clients on this machine, but other clients cannot reach a loopback address.
        source.text_or("auth.issuer", format!("{scheme}://{}", ops.listen))
    } else {
        source.required(
            "auth.issuer",
            "the address at which clients reach the operations listener, for example \"https://auth.example\"; the same for all \
             gateways of one store",
        )
    };
    let issuer = issuer.trim_end_matches('/').to_owned();
    let rest = issuer.strip_prefix("https://").or_else(|| issuer.strip_prefix("http://"));
    if !issuer.is_empty() && rest.is_none_or(|rest| rest.is_empty() || rest.contains(['?', '#', ' '])) {
        source.error("auth.issuer", Some(issuer.clone()), "must be an http or https address without \"?\" and \"#\"");
    }
    let audience = source.text_or("auth.audience", "warrengate");
    if audience.trim().is_empty() {
        source.error("auth.audience", Some(audience.clone()), "must not be blank");
    }
    AuthConfig {
        issuers: issuers::read(source, &issuer, &audience),
        issuer,
        audience,
        token_lifetime: source.duration("auth.token_lifetime", HOUR, MINUTE, 24 * HOUR),
        leeway: source.duration("auth.leeway", 10 * SECOND, Duration::ZERO, 30 * SECOND),
        warn_before_expiry: source.duration("auth.warn_before_expiry", MINUTE, SECOND, HOUR),
        max_concurrent_secret_checks: whole(source.number("auth.max_concurrent_secret_checks", 0, 0, 64)),
        failed_logins_per_minute_per_client: count(source, "auth.failed_logins_per_minute_per_client", 60),
        failed_logins_per_minute_per_address: count(source, "auth.failed_logins_per_minute_per_address", 120),
        tokens_per_second_per_client: count(source, "auth.tokens_per_second_per_client", 20),
    }
}

fn limits(source: &mut Source) -> LimitsConfig {
    let max_message_bytes = whole(source.size("limits.max_message_bytes", 4_000_000, 1 << 10, 16 << 20));
    LimitsConfig {
        max_message_bytes,
        max_buffered_bytes: max_buffered_bytes(source, max_message_bytes),
        max_streams_per_connection: u32::try_from(source.number("limits.max_streams_per_connection", 1_000, 1, 10_000))
            .unwrap_or(u32::MAX),
        max_connections: whole(source.number("limits.max_connections", 10_000, 1, 1_000_000)),
        max_connections_per_address: whole(source.number("limits.max_connections_per_address", 2_000, 1, 1_000_000)),
        max_unauthenticated_connections_per_address: whole(source.number(
            "limits.max_unauthenticated_connections_per_address",
            400,
            1,
            1_000_000,
        )),
        admin_calls_per_second_per_tenant: count(source, "limits.admin_calls_per_second_per_tenant", 10),
        idle_timeout: source.duration("limits.idle_timeout", HOUR, SECOND, 30 * 24 * HOUR),
        handshake_timeout: source.duration("limits.handshake_timeout", 5 * SECOND, SECOND / 10, MINUTE),
        unauthenticated_timeout: source.duration("limits.unauthenticated_timeout", 10 * SECOND, SECOND, HOUR),
        request_timeout: source.duration("limits.request_timeout", 30 * SECOND, SECOND, 10 * MINUTE),
        keepalive_interval: source.duration("limits.keepalive_interval", 15 * SECOND, SECOND, HOUR),
        keepalive_timeout: source.duration("limits.keepalive_timeout", 10 * SECOND, SECOND, 5 * MINUTE),
        heartbeat_interval: source.duration("limits.heartbeat_interval", 15 * SECOND, SECOND, HOUR),
        drain_deadline: source.duration("limits.drain_deadline", 20 * SECOND, Duration::ZERO, 10 * MINUTE),
    }
}

/// 0 for the default, or enough for one stream with the largest messages.
fn max_buffered_bytes(source: &mut Source, max_message_bytes: usize) -> usize {
    const KEY: &str = "limits.max_buffered_bytes";
    let bytes = source.size(KEY, 0, 0, 1 << 42);
    let min = memory::min_limit(max_message_bytes) as u64;
    if bytes != 0 && bytes < min {
        let what = format!(
            "must be at least {} (64 MiB, and 16 times limits.max_message_bytes), or 0 for a quarter of the memory",
            format_size(min)
        );
        source.error(KEY, Some(format_size(bytes)), what);
    }
    whole(bytes)
}

/// The location of a database: its URL without user, password and parameters.
fn location(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        // A password may contain an unescaped "@" or "/", so only what follows the last "@" is shown.
        Some((scheme, rest)) if !scheme.starts_with("sqlite") => match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}://(redacted)@{host}"),
            None => format!("{scheme}://{rest}"),
        },
        _ => url.to_owned(),
    }
}

impl StoreConfig {
    /// The location of the database, without user, password and parameters.
    pub fn location(&self) -> String {
        use secrecy::ExposeSecret as _;
        location(self.url.expose_secret())
    }
}

fn count(source: &mut Source, key: &'static str, default: u64) -> u32 {
    u32::try_from(source.number(key, default, 1, 1_000_000)).unwrap_or(u32::MAX)
}

fn whole(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn telemetry(source: &mut Source) -> TelemetryConfig {
    let traces = traces::read(source);
    TelemetryConfig {
        log: source.text_or("telemetry.log", "info"),
        log_format: source.parsed("telemetry.log_format", LogFormat::Auto, |text| match text {
            "auto" => Ok(LogFormat::Auto),
            "human" => Ok(LogFormat::Human),
            "json" => Ok(LogFormat::Json),
            _ => Err("must be \"auto\", \"human\" or \"json\"".to_owned()),
        }),
        metrics: metrics::read(source, traces.protocol, traces.timeout),
        traces,
    }
}

/// A file in a setting.
pub(super) struct NamedFile {
    pub(super) key: &'static str,
    pub(super) path: PathBuf,
    pub(super) is_secret: bool,
}

impl Config {
    /// The files that must exist before a gateway can start.
    pub(super) fn files(&self) -> Vec<NamedFile> {
        let public = |key, path: &PathBuf| NamedFile { key, path: path.clone(), is_secret: false };
        let secret = |key, path: &PathBuf| NamedFile { key, path: path.clone(), is_secret: true };
        let mut files = vec![
            public("grpc.certificate", &self.grpc.certificate),
            secret("grpc.key", &self.grpc.key),
            public("broker.ca_certificate", &self.broker.ca_certificate),
            secret("broker.ca_key", &self.broker.ca_key),
            public("management.certificate", &self.management.certificate),
            secret("management.key", &self.management.key),
        ];
        files.extend(self.management.password_file.iter().map(|path| secret("management.password_file", path)));
        files.extend(self.store.encryption_key_file.iter().map(|path| secret("store.encryption_key_file", path)));
        files.extend(self.ops.certificate.iter().map(|path| public("ops.certificate", path)));
        files.extend(self.ops.key.iter().map(|path| secret("ops.key", path)));
        files.extend(self.console.certificate.iter().map(|path| public("console.certificate", path)));
        files.extend(self.console.key.iter().map(|path| secret("console.key", path)));
        files.extend(self.console.session_key_file.iter().map(|path| secret("console.session_key_file", path)));
        let sign_in_secret = self.console.sign_in.iter().flat_map(|sign_in| &sign_in.client_secret_file);
        files.extend(sign_in_secret.map(|path| secret("console.sign_in.client_secret_file", path)));
        files.extend(self.auth.issuers.iter().flat_map(|issuer| issuer.files()).map(|(key, path)| public(key, path)));
        files
    }
}
