//! The settings in the form of the file, for `--print-config`: what is in force, defaults included, secrets left out.

use std::{fmt, path::Path};

use super::{Config, source::show};

const REDACTED: &str = "(redacted)";

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &str| toml::Value::from(text).to_string();
        let path = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
        let networks = |items: &[super::Network]| {
            toml::Value::from(items.iter().map(ToString::to_string).collect::<Vec<_>>()).to_string()
        };
        let list = |items: &[String]| toml::Value::from(items.to_vec()).to_string();

        writeln!(f, "[grpc]")?;
        writeln!(f, "listen = {}", text(&self.grpc.listen.to_string()))?;
        writeln!(f, "certificate = {}", path(&self.grpc.certificate))?;
        writeln!(f, "key = {}", path(&self.grpc.key))?;
        writeln!(f, "reflection = {}", self.grpc.reflection)?;
        writeln!(f, "cors_origins = {}", list(&self.grpc.cors_origins))?;

        writeln!(f, "trusted_proxies = {}", networks(&self.grpc.trusted_proxies))?;

        writeln!(f, "\n[ops]")?;
        writeln!(f, "listen = {}", text(&self.ops.listen.to_string()))?;
        for (name, file) in [("certificate", &self.ops.certificate), ("key", &self.ops.key)] {
            if let Some(file) = file {
                writeln!(f, "{name} = {}", path(file))?;
            }
        }

        let metrics = self.ops.metrics_listen.map(|address| address.to_string()).unwrap_or_default();
        writeln!(f, "metrics_listen = {}", text(&metrics))?;
        writeln!(f, "trusted_proxies = {}", networks(&self.ops.trusted_proxies))?;

        let endpoints: Vec<_> = self.broker.endpoints.iter().map(ToString::to_string).collect();
        writeln!(f, "\n[broker]")?;
        writeln!(f, "endpoints = {}", list(&endpoints))?;
        writeln!(f, "ca_certificate = {}", path(&self.broker.ca_certificate))?;
        writeln!(f, "ca_key = {}", path(&self.broker.ca_key))?;
        writeln!(f, "heartbeat = {}", text(&show(self.broker.heartbeat)))?;
        writeln!(f, "connect_timeout = {}", text(&show(self.broker.connect_timeout)))?;
        writeln!(f, "publish_deadline = {}", text(&show(self.broker.publish_deadline)))?;
        writeln!(f, "idle_timeout = {}", text(&show(self.broker.idle_timeout)))?;
        writeln!(f, "certificate_lifetime = {}", text(&show(self.broker.certificate_lifetime)))?;

        writeln!(f, "reconcile_interval = {}", text(&show(self.broker.reconcile_interval)))?;

        writeln!(f, "\n[management]")?;
        writeln!(f, "endpoints = {}", list(&self.management.endpoints))?;
        writeln!(f, "certificate = {}", path(&self.management.certificate))?;
        writeln!(f, "key = {}", path(&self.management.key))?;
        writeln!(f, "user = {}", text(&self.management.user))?;
        writeln!(f, "password = {}", text(REDACTED))?;

        writeln!(f, "\n[store]")?;
        writeln!(f, "url = {}", text(&self.store.location()))?;
        writeln!(f, "encryption_key = {}", text(REDACTED))?;

        writeln!(f, "outage_grace = {}", text(&show(self.store.outage_grace)))?;

        writeln!(f, "\n[audit]")?;
        writeln!(f, "retention = {}", text(&show(self.audit.retention)))?;
        writeln!(f, "max_refusals = {}", self.audit.max_refusals)?;

        writeln!(f, "\n[auth]")?;
        writeln!(f, "issuer = {}", text(&self.auth.issuer))?;
        writeln!(f, "audience = {}", text(&self.auth.audience))?;
        writeln!(f, "token_lifetime = {}", text(&show(self.auth.token_lifetime)))?;
        writeln!(f, "leeway = {}", text(&show(self.auth.leeway)))?;
        writeln!(f, "warn_before_expiry = {}", text(&show(self.auth.warn_before_expiry)))?;
        writeln!(f, "secret_checks_at_once = {}", self.auth.secret_checks_at_once)?;
        writeln!(f, "wrong_secrets_per_client = {}", self.auth.wrong_secrets_per_client)?;
        writeln!(f, "wrong_secrets_per_address = {}", self.auth.wrong_secrets_per_address)?;
        for issuer in &self.auth.issuers {
            write!(f, "{issuer}")?;
        }

        writeln!(f, "\n[limits]")?;
        writeln!(f, "max_message_bytes = {}", self.limits.max_message_bytes)?;
        writeln!(f, "max_buffered_bytes = {}", self.limits.max_buffered_bytes)?;
        writeln!(f, "max_streams_per_connection = {}", self.limits.max_streams_per_connection)?;
        writeln!(f, "max_connections = {}", self.limits.max_connections)?;
        writeln!(f, "max_connections_per_address = {}", self.limits.max_connections_per_address)?;
        writeln!(f, "idle_timeout = {}", text(&show(self.limits.idle_timeout)))?;
        writeln!(f, "unauthenticated_timeout = {}", text(&show(self.limits.unauthenticated_timeout)))?;
        writeln!(f, "request_timeout = {}", text(&show(self.limits.request_timeout)))?;
        writeln!(f, "handshake_timeout = {}", text(&show(self.limits.handshake_timeout)))?;
        writeln!(f, "keepalive_interval = {}", text(&show(self.limits.keepalive_interval)))?;
        writeln!(f, "keepalive_timeout = {}", text(&show(self.limits.keepalive_timeout)))?;
        writeln!(f, "heartbeat_interval = {}", text(&show(self.limits.heartbeat_interval)))?;
        writeln!(f, "drain_deadline = {}", text(&show(self.limits.drain_deadline)))?;

        writeln!(f, "\n[telemetry]")?;
        writeln!(f, "log = {}", text(&self.telemetry.log))?;
        writeln!(f, "log_format = {}", text(self.telemetry.log_format.as_str()))?;
        let traces = &self.telemetry.traces;
        if let Some(endpoint) = &traces.endpoint {
            writeln!(f, "otlp_traces_endpoint = {}", text(endpoint))?;
        }
        writeln!(f, "otlp_protocol = {}", text(traces.protocol.as_str()))?;
        writeln!(f, "otlp_timeout = {}", text(&show(traces.timeout)))?;
        writeln!(f, "sample_ratio = {:?}", traces.sample_ratio)?;
        let mut ratios: Vec<_> =
            traces.tenant_sample_ratios.iter().map(|(tenant, ratio)| format!("{tenant}={ratio}")).collect();
        ratios.sort();
        writeln!(f, "tenant_sample_ratios = {}", list(&ratios))?;
        writeln!(f, "service_name = {}", text(&traces.service_name))?;
        writeln!(f, "span_queue = {}", traces.queue)?;
        writeln!(f, "span_batch = {}", traces.batch)?;
        writeln!(f, "span_interval = {}", text(&show(traces.interval)))?;
        let metrics = &self.telemetry.metrics;
        if let Some(endpoint) = &metrics.endpoint {
            writeln!(f, "otlp_metrics_endpoint = {}", text(endpoint))?;
        }
        writeln!(f, "otlp_metrics_protocol = {}", text(metrics.protocol.as_str()))?;
        writeln!(f, "otlp_metrics_timeout = {}", text(&show(metrics.timeout)))?;
        writeln!(f, "metrics_interval = {}", text(&show(metrics.interval)))
    }
}

impl super::StoreConfig {
    /// Where the database is, without user, password and parameters.
    pub fn location(&self) -> String {
        use secrecy::ExposeSecret as _;
        let url = self.url.expose_secret();
        let url = url.split(['?', '#']).next().unwrap_or_default();
        match url.split_once("://") {
            // A password may hold an unescaped "@" or "/": only what follows the last "@" is shown.
            Some((scheme, rest)) if !scheme.starts_with("sqlite") => match rest.rsplit_once('@') {
                Some((_, place)) => format!("{scheme}://{REDACTED}@{place}"),
                None => format!("{scheme}://{rest}"),
            },
            _ => url.to_owned(),
        }
    }
}
